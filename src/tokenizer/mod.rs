//! Text to token ids and back, from the vocabulary inside a GGUF file: the same tokens as llama.cpp makes.

mod bpe;
mod merge;
mod pre;
mod specials;
mod spm;
mod stream;
mod vocabulary;
mod warning;

use std::collections::HashSet;

use thiserror::Error;

use crate::gguf::{Gguf, GgufError, Value};
use bpe::{Alphabet, Bpe};
use pre::{PreTokenizer, Splitter};
use specials::{Part, Specials};
use vocabulary::{Kind, Vocabulary};

pub use stream::StreamDecoder;
pub use warning::Warning;

/// Why a vocabulary cannot be used.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum TokenizerError {
    #[error(transparent)]
    Gguf(#[from] GgufError),
    #[error("tokenizer model '{0}' is not supported; supported: gpt2 (byte-level BPE), llama (SentencePiece), gemma4")]
    Model(String),
    #[error("pre-tokenizer '{0}' is not known; known are {list}", list = pre_tokenizers().collect::<Vec<_>>().join(", "))]
    PreTokenizer(String),
    #[error("tokenizer model '{0}' has no pre-tokenizer, so none can be chosen")]
    NoPreTokenizer(String),
    #[error("a pattern of the pre-tokenizer cannot be used: {0}")]
    Pattern(String),
    #[error("the vocabulary is damaged: {0}")]
    Damaged(String),
    #[error("cannot encode the text: {0}")]
    Encode(String),
    #[error("cannot encode {0:?}: the vocabulary has neither a token for it nor for its bytes, and no unknown token")]
    Missing(String),
}

/// How text is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Add BOS and EOS as the model says.
    pub add_special: bool,
    /// Take the text of control tokens as those tokens; otherwise it is ordinary text.
    pub parse_special: bool,
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
    specials: Specials,
    bos: Option<u32>,
    eos: Option<u32>,
    add_bos: bool,
    add_eos: bool,
    ends: HashSet<u32>,
    /// Tokens that are no text: control tokens and the unknown one.
    controls: HashSet<u32>,
    warnings: Vec<Warning>,
}

/// Keys that are not obeyed, and what comes of that.
const NOT_APPLIED: &[(&str, &str)] = &[
    ("tokenizer.ggml.precompiled_charsmap", "as in llama.cpp, the text is not normalised"),
    ("tokenizer.ggml.normalizer.lowercase", "as in llama.cpp, the text is not normalised"),
    ("tokenizer.ggml.normalizer.strip_accents", "as in llama.cpp, the text is not normalised"),
    ("tokenizer.ggml.remove_extra_whitespaces", "as in llama.cpp, white space stays as it is"),
    ("tokenizer.ggml.suppress_tokens", "the sampler may choose these tokens"),
];

/// The names of all pre-tokenizers.
pub fn pre_tokenizers() -> impl Iterator<Item = &'static str> {
    pre::PRE_TOKENIZERS.iter().flat_map(|p| p.names.iter().copied())
}

impl Tokenizer {
    /// Reads the vocabulary of a file.
    ///
    /// # Errors
    /// Where the file has no vocabulary, a damaged one, or one of a kind that is not supported. What llama.cpp puts right
    /// with a warning is put right here, too: [`Self::warnings`].
    pub fn from_gguf(gguf: &Gguf) -> Result<Self, TokenizerError> {
        Self::with_pre(gguf, None)
    }

    /// As [`Self::from_gguf`], with another pre-tokenizer (one of [`pre_tokenizers`]) than the file names.
    ///
    /// # Errors
    /// As there, and where the name is not known or the tokenizer's model has no pre-tokenizer.
    pub fn with_pre(gguf: &Gguf, pre: Option<&str>) -> Result<Self, TokenizerError> {
        let mut warnings = Vec::new();
        let model = gguf.get_str("tokenizer.ggml.model")?;
        // llama.cpp's ids where the file names none.
        let (default_bos, default_eos, default_unknown) = match model {
            "llama" => (Some(1), Some(2), Some(0)),
            "gpt2" => (Some(11), Some(11), None),
            "gemma4" => (None, None, None),
            other => return Err(TokenizerError::Model(other.to_owned())),
        };
        let pre = match (model, pre) {
            ("gpt2", _) => Some(pre_tokenizer(gguf, pre, &mut warnings)?),
            (_, Some(_)) => return Err(TokenizerError::NoPreTokenizer(model.to_owned())),
            (_, None) => None,
        };
        let mut vocabulary = Vocabulary::read(gguf, &mut warnings)?;
        let bos = vocabulary.special("bos_token_id", default_bos, &mut warnings)?;
        let eos = vocabulary.special("eos_token_id", default_eos, &mut warnings)?;
        let unknown = vocabulary.special("unknown_token_id", default_unknown, &mut warnings)?;
        let mut ends = vocabulary.correct(&mut warnings)?;
        for name in ["eot_token_id", "eom_token_id"] {
            ends.extend(vocabulary.special(name, None, &mut warnings)?);
        }
        // The default of byte-level BPE is Falcon's; in other vocabularies that token may be a comma.
        let eos_is_text =
            |id: &u32| model == "gpt2" && gguf.get("tokenizer.ggml.eos_token_id").is_none() && vocabulary.is_text(*id);
        ends.extend(eos.filter(|id| !eos_is_text(id)));

        let flag = |key: &str| gguf.get(key).map(|_| gguf.get_bool(key)).transpose();
        let (algorithm, add_bos) = match (model, pre) {
            ("llama", _) => {
                if gguf.get("tokenizer.ggml.scores").is_none() {
                    warnings.push(Warning::NoScores);
                }
                let space = flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
                (Algorithm::Spm(Box::new(spm::Spm::new(&vocabulary, unknown, space))), true)
            }
            (_, pre) => {
                let alphabet = if pre.is_some() { Alphabet::Bytes } else { Alphabet::Characters };
                let pre = pre.unwrap_or(&pre::GEMMA4);
                let (merges, splitter) = (gguf.get_strings("tokenizer.ggml.merges")?, Splitter::new(pre)?);
                let bpe = Bpe::new(&vocabulary, &merges, alphabet, splitter, unknown, &mut warnings);
                (Algorithm::Bpe(Box::new(bpe)), pre.add_bos)
            }
        };
        for &(key, what) in NOT_APPLIED {
            if gguf.get(key).is_some_and(|value| *value != Value::Bool(false)) {
                warnings.push(Warning::NotApplied { key, what });
            }
        }
        // llama.cpp, too, begins every text of Gemma 4 with BOS, whatever the file says.
        let add_bos = model == "gemma4" || flag("tokenizer.ggml.add_bos_token")?.unwrap_or(add_bos);
        let add_eos = flag("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
        for (wanted, id, name) in [(add_bos, bos, "bos_token_id"), (add_eos, eos, "eos_token_id")] {
            if wanted && (id.is_none() || model == "gpt2" && gguf.get(&format!("tokenizer.ggml.{name}")).is_none()) {
                warnings.push(Warning::NoId { key: format!("tokenizer.ggml.{name}"), instead: id });
            }
        }
        let is_control = |kind: &Kind| matches!(kind, Kind::Control | Kind::Unknown);
        let controls = (0u32..).zip(&vocabulary.kinds).filter(|(_, kind)| is_control(kind)).map(|(id, _)| id).collect();
        let specials = Specials::new(&vocabulary, strips(gguf))?;
        Ok(Self {
            pieces: token_bytes(&vocabulary, model),
            algorithm,
            specials,
            bos,
            eos,
            add_bos,
            add_eos,
            ends,
            controls,
            warnings,
        })
    }

    /// What was put right when the vocabulary was read.
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }

    /// What is odd in the ids of a text that was encoded with `add_special`: BOS at its beginning or EOS at its end twice.
    pub fn odd(&self, ids: &[u32]) -> Option<Warning> {
        match (self.bos, self.eos, ids) {
            (Some(bos), _, [first, second, ..]) if self.add_bos && [*first, *second] == [bos, bos] => {
                Some(Warning::DoubledBos)
            }
            (_, Some(eos), [.., second, last]) if self.add_eos && [*second, *last] == [eos, eos] => {
                Some(Warning::DoubledEos)
            }
            _ => None,
        }
    }

    /// Token ids of a text.
    ///
    /// # Errors
    /// Where the vocabulary has no token for a part of it.
    pub fn encode(&self, text: &str, options: EncodeOptions) -> Result<Vec<u32>, TokenizerError> {
        self.encode_spelt(text, options, &[])
    }

    /// The bytes of a text at which the text of a control token begins, in ascending order.
    pub fn control_tokens(&self, text: &str) -> Vec<usize> {
        self.specials.controls(text)
    }

    /// As [`Self::encode`], but no control token begins at the bytes of `spelt` (in ascending order): there its text is text.
    ///
    /// # Errors
    /// As [`Self::encode`].
    pub fn encode_spelt(
        &self,
        text: &str,
        options: EncodeOptions,
        spelt: &[usize],
    ) -> Result<Vec<u32>, TokenizerError> {
        let mut ids = Vec::new();
        if let (Some(bos), true) = (self.bos, options.add_special && self.add_bos) {
            ids.push(bos);
        }
        let mut first = true;
        for part in self.specials.cut(text, options.parse_special, spelt) {
            match (part, &self.algorithm) {
                (Part::Token(id), _) => ids.push(id),
                (Part::Text(text), Algorithm::Bpe(bpe)) => bpe.encode(text, &mut ids)?,
                (Part::Text(text), Algorithm::Spm(spm)) => spm.encode(text, first, options.parse_special, &mut ids)?,
            }
            first = matches!(part, Part::Token(_));
        }
        if let (Some(eos), true) = (self.eos, options.add_special && self.add_eos) {
            ids.push(eos);
        }
        Ok(ids)
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

    /// The tokens that end an answer, in no order.
    pub fn ends(&self) -> impl Iterator<Item = u32> {
        self.ends.iter().copied()
    }

    /// Whether a token is no text, but has a meaning for the model.
    pub fn is_control(&self, id: u32) -> bool {
        self.controls.contains(&id)
    }

    /// Whether a token ends an answer.
    pub fn is_end_of_generation(&self, id: u32) -> bool {
        self.ends.contains(&id)
    }
}

/// The pre-tokenizer asked for, or else the file's.
fn pre_tokenizer(
    gguf: &Gguf,
    asked: Option<&str>,
    warnings: &mut Vec<Warning>,
) -> Result<&'static PreTokenizer, TokenizerError> {
    let name = match (asked, gguf.get("tokenizer.ggml.pre")) {
        (Some(name), _) => name,
        (None, Some(_)) => gguf.get_str("tokenizer.ggml.pre")?,
        (None, None) => "",
    };
    if name.is_empty() && asked.is_none() {
        warnings.push(Warning::NoPreTokenizer);
    }
    let name = if name.is_empty() { "default" } else { name };
    pre::find(name).ok_or_else(|| TokenizerError::PreTokenizer(name.to_owned()))
}

/// Which special tokens drop white space behind them: llama.cpp's rule for Phi-3, which no key tells.
fn strips(gguf: &Gguf) -> impl Fn(&str) -> bool {
    let name = gguf.get_text("general.name").unwrap_or_default().to_lowercase();
    let phi3 = name.contains("phi-3") || name.contains("phi3");
    move |token| phi3 && !["<unk>", "<s>", "<|endoftext|>"].contains(&token)
}

/// The bytes that each token stands for.
fn token_bytes(vocabulary: &Vocabulary<'_>, model: &str) -> Vec<Vec<u8>> {
    let bytes = |(token, kind): (&&[u8], &Kind)| match kind {
        Kind::Control | Kind::UserDefined | Kind::Unknown => token.to_vec(),
        _ if model == "gpt2" => bpe::piece(token),
        _ => spm::piece(token, *kind == Kind::Byte),
    };
    vocabulary.tokens.iter().zip(&vocabulary.kinds).map(bytes).collect()
}

/// The tokens of the bytes of a text that is no token; the unknown token where one of them has none.
fn bytes_of(
    text: &[u8],
    bytes: &[Option<u32>; 256],
    unknown: Option<u32>,
    ids: &mut Vec<u32>,
) -> Result<(), TokenizerError> {
    let before = ids.len();
    ids.extend(text.iter().map_while(|b| bytes[usize::from(*b)]));
    if ids.len() - before < text.len() {
        ids.truncate(before);
        let missing = || TokenizerError::Missing(String::from_utf8_lossy(text).into_owned());
        ids.push(unknown.ok_or_else(missing)?);
    }
    Ok(())
}
