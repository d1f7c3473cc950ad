//! SentencePiece BPE by score, with byte fallback (Kudo & Richardson 2018; llama.cpp's `llm_tokenizer_spm`).

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashMap};

use super::Kind;

/// The algorithm over a vocabulary.
#[derive(Debug)]
pub(super) struct Spm {
    ids: HashMap<String, u32>,
    scores: Vec<f32>,
    bytes: [Option<u32>; 256],
    space_prefix: bool,
}

/// Two neighbours that may become one.
#[derive(PartialEq)]
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    len: usize,
}

impl Eq for Pair {}

impl Ord for Pair {
    /// The best score first, then the leftmost.
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(other.left.cmp(&self.left))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// A stretch of the text in a linked list.
struct Symbol {
    start: usize,
    len: usize,
    previous: Option<usize>,
    next: Option<usize>,
}

impl Spm {
    pub(super) fn new(tokens: &[String], scores: Vec<f32>, kinds: &[Kind], space_prefix: bool) -> Self {
        let mut ids = HashMap::with_capacity(tokens.len());
        let mut bytes = [None; 256];
        for ((id, token), kind) in (0u32..).zip(tokens).zip(kinds) {
            match (kind, byte(token)) {
                (Kind::Byte, Some(b)) => bytes[usize::from(b)] = Some(id),
                (Kind::Normal, _) => {
                    ids.entry(token.clone()).or_insert(id);
                }
                _ => {}
            }
        }
        Self { ids, scores, bytes, space_prefix }
    }

    /// `first`: the text begins the prompt or follows a special token, so a space goes before it.
    pub(super) fn encode(&self, text: &str, first: bool, ids: &mut Vec<u32>) {
        let prefix = if first && self.space_prefix { " " } else { "" };
        let text = format!("{prefix}{text}").replace(' ', "▁");
        let mut symbols: Vec<Symbol> = text
            .char_indices()
            .enumerate()
            .map(|(i, (start, c))| Symbol { start, len: c.len_utf8(), previous: i.checked_sub(1), next: Some(i + 1) })
            .collect();
        if let Some(last) = symbols.last_mut() {
            last.next = None;
        }
        let mut queue = BinaryHeap::new();
        for right in 1..symbols.len() {
            self.propose(&text, &symbols, Some(right - 1), Some(right), &mut queue);
        }
        while let Some(pair) = queue.pop() {
            let (left, right) = (&symbols[pair.left], &symbols[pair.right]);
            // A symbol that was merged since then has another length.
            if left.len == 0 || right.len == 0 || left.len + right.len != pair.len {
                continue;
            }
            let (previous, next) = (left.previous, right.next);
            symbols[pair.left].len = pair.len;
            symbols[pair.left].next = next;
            symbols[pair.right].len = 0;
            if let Some(next) = next {
                symbols[next].previous = Some(pair.left);
            }
            self.propose(&text, &symbols, previous, Some(pair.left), &mut queue);
            self.propose(&text, &symbols, Some(pair.left), next, &mut queue);
        }
        for symbol in symbols.iter().filter(|s| s.len > 0) {
            let piece = &text[symbol.start..symbol.start + symbol.len];
            match self.ids.get(piece) {
                Some(id) => ids.push(*id),
                None => ids.extend(piece.bytes().filter_map(|b| self.bytes[usize::from(b)])),
            }
        }
    }

    fn propose(
        &self,
        text: &str,
        symbols: &[Symbol],
        left: Option<usize>,
        right: Option<usize>,
        queue: &mut BinaryHeap<Pair>,
    ) {
        let (Some(left), Some(right)) = (left, right) else { return };
        let len = symbols[left].len + symbols[right].len;
        let start = symbols[left].start;
        if let Some(id) = self.ids.get(&text[start..start + len]) {
            queue.push(Pair { score: self.scores[*id as usize], left, right, len });
        }
    }
}

/// The byte of a token `<0xAB>`.
fn byte(token: &str) -> Option<u8> {
    u8::from_str_radix(token.strip_prefix("<0x")?.strip_suffix('>')?, 16).ok()
}

/// The bytes of a token.
pub(super) fn piece(token: &str, is_byte: bool) -> Vec<u8> {
    match (is_byte, byte(token)) {
        (true, Some(b)) => vec![b],
        _ => token.replace('▁', " ").into_bytes(),
    }
}
