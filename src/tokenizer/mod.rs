//! Text to token ids and back, from the vocabulary inside a GGUF file.

mod bpe;
mod spm;
mod stream;

use thiserror::Error;

use crate::gguf::{Array, Gguf, GgufError, Value};

pub use stream::StreamDecoder;

/// Why a vocabulary cannot be used.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum TokenizerError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("tokenizer model '{0}' is not supported; supported: gpt2 (byte-level BPE), llama (SentencePiece)")]
    Model(String),
    #[error("pre-tokenizer '{0}' is not supported; supported: {list}", list = bpe::PRE_TOKENIZERS.join(", "))]
    PreTokenizer(String),
    #[error("the vocabulary is damaged: {0}")]
    Damaged(String),
    #[error("cannot encode the text: {0}")]
    Encode(String),
}

/// How text is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add BOS and EOS as the model says.
    pub add_special: bool,
    /// Take the text of control tokens as those tokens; otherwise it is ordinary text.
    pub parse_special: bool,
}

/// What kind of token one is (`tokenizer.ggml.token_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Normal,
    Control,
    UserDefined,
    Byte,
}

#[derive(Debug)]
enum Algorithm {
    Bpe(Box<bpe::Bpe>),
    Spm(Box<spm::Spm>),
}

/// A vocabulary and its algorithm.
#[derive(Debug)]
pub struct Tokenizer {
    algorithm: Algorithm,
    pieces: Vec<Vec<u8>>,
    kinds: Vec<Kind>,
    /// Control and user-defined tokens with their text, longest first.
    specials: Vec<(String, u32)>,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    ends: Vec<u32>,
}

/// Control tokens that end an answer in the models' chat formats.
const END_NAMES: &[&str] =
    &["<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<|eom_id|>", "<end_of_turn>", "</s>", "<|end|>"];

impl Tokenizer {
    /// Reads the vocabulary of a file.
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        let tokens = gguf.get_strings("tokenizer.ggml.tokens")?;
        if tokens.is_empty() {
            return Err(TokenizerError::Damaged("it is empty".to_owned()));
        }
        let kinds = kinds(gguf, tokens.len())?;
        let model = gguf.get_str("tokenizer.ggml.model")?;
        let add_bos;
        let algorithm = match model {
            "gpt2" => {
                let pre = gguf.get_str("tokenizer.ggml.pre").unwrap_or("default");
                add_bos = pre == "llama-bpe";
                Algorithm::Bpe(Box::new(bpe::Bpe::new(tokens, gguf.get_strings("tokenizer.ggml.merges")?, pre)?))
            }
            "llama" => {
                add_bos = true;
                let space = flag(gguf, "tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
                let scores = match gguf.get("tokenizer.ggml.scores") {
                    Some(Value::Array(Array::F32(scores))) if scores.len() == tokens.len() => scores.clone(),
                    _ => return Err(TokenizerError::Damaged("there is not one score per token".to_owned())),
                };
                Algorithm::Spm(Box::new(spm::Spm::new(tokens, scores, &kinds, space)))
            }
            other => return Err(TokenizerError::Model(other.to_owned())),
        };
        let pieces = tokens
            .iter()
            .zip(&kinds)
            .map(|(token, kind)| match (&algorithm, kind) {
                (_, Kind::Control | Kind::UserDefined) => token.as_bytes().to_vec(),
                (Algorithm::Bpe(_), _) => bpe::piece(token),
                (Algorithm::Spm(_), _) => spm::piece(token, *kind == Kind::Byte),
            })
            .collect();
        let mut specials: Vec<(String, u32)> = (0u32..)
            .zip(tokens)
            .filter(|(id, t)| matches!(kinds[*id as usize], Kind::Control | Kind::UserDefined) && !t.is_empty())
            .map(|(id, token)| (token.clone(), id))
            .collect();
        specials.sort_by_key(|(text, id)| (std::cmp::Reverse(text.len()), *id));
        let id = |key: &str| -> Result<Option<u32>, TokenizerError> {
            let Some(_) = gguf.get(key) else { return Ok(None) };
            let id = gguf.get_u32(key)?;
            if id as usize >= tokens.len() {
                return Err(TokenizerError::Damaged(format!("{key} is {id}, outside the {} tokens", tokens.len())));
            }
            Ok(Some(id))
        };
        let (bos, eos) = (id("tokenizer.ggml.bos_token_id")?, id("tokenizer.ggml.eos_token_id")?);
        let mut ends: Vec<u32> = eos.into_iter().chain(id("tokenizer.ggml.eot_token_id")?).collect();
        let named = specials.iter().filter(|(text, _)| END_NAMES.contains(&text.as_str())).map(|(_, id)| *id);
        ends.extend(named);
        Ok(Self {
            algorithm,
            pieces,
            specials,
            bos,
            eos,
            add_bos: flag(gguf, "tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos),
            add_eos: flag(gguf, "tokenizer.ggml.add_eos_token")?.unwrap_or(false),
            ends,
            kinds,
        })
    }

    /// Token ids of a text.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        if let (Some(bos), true) = (self.bos, options.add_special && self.add_bos) {
            ids.push(bos);
        }
        let mut rest = text;
        let mut first = true;
        while !rest.is_empty() {
            let (plain, special) = self.next_special(rest, options.parse_special);
            if !plain.is_empty() {
                match &self.algorithm {
                    Algorithm::Bpe(bpe) => bpe.encode(plain, &mut ids)?,
                    Algorithm::Spm(spm) => spm.encode(plain, first, &mut ids),
                }
            }
            rest = &rest[plain.len()..];
            if let Some((len, id)) = special {
                ids.push(id);
                rest = &rest[len..];
            }
            first = special.is_some();
        }
        if let (Some(eos), true) = (self.eos, options.add_special && self.add_eos) {
            ids.push(eos);
        }
        Ok(ids)
    }

    /// The text before the first special token, and that token's length and id.
    fn next_special<'t>(&self, text: &'t str, control: bool) -> (&'t str, Option<(usize, u32)>) {
        let mut found: Option<(usize, usize, u32)> = None;
        for (special, id) in &self.specials {
            if !control && self.kinds[*id as usize] == Kind::Control {
                continue;
            }
            // Longer tokens come first, so an equal position does not replace them.
            if let Some(at) = text.find(special.as_str())
                && found.is_none_or(|(best, ..)| at < best)
            {
                found = Some((at, special.len(), *id));
            }
        }
        match found {
            Some((at, len, id)) => (&text[..at], Some((len, id))),
            None => (text, None),
        }
    }

    /// The bytes of tokens, one after the other. Control tokens give their own text, unknown ids nothing.
    pub fn decode(&self, ids: &[u32]) -> Vec<u8> {
        ids.iter().filter_map(|id| self.pieces.get(*id as usize)).flatten().copied().collect()
    }

    /// A decoder for tokens that come one by one.
    pub fn stream(&self) -> StreamDecoder<'_> {
        StreamDecoder::new(self)
    }

    /// Tokens in the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.pieces.len()
    }

    /// The token that begins a sequence.
    pub fn bos(&self) -> Option<u32> {
        self.bos
    }

    /// The BOS token, if a text begins with it.
    pub fn bos_to_add(&self) -> Option<u32> {
        self.bos.filter(|_| self.add_bos)
    }

    /// The token that ends a sequence.
    pub fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// Whether a token ends an answer.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }
}

fn flag(gguf: &Gguf, key: &str) -> Result<Option<bool>, GgufError> {
    if gguf.get(key).is_none() { Ok(None) } else { gguf.get_bool(key).map(Some) }
}

fn kinds(gguf: &Gguf, n: usize) -> Result<Vec<Kind>, TokenizerError> {
    match gguf.get("tokenizer.ggml.token_type") {
        None => Ok(vec![Kind::Normal; n]),
        Some(Value::Array(Array::I32(types))) if types.len() == n => Ok(types
            .iter()
            .map(|t| match t {
                3 => Kind::Control,
                4 => Kind::UserDefined,
                6 => Kind::Byte,
                _ => Kind::Normal,
            })
            .collect()),
        Some(_) => Err(TokenizerError::Damaged("there is not one type per token".to_owned())),
    }
}
