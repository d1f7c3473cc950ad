//! BPE by rank: byte-level with a pre-tokenizer (GPT-2, Radford et al. 2019), or over characters with byte fallback (Gemma 4).

use std::collections::HashMap;
use std::sync::LazyLock;

use super::merge::{Piece, merge, pieces};
use super::pre::Splitter;
use super::vocabulary::Vocabulary;
use super::{TokenizerError, Warning, bytes_of};

/// How a text becomes the symbols that merges begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alphabet {
    /// One printable character per byte.
    Bytes,
    /// The characters themselves, a space as U+2581; what is no token becomes tokens `<0xAB>`.
    Characters,
}

/// The algorithm over a vocabulary.
#[derive(Debug)]
pub(super) struct Bpe {
    alphabet: Alphabet,
    splitter: Splitter,
    /// Every text that is a token or takes part in a merge.
    symbols: HashMap<Box<[u8]>, u32>,
    /// The token that a symbol is.
    tokens: Vec<Option<u32>>,
    /// Rank and result of two neighbours.
    merges: HashMap<(u32, u32), (u32, u32)>,
    bytes: Box<[Option<u32>; 256]>,
    unknown: Option<u32>,
}

impl Bpe {
    /// Merges are `LEFT RIGHT`, the most important first; the first of two equal ones counts.
    pub(super) fn new(
        vocabulary: &Vocabulary<'_>,
        merges: &[&[u8]],
        alphabet: Alphabet,
        splitter: Splitter,
        unknown: Option<u32>,
        warnings: &mut Vec<Warning>,
    ) -> Self {
        let bytes = match alphabet {
            Alphabet::Characters => vocabulary.bytes(),
            Alphabet::Bytes => {
                Box::new(std::array::from_fn(|b| vocabulary.id(LETTERS[b].encode_utf8(&mut [0; 4]).as_bytes())))
            }
        };
        let (symbols, tokens, table) = (HashMap::new(), Vec::new(), HashMap::new());
        let mut bpe = Self { alphabet, splitter, symbols, tokens, merges: table, bytes, unknown };
        for (&text, &id) in &vocabulary.ids {
            let symbol = bpe.symbol(text);
            bpe.tokens[symbol as usize] = Some(id);
        }
        if alphabet == Alphabet::Bytes {
            for letter in &*LETTERS {
                bpe.symbol(letter.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        let mut outside: Option<(usize, &[u8])> = None;
        for (rank, merge) in (0u32..).zip(merges) {
            // The left part may begin with a space where characters stand for themselves.
            let space = merge.iter().skip(1).position(|b| *b == b' ').map(|at| at + 1);
            let (left, right) = space.map_or((*merge, &[][..]), |at| (&merge[..at], &merge[at + 1..]));
            let whole = [left, right].concat();
            if vocabulary.id(&whole).is_none() || right.is_empty() {
                outside = Some((outside.map_or(1, |(n, _)| n + 1), outside.map_or(*merge, |(_, first)| first)));
            }
            if !right.is_empty() {
                let pair = (bpe.symbol(left), bpe.symbol(right));
                let result = bpe.symbol(&whole);
                bpe.merges.entry(pair).or_insert((rank, result));
            }
        }
        if let Some((count, first)) = outside {
            let example = String::from_utf8_lossy(first).into_owned();
            warnings.push(Warning::MergesOutside { count, example });
        }
        bpe
    }

    fn symbol(&mut self, text: &[u8]) -> u32 {
        if let Some(symbol) = self.symbols.get(text) {
            return *symbol;
        }
        let symbol = self.tokens.len() as u32;
        self.symbols.insert(text.into(), symbol);
        self.tokens.push(None);
        symbol
    }

    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let escaped;
        let text = match self.alphabet {
            Alphabet::Bytes => text,
            Alphabet::Characters => {
                escaped = text.replace(' ', "▁");
                &escaped
            }
        };
        for word in self.splitter.split(text)? {
            self.encode_word(&text[word], ids)?;
        }
        Ok(())
    }

    fn encode_word(&self, word: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        if self.splitter.whole_words(word)
            && let Some(id) = self.whole(word)
        {
            ids.push(id);
            return Ok(());
        }
        let mut parts = self.start(word);
        merge(&mut parts, |a, b| self.merges.get(&(a.symbol, b.symbol)).copied());
        for part in &parts {
            match self.tokens.get(part.symbol as usize) {
                Some(Some(id)) => ids.push(*id),
                _ => bytes_of(&word.as_bytes()[part.start..part.end], &self.bytes, self.unknown, ids)?,
            }
        }
        Ok(())
    }

    /// The token that a word is as it stands.
    fn whole(&self, word: &str) -> Option<u32> {
        let letters: String;
        let text = match self.alphabet {
            Alphabet::Characters => word,
            Alphabet::Bytes => {
                letters = word.bytes().map(|b| LETTERS[usize::from(b)]).collect();
                &letters
            }
        };
        self.symbols.get(text.as_bytes()).and_then(|symbol| self.tokens[*symbol as usize])
    }

    fn start(&self, word: &str) -> Vec<Piece> {
        let symbol = |text: &str| self.symbols.get(text.as_bytes()).copied().unwrap_or(u32::MAX);
        match self.alphabet {
            Alphabet::Bytes => pieces(word.bytes().enumerate().map(|(i, b)| {
                let letter = LETTERS[usize::from(b)];
                (i, i + 1, symbol(letter.encode_utf8(&mut [0; 4])))
            })),
            Alphabet::Characters => pieces(word.char_indices().map(|(i, c)| {
                let end = i + c.len_utf8();
                (i, end, symbol(&word[i..end]))
            })),
        }
    }
}

/// GPT-2's printable character for each byte: printable Latin-1 for itself, the rest from U+0100 on.
static LETTERS: LazyLock<[char; 256]> = LazyLock::new(|| {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut others = (0x100u32..).filter_map(char::from_u32);
    std::array::from_fn(|i| {
        let b = i as u8;
        if printable(b) { char::from(b) } else { others.next().unwrap_or(char::REPLACEMENT_CHARACTER) }
    })
});

/// The byte that each of those characters stands for.
static BYTES: LazyLock<HashMap<char, u8>> =
    LazyLock::new(|| (0u8..=255).map(|b| (LETTERS[usize::from(b)], b)).collect());

/// The bytes of a byte-level token; what is outside the alphabet stands for itself.
pub(super) fn piece(token: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(token.len());
    for chunk in token.utf8_chunks() {
        for c in chunk.valid().chars() {
            match BYTES.get(&c) {
                Some(b) => out.push(*b),
                None => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        out.extend(chunk.invalid());
    }
    out
}
