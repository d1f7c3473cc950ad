//! SentencePiece BPE by score, with byte fallback (Kudo & Richardson 2018; llama.cpp's `llm_tokenizer_spm`).

use std::cmp::Reverse;
use std::collections::HashMap;

use super::merge::{merge, pieces};
use super::vocabulary::{Kind, Vocabulary};
use super::{TokenizerError, bytes_of};

/// The algorithm over a vocabulary.
#[derive(Debug)]
pub(super) struct Spm {
    /// Token and rank of a text; a higher score is a lower rank.
    tokens: HashMap<Box<[u8]>, (u32, Reverse<i32>, bool)>,
    bytes: Box<[Option<u32>; 256]>,
    unknown: Option<u32>,
    space_prefix: bool,
}

impl Spm {
    pub(super) fn new(vocabulary: &Vocabulary<'_>, unknown: Option<u32>, space_prefix: bool) -> Self {
        let entry = |(&text, &id): (&&[u8], &u32)| {
            let hidden = matches!(vocabulary.kinds[id as usize], Kind::Control | Kind::Unknown);
            (text.into(), (id, Reverse(ordered(vocabulary.scores[id as usize])), hidden))
        };
        let tokens = vocabulary.ids.iter().map(entry).collect();
        Self { tokens, bytes: vocabulary.bytes(), unknown, space_prefix }
    }

    /// `first`: the text begins the prompt or follows a special token, so a space goes before it. `special`: merges may end in
    /// control tokens.
    pub(super) fn encode(
        &self,
        text: &str,
        first: bool,
        special: bool,
        ids: &mut Vec<u32>,
    ) -> Result<(), TokenizerError> {
        let prefix = if first && self.space_prefix { " " } else { "" };
        let text = format!("{prefix}{text}").replace(' ', "▁");
        let mut parts = pieces(text.char_indices().map(|(i, c)| (i, i + c.len_utf8(), 0)));
        let find = |start: usize, end: usize| {
            self.tokens.get(&text.as_bytes()[start..end]).filter(|(_, _, hidden)| special || !hidden)
        };
        merge(&mut parts, |a, b| find(a.start, b.end).map(|&(id, score, _)| (score, id)));
        for part in &parts {
            match find(part.start, part.end) {
                Some((id, ..)) => ids.push(*id),
                None => bytes_of(&text.as_bytes()[part.start..part.end], &self.bytes, self.unknown, ids)?,
            }
        }
        Ok(())
    }
}

/// An integer that orders as the number does.
fn ordered(score: f32) -> i32 {
    let bits = (score + 0.0).to_bits().cast_signed();
    bits ^ ((bits >> 31).cast_unsigned() >> 1).cast_signed()
}

/// The byte of a token `<0xAB>`.
fn byte(token: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(token.strip_prefix(b"<0x")?.strip_suffix(b">")?).ok()?, 16).ok()
}

/// The bytes of a token.
pub(super) fn piece(token: &[u8], is_byte: bool) -> Vec<u8> {
    if let (true, Some(b)) = (is_byte, byte(token)) {
        return vec![b];
    }
    let mut out = Vec::with_capacity(token.len());
    for chunk in token.utf8_chunks() {
        out.extend(chunk.valid().replace('▁', " ").as_bytes());
        out.extend(chunk.invalid());
    }
    out
}
