//! The vocabulary of a file: texts, kinds, scores, and the ids that have a meaning; with llama.cpp's defaults and corrections.

use std::collections::{HashMap, HashSet};

use super::{TokenizerError, Warning};
use crate::gguf::{Array, Gguf, GgufError, Value};

/// What kind of token one is (`tokenizer.ggml.token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    Control,
    UserDefined,
    Byte,
}

/// Tokens that some converters typed as ordinary text: llama.cpp takes them as control tokens by their names.
struct Group {
    /// Keys that name the group's token; where one does, names do not count.
    keys: &'static [&'static str],
    names: &'static [&'static str],
    /// Whether these tokens end an answer.
    ends: bool,
}

static GROUPS: &[Group] = &[
    Group {
        keys: &[],
        names: &[
            "<|eot_id|>",
            "<|im_end|>",
            "<|end|>",
            "<|return|>",
            "<|call|>",
            "<|flush|>",
            "<|calls|>",
            "<end_of_turn>",
            "<|endoftext|>",
            "</s>",
            "<|eom_id|>",
            "<EOT>",
            "_<EOT>",
            "[EOT]",
            "[EOS]",
            "<|end_of_text|>",
            "<end_of_utterance>",
            "<eos>",
            "<turn|>",
            "<|tool_response>",
            "<｜end▁of▁sentence｜>",
            "[e~[",
        ],
        ends: true,
    },
    Group {
        keys: &["fim_pad_token_id"],
        names: &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"],
        ends: true,
    },
    Group {
        keys: &["fim_rep_token_id"],
        names: &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"],
        ends: true,
    },
    Group { keys: &["fim_sep_token_id"], names: &["<|file_sep|>"], ends: true },
    Group {
        keys: &["fim_pre_token_id", "prefix_token_id"],
        names: &[
            "<|fim_prefix|>",
            "<fim-prefix>",
            "<fim_prefix>",
            "<｜fim▁begin｜>",
            "<PRE>",
            "▁<PRE>",
            "<|code_prefix|>",
            "<|prefix|>",
        ],
        ends: false,
    },
    Group {
        keys: &["fim_suf_token_id", "suffix_token_id"],
        names: &[
            "<|fim_suffix|>",
            "<fim-suffix>",
            "<fim_suffix>",
            "<｜fim▁hole｜>",
            "<SUF>",
            "▁<SUF>",
            "<|code_suffix|>",
            "<|suffix|>",
        ],
        ends: false,
    },
    Group {
        keys: &["fim_mid_token_id", "middle_token_id"],
        names: &[
            "<|fim_middle|>",
            "<fim-middle>",
            "<fim_middle>",
            "<｜fim▁end｜>",
            "<MID>",
            "▁<MID>",
            "<|code_middle|>",
            "<|middle|>",
        ],
        ends: false,
    },
];

/// Tokens of gpt-oss that are always found in a text.
const ALWAYS_FOUND: &[&str] = &["<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"];

/// A token's text, a set of tokens, and another text: with all of the set in a vocabulary the first ends no answer.
const NO_ENDS: &[(&str, &[&str], Kind)] = &[
    ("<|end|>", &["<|return|>", "<|call|>"], Kind::UserDefined),
    ("<|end|>", &["<|flush|>", "<|call|>"], Kind::UserDefined),
    ("<|end|>", &["<|flush|>", "<|calls|>"], Kind::UserDefined),
    ("</s>", &["<|tool_response>"], Kind::Normal),
];

/// Tokens of a file, by id and by text.
pub(super) struct Vocabulary<'g> {
    gguf: &'g Gguf,
    pub tokens: Vec<&'g [u8]>,
    pub kinds: Vec<Kind>,
    pub scores: Vec<f32>,
    /// The first id of each text.
    pub ids: HashMap<&'g [u8], u32>,
}

impl<'g> Vocabulary<'g> {
    pub(super) fn read(gguf: &'g Gguf, warnings: &mut Vec<Warning>) -> Result<Self, TokenizerError> {
        let tokens = gguf.get_strings("tokenizer.ggml.tokens")?;
        if tokens.is_empty() || u32::try_from(tokens.len()).is_err() {
            return Err(TokenizerError::Damaged(format!("it has {} tokens", tokens.len())));
        }
        let mut ids = HashMap::new();
        ids.try_reserve(tokens.len()).map_err(|_| memory(tokens.len()))?;
        let mut twice: Option<(usize, u32)> = None;
        for (id, token) in (0u32..).zip(&tokens).filter(|(_, token)| !token.is_empty()) {
            if *ids.entry(*token).or_insert(id) != id {
                twice = Some((twice.map_or(1, |(n, _)| n + 1), twice.map_or(id, |(_, first)| first)));
            }
        }
        if let Some((count, id)) = twice {
            let text = String::from_utf8_lossy(tokens[id as usize]).into_owned();
            warnings.push(Warning::TokensTwice { count, text, id });
        }
        let kinds = kinds(gguf, tokens.len())?;
        let scores = scores(gguf, tokens.len())?;
        Ok(Self { gguf, tokens, kinds, scores, ids })
    }

    /// The token with this text.
    pub(super) fn id(&self, text: &[u8]) -> Option<u32> {
        self.ids.get(text).copied()
    }

    /// Whether a token is ordinary text.
    pub(super) fn is_text(&self, id: u32) -> bool {
        self.kinds[id as usize] == Kind::Normal
    }

    /// The tokens `<0xAB>` that stand for single bytes, or those of the character itself.
    pub(super) fn bytes(&self) -> Box<[Option<u32>; 256]> {
        Box::new(std::array::from_fn(|b| self.id(format!("<0x{b:02X}>").as_bytes()).or_else(|| self.id(&[b as u8]))))
    }

    /// The id that `tokenizer.ggml.NAME` gives, or `default` where it gives none that exists.
    pub(super) fn special(
        &self,
        name: &str,
        default: Option<u32>,
        warnings: &mut Vec<Warning>,
    ) -> Result<Option<u32>, TokenizerError> {
        let default = default.filter(|id| (*id as usize) < self.tokens.len());
        let key = format!("tokenizer.ggml.{name}");
        let Some(value) = self.gguf.get(&key) else { return Ok(default) };
        if value.as_f64().is_none() || matches!(value, Value::Array(_) | Value::F32(_) | Value::F64(_)) {
            self.gguf.get_u32(&key)?;
        }
        match value.as_u64().and_then(|id| u32::try_from(id).ok()).filter(|id| (*id as usize) < self.tokens.len()) {
            Some(id) => Ok(Some(id)),
            None => {
                let tokens = self.tokens.len();
                warnings.push(Warning::IdOutside { key, value: value.summary(), tokens, instead: default });
                Ok(default)
            }
        }
    }

    /// Gives tokens the kinds that their names ask for, and returns those that end an answer.
    pub(super) fn correct(&mut self, warnings: &mut Vec<Warning>) -> Result<HashSet<u32>, TokenizerError> {
        let mut ends = HashSet::new();
        let mut retyped: Option<(usize, String)> = None;
        for group in GROUPS {
            let mut named = None;
            for key in group.keys {
                named = self.special(key, named, warnings)?;
            }
            let by_name = group.names.iter().filter_map(|name| self.id(name.as_bytes()));
            let members: Vec<u32> = named.map_or_else(|| by_name.collect(), |id| vec![id]);
            for id in members {
                let kind = &mut self.kinds[id as usize];
                if named.is_none() && *kind != Kind::Control {
                    *kind = Kind::Control;
                    let text = String::from_utf8_lossy(self.tokens[id as usize]).into_owned();
                    retyped = Some(retyped.map_or((1, text), |(n, first)| (n + 1, first)));
                }
                if group.ends {
                    ends.insert(id);
                }
            }
        }
        if let Some((count, first)) = retyped {
            warnings.push(Warning::Retyped { count, first });
        }
        for id in ALWAYS_FOUND.iter().filter_map(|name| self.id(name.as_bytes())).collect::<Vec<_>>() {
            self.kinds[id as usize] = Kind::UserDefined;
        }
        for (text, with, kind) in NO_ENDS {
            if with.iter().all(|other| self.id(other.as_bytes()).is_some())
                && let Some(id) = self.id(text.as_bytes())
            {
                ends.remove(&id);
                self.kinds[id as usize] = *kind;
            }
        }
        Ok(ends)
    }
}

fn memory(tokens: usize) -> GgufError {
    GgufError::Memory { what: "the vocabulary".to_owned(), bytes: 32 * tokens as u64 }
}

fn kinds(gguf: &Gguf, n: usize) -> Result<Vec<Kind>, TokenizerError> {
    let kind = |number: i64| match number {
        2 => Kind::Unknown,
        3 => Kind::Control,
        4 => Kind::UserDefined,
        6 => Kind::Byte,
        _ => Kind::Normal,
    };
    let kinds: Vec<Kind> = match gguf.get("tokenizer.ggml.token_type") {
        None => return Ok(vec![Kind::Normal; n]),
        Some(Value::Array(Array::I32(types))) => types.iter().take(n).map(|t| kind(i64::from(*t))).collect(),
        Some(Value::Array(Array::U32(types))) => types.iter().take(n).map(|t| kind(i64::from(*t))).collect(),
        Some(_) => Vec::new(),
    };
    if kinds.len() < n {
        return Err(TokenizerError::Damaged("'tokenizer.ggml.token_type' has not one number per token".to_owned()));
    }
    Ok(kinds)
}

fn scores(gguf: &Gguf, n: usize) -> Result<Vec<f32>, TokenizerError> {
    let scores: Vec<f32> = match gguf.get("tokenizer.ggml.scores") {
        None => return Ok(vec![0.0; n]),
        Some(Value::Array(Array::F32(scores))) => scores.iter().take(n).copied().collect(),
        Some(Value::Array(Array::I32(scores))) => scores.iter().take(n).map(|s| *s as f32).collect(),
        Some(_) => Vec::new(),
    };
    if scores.len() < n {
        return Err(TokenizerError::Damaged("'tokenizer.ggml.scores' has not one number per token".to_owned()));
    }
    Ok(scores)
}
