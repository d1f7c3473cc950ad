//! Special tokens in a text, found in linear time.

use aho_corasick::{AhoCorasick, MatchKind};

use super::TokenizerError;
use super::vocabulary::{Kind, Vocabulary};

/// The texts of control, unknown and user-defined tokens.
#[derive(Debug)]
pub(super) struct Specials {
    automaton: Option<AhoCorasick>,
    tokens: Vec<Special>,
}

#[derive(Debug)]
struct Special {
    id: u32,
    /// Bytes of its text.
    length: usize,
    /// Found in plain text, too.
    always: bool,
    /// White space behind it is dropped.
    strips: bool,
}

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part<'t> {
    /// Text without special tokens.
    Text(&'t str),
    /// A special token.
    Token(u32),
}

/// What a byte of the text belongs to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    Text,
    Token,
    Dropped,
}

impl Specials {
    /// `strips` tells the tokens that drop white space behind them.
    pub(super) fn new(vocabulary: &Vocabulary<'_>, strips: impl Fn(&str) -> bool) -> Result<Self, TokenizerError> {
        let special = |kind| matches!(kind, Kind::Control | Kind::Unknown | Kind::UserDefined);
        // Texts are UTF-8: what is not cannot be found.
        let mut found: Vec<(&str, u32)> = vocabulary
            .ids
            .iter()
            .filter(|(_, id)| special(vocabulary.kinds[**id as usize]))
            .filter_map(|(text, id)| Some((std::str::from_utf8(text).ok()?, *id)))
            .collect();
        // The longest first, then the lowest id: the order in which llama.cpp looks for them.
        found.sort_by_key(|(text, id)| (std::cmp::Reverse(text.len()), *id));
        let automaton = match found.is_empty() {
            true => None,
            false => Some(
                AhoCorasick::builder()
                    .match_kind(MatchKind::Standard)
                    .build(found.iter().map(|(text, _)| text))
                    .map_err(|e| TokenizerError::Damaged(e.to_string()))?,
            ),
        };
        let token = |&(text, id): &(&str, u32)| Special {
            id,
            length: text.len(),
            always: vocabulary.kinds[id as usize] == Kind::UserDefined,
            strips: strips(text),
        };
        Ok(Self { automaton, tokens: found.iter().map(token).collect() })
    }

    /// Cuts a text at its special tokens: longer ones are cut out everywhere before shorter ones are looked for, as in
    /// llama.cpp. With `control` false only user-defined tokens are, and so it is at the bytes of `spelt`, which ascend.
    pub(super) fn cut<'t>(&self, text: &'t str, control: bool, spelt: &[usize]) -> Vec<Part<'t>> {
        let chosen = self.choose(text, control, spelt);
        let mut parts = Vec::with_capacity(2 * chosen.len() + 1);
        let mut at = 0;
        for (start, behind, id) in chosen {
            if start > at {
                parts.push(Part::Text(&text[at..start]));
            }
            parts.push(Part::Token(id));
            at = behind;
        }
        if at < text.len() {
            parts.push(Part::Text(&text[at..]));
        }
        parts
    }

    /// The bytes at which the text of a token begins that is not found in plain text, in ascending order.
    pub(super) fn controls(&self, text: &str) -> Vec<usize> {
        let Some(automaton) = &self.automaton else { return Vec::new() };
        let matches = automaton.find_overlapping_iter(text);
        let mut starts: Vec<_> =
            matches.filter(|m| !self.tokens[m.pattern().as_usize()].always).map(|m| m.start()).collect();
        starts.sort_unstable();
        starts.dedup();
        starts
    }

    /// First byte, first byte behind it and the white space that it drops, and id of each special token, in the order of the
    /// text.
    fn choose(&self, text: &str, control: bool, spelt: &[usize]) -> Vec<(usize, usize, u32)> {
        let Some(automaton) = &self.automaton else { return Vec::new() };
        let mut matches: Vec<(usize, usize)> = automaton
            .find_overlapping_iter(text)
            .filter(|m| {
                let parsed = control && spelt.binary_search(&m.start()).is_err();
                parsed || self.tokens[m.pattern().as_usize()].always
            })
            .map(|m| (m.pattern().as_usize(), m.start()))
            .collect();
        if matches.is_empty() {
            return Vec::new();
        }
        matches.sort_unstable();
        let bytes = text.as_bytes();
        let mut owner = vec![Owner::Text; bytes.len()];
        let mut chosen = Vec::new();
        for (pattern, start) in matches {
            let end = start + self.tokens[pattern].length;
            // Longer ones came before, so one that overlaps covers the first or the last byte.
            if owner[start] != Owner::Text || owner[end - 1] != Owner::Text {
                continue;
            }
            owner[start..end].fill(Owner::Token);
            let token = &self.tokens[pattern];
            let mut behind = end;
            while token.strips && behind < bytes.len() && owner[behind] == Owner::Text && is_space(bytes[behind]) {
                owner[behind] = Owner::Dropped;
                behind += 1;
            }
            chosen.push((start, behind, token.id));
        }
        chosen.sort_unstable();
        chosen
    }
}

/// C's `isspace`.
fn is_space(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | b'\n' | 0x0b | 0x0c | b'\r')
}
