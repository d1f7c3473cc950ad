//! Byte-level BPE (GPT-2) with the pre-tokenizers llama.cpp knows by name.

use std::collections::HashMap;
use std::sync::LazyLock;

use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::tokenizer::SplitDelimiterBehavior;

use super::TokenizerError;

/// Pre-tokenizers that are supported.
pub(super) const PRE_TOKENIZERS: &[&str] = &["default", "gpt-2", "smollm", "llama-bpe", "qwen2"];

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// The regular expressions a text is split by, one after the other (llama.cpp, `llama-vocab.cpp`).
fn patterns(pre: &str) -> Option<&'static [&'static str]> {
    Some(match pre {
        "default" => &[
            r"[\p{P}\$\+<=>\^~\|]+",
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
            r"\p{N}+",
            r"[0-9][0-9][0-9]",
        ],
        "gpt-2" => &[GPT2],
        "smollm" => &[r"\p{N}", GPT2],
        "llama-bpe" => &[LLAMA],
        "qwen2" => &[QWEN2],
        _ => return None,
    })
}

/// The algorithm over a vocabulary.
#[derive(Debug)]
pub(super) struct Bpe(tokenizers::Tokenizer);

impl Bpe {
    pub(super) fn new(tokens: &[String], merges: &[String], pre: &str) -> Result<Self, TokenizerError> {
        let patterns = patterns(pre).ok_or_else(|| TokenizerError::PreTokenizer(pre.to_owned()))?;
        let damaged = |e: tokenizers::Error| TokenizerError::Damaged(e.to_string());
        let mut vocabulary = tokenizers::models::bpe::Vocab::default();
        for (id, token) in (0u32..).zip(tokens) {
            vocabulary.entry(token.clone()).or_insert(id);
        }
        let merges = merges
            .iter()
            .map(|m| match m.split_once(' ') {
                Some((a, b)) => Ok((a.to_owned(), b.to_owned())),
                None => Err(TokenizerError::Damaged(format!("merge {m:?} is not a pair"))),
            })
            .collect::<Result<Vec<_>, _>>()?;
        let bpe = BPE::builder()
            .vocab_and_merges(vocabulary, merges)
            .ignore_merges(pre == "llama-bpe")
            .build()
            .map_err(damaged)?;
        let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
        for pattern in patterns {
            let pattern = SplitPattern::Regex((*pattern).to_owned());
            steps.push(Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(damaged)?.into());
        }
        steps.push(ByteLevel::new(false, false, false).into());
        let mut tokenizer = tokenizers::Tokenizer::new(bpe);
        tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
        Ok(Self(tokenizer))
    }

    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) -> Result<(), TokenizerError> {
        let encoding = self.0.encode_fast(text, false).map_err(|e| TokenizerError::Encode(e.to_string()))?;
        ids.extend_from_slice(encoding.get_ids());
        Ok(())
    }
}

/// The bytes GPT-2's printable characters stand for: printable Latin-1 for itself, the rest from U+0100 on.
static BYTES: LazyLock<HashMap<char, u8>> = LazyLock::new(|| {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut others = 0x100u32..;
    (0..=255u8)
        .filter_map(|b| {
            let c = if printable(b) { Some(char::from(b)) } else { others.next().and_then(char::from_u32) };
            c.map(|c| (c, b))
        })
        .collect()
});

/// The bytes of a token; characters outside the alphabet stand for themselves.
pub(super) fn piece(token: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(token.len());
    for c in token.chars() {
        match BYTES.get(&c) {
            Some(b) => out.push(*b),
            None => out.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out
}
