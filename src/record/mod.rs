//! Records of texts: everything that a text depends on, the text, and what proves its bits. [`replay`] makes it again, on any
//! machine, and compares.
//!
//! A record is one line of canonical JSON: keys in the order of their bytes, no white space, numbers as short as they can be. Its
//! key `sha256` has the hash of that JSON without this key.

mod chain;
mod replay;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use thiserror::Error;

use crate::backend::Backend;
use crate::engine::{Request, StopReason, Text, Token, hex};
use crate::gguf::Gguf;
use crate::model::Model;
use crate::numerics::{Precision, VERSION};
use crate::sample::SamplerOptions;

pub use chain::Chain;
pub use replay::{Difference, ReplayError, replay};

/// The version of the layout.
pub const SCHEMA: u32 = 1;

/// The key of the hash.
const HASH: &str = "sha256";

/// Why a record cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[allow(missing_docs)]
pub enum RecordError {
    #[error("it is no record: {0}")]
    NoRecord(String),
    #[error("it has layout {found}, and this program reads layout {SCHEMA}; use another version of samebits")]
    Schema { found: u64 },
    #[error("it was changed: its contents have SHA-256 {found}, and it says {said}")]
    Hash { found: String, said: String },
    #[error("it was changed: byte {at} is not what was written; its contents are as they were, but not their layout")]
    Layout { at: usize },
    #[error(
        "it was made by {recorded}, and this program computes {VERSION}: other bits are to be expected; use a version of samebits \
         with {recorded}"
    )]
    Numerics { recorded: String },
    #[error("it was made by another model: {recorded}; this is {given}")]
    Model { recorded: String, given: String },
    #[error("it has no text of {0} tokens to begin behind")]
    From(usize),
}

/// What was made, of what, and where.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// [`SCHEMA`].
    pub record: u32,
    /// The version of the numerics contract.
    pub numerics: String,
    /// How activations are rounded: `fast` or `precise`.
    #[serde(with = "precision")]
    pub precision: Precision,
    /// The configuration in one word, from numerics, precision and model.
    pub fingerprint: String,
    /// The model.
    pub model: ModelFacts,
    /// Positions that the context holds; some models depend on it.
    pub context: usize,
    /// The template that made prompts of messages.
    pub template: Option<TemplateFacts>,
    /// What a conversation begins with.
    pub system: Option<String>,
    /// How the next answer of a conversation would be chosen.
    pub sampling: Option<SamplerOptions>,
    /// The texts; of a conversation its answers, the oldest first.
    pub texts: Vec<Recorded>,
    /// Where they were made. Nothing depends on it.
    pub made_by: MadeBy,
}

/// What tells a model from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelFacts {
    /// Its name in the file.
    pub name: String,
    /// The name of the file, without folders; `None` for the model that is built in.
    pub file: Option<String>,
    /// Size and hash of the file; of a split model, of each part.
    pub parts: Vec<PartFacts>,
}

/// A file of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartFacts {
    /// Bytes.
    pub bytes: u64,
    /// SHA-256, as hex.
    pub sha256: String,
}

/// What tells a template from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TemplateFacts {
    /// What it is called.
    pub name: String,
    /// SHA-256, as hex.
    pub sha256: String,
}

/// What a user gave.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Received {
    /// The text.
    pub text: String,
    /// Whether it is a message, of which the template made the prompt.
    pub message: bool,
    /// The pre-tokenizer that was taken instead of the model's own.
    pub pre: Option<String>,
}

/// A text and its proof.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// What was received.
    pub received: Received,
    /// What was understood.
    pub request: Request,
    /// SHA-256 of the grammar's source.
    pub grammar_sha256: Option<String>,
    /// What was made.
    pub text: String,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// The bits of the logit of each of them, as hex.
    pub logits: Vec<String>,
    /// The chain of hashes, a link for each token.
    pub chain: Vec<String>,
    /// SHA-256 over all logits.
    pub logits_hash: String,
    /// Why it ended.
    pub stop_reason: StopReason,
}

/// Where a record was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MadeBy {
    /// Name and version of the program.
    pub program: String,
    /// The commit that it was built from, where that is known.
    pub commit: Option<String>,
    /// The backend.
    pub backend: String,
    /// What it computed on.
    pub adapter: String,
    /// The adapter's driver.
    pub driver: Option<String>,
    /// Operating system and processor.
    pub system: String,
}

impl MadeBy {
    /// This program, on a backend.
    pub fn here(backend: &dyn Backend) -> Self {
        Self {
            program: format!("{} {}", env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION")),
            commit: option_env!("SAMEBITS_COMMIT").map(str::to_owned),
            backend: backend.name().to_owned(),
            adapter: backend.device(),
            driver: backend.driver(),
            system: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        }
    }
}

impl ModelFacts {
    /// Reads all bytes of a model; `progress` hears how many more were read.
    pub fn of(model: &Model, file: Option<String>, progress: &mut dyn FnMut(u64)) -> Self {
        let parts = parts(&model.gguf, progress);
        Self { name: model.config.name.clone(), file, parts }
    }

    /// Whether this is the same model, whatever it is called.
    fn is(&self, other: &Self) -> bool {
        self.parts == other.parts
    }

    /// Name, size and hash in one line.
    pub fn describe(&self) -> String {
        let bytes: u64 = self.parts.iter().map(|p| p.bytes).sum();
        let hash = self.parts.iter().map(|p| p.sha256.as_str()).collect::<Vec<_>>().join(", ");
        let file = self.file.as_deref().unwrap_or("built in");
        format!("{} ({file}), {bytes} bytes, SHA-256 {hash}", if self.name.is_empty() { "unnamed" } else { &self.name })
    }
}

/// Size and hash of each file.
fn parts(gguf: &Gguf, progress: &mut dyn FnMut(u64)) -> Vec<PartFacts> {
    let part = |bytes: &[u8]| {
        let mut hash = Sha256::new();
        for piece in bytes.chunks(1 << 24) {
            hash.update(piece);
            progress(piece.len() as u64);
        }
        PartFacts { bytes: bytes.len() as u64, sha256: hex(&hash.finalize()) }
    };
    gguf.parts().into_iter().map(part).collect()
}

/// Collects what a record keeps of a text while it is made.
#[derive(Clone, Debug)]
pub struct Recorder {
    chain: Chain,
    tokens: Vec<u32>,
    logits: Vec<String>,
    links: Vec<String>,
}

impl Recorder {
    /// For a text behind this prompt.
    pub fn new(prompt: &[u32]) -> Self {
        Self { chain: Chain::new(prompt), tokens: Vec::new(), logits: Vec::new(), links: Vec::new() }
    }

    /// Hears the next token.
    pub fn push(&mut self, token: &Token<'_>) {
        self.chain.push(token.id, token.logits);
        self.tokens.push(token.id);
        self.logits.push(bits(token));
        self.links.push(self.chain.link());
    }

    /// The text that was made.
    pub fn finish(self, received: Received, request: Request, text: &Text) -> Recorded {
        Recorded {
            received,
            grammar_sha256: request.grammar.as_ref().map(|g| hex(&Sha256::digest(&g.source))),
            request,
            text: text.text.clone(),
            tokens: self.tokens,
            logits: self.logits,
            chain: self.links,
            logits_hash: text.logits_hash.clone(),
            stop_reason: text.stop_reason,
        }
    }
}

/// The bits of a token's own logit.
fn bits(token: &Token<'_>) -> String {
    token.logits.get(token.id as usize).map_or_else(String::new, |x| format!("{:08x}", x.to_bits()))
}

/// The configuration in one word: equal wherever the same requests have the same bits.
fn fingerprint(precision: Precision, model: &ModelFacts) -> String {
    let mut hash = Sha256::new();
    model.parts.iter().for_each(|p| hash.update(&p.sha256));
    let version = VERSION.rsplit(' ').next().unwrap_or(VERSION).trim_start_matches('v');
    let model = hex(&hash.finalize());
    format!("sb{version}-{}-{}", precision::name(precision), &model[..16])
}

impl Record {
    /// A record without texts.
    pub fn new(model: ModelFacts, precision: Precision, context: usize, made_by: MadeBy) -> Self {
        Self {
            record: SCHEMA,
            numerics: VERSION.to_owned(),
            precision,
            fingerprint: fingerprint(precision, &model),
            model,
            context,
            template: None,
            system: None,
            sampling: None,
            texts: Vec::new(),
            made_by,
        }
    }

    /// The bytes of its file.
    ///
    /// # Errors
    /// [`RecordError::NoRecord`], where a number does not survive JSON.
    pub fn to_bytes(&self) -> Result<Vec<u8>, RecordError> {
        let no_record = |e: serde_json::Error| RecordError::NoRecord(e.to_string());
        // By way of text, where an f32 has its own short form.
        let value = serde_json::from_str(&serde_json::to_string(self).map_err(no_record)?).map_err(no_record)?;
        let mut bytes = with_hash(value).into_bytes();
        bytes.push(b'\n');
        match Self::from_bytes(&bytes) {
            Ok(read) if read == *self => Ok(bytes),
            _ => Err(RecordError::NoRecord("a number of the sampling cannot be written as JSON".to_owned())),
        }
    }

    /// Reads a file, and refuses one of which any byte was changed.
    ///
    /// # Errors
    /// [`RecordError::NoRecord`], [`RecordError::Schema`], [`RecordError::Hash`], [`RecordError::Layout`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        let no_record = |e: serde_json::Error| RecordError::NoRecord(e.to_string());
        let mut value: Value = serde_json::from_slice(bytes).map_err(no_record)?;
        match value.get("record").and_then(Value::as_u64) {
            Some(found) if found == u64::from(SCHEMA) => {}
            Some(found) => return Err(RecordError::Schema { found }),
            None => return Err(RecordError::NoRecord("it has no key `record`".to_owned())),
        }
        let said = value.as_object_mut().and_then(|map| map.remove(HASH));
        let said = said.as_ref().and_then(Value::as_str).unwrap_or("nothing").to_owned();
        let found = hash(&canonical(&value));
        if found != said {
            return Err(RecordError::Hash { found, said });
        }
        let expected = with_hash(value.clone()) + "\n";
        if expected.as_bytes() != bytes {
            let at = expected.bytes().zip(bytes).take_while(|(a, b)| a == *b).count();
            return Err(RecordError::Layout { at });
        }
        serde_json::from_value(value).map_err(no_record)
    }

    /// Whether `model` and this program compute the same bits again.
    ///
    /// # Errors
    /// [`RecordError::Numerics`], [`RecordError::Model`].
    pub fn check(&self, model: &ModelFacts) -> Result<(), RecordError> {
        if self.numerics != VERSION {
            return Err(RecordError::Numerics { recorded: self.numerics.clone() });
        }
        if !self.model.is(model) {
            return Err(RecordError::Model { recorded: self.model.describe(), given: model.describe() });
        }
        Ok(())
    }
}

/// Canonical JSON with the hash of that without it.
fn with_hash(mut value: Value) -> String {
    let hash = hash(&canonical(&value));
    if let Some(map) = value.as_object_mut() {
        map.insert(HASH.to_owned(), hash.into());
    }
    canonical(&value)
}

fn hash(text: &str) -> String {
    hex(&Sha256::digest(text))
}

/// JSON in the one way that it is hashed.
fn canonical(value: &Value) -> String {
    let mut sorted = value.clone();
    sorted.sort_all_objects();
    sorted.to_string()
}

/// A precision as its name.
pub(crate) mod precision {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::numerics::Precision;

    pub(crate) fn name(precision: Precision) -> &'static str {
        match precision {
            Precision::Fast => "fast",
            Precision::Precise => "precise",
        }
    }

    pub(super) fn serialize<S: Serializer>(precision: &Precision, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(name(*precision))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Precision, D::Error> {
        let text = String::deserialize(from)?;
        let known = [Precision::Fast, Precision::Precise].into_iter().find(|p| name(*p) == text);
        known.ok_or_else(|| serde::de::Error::custom(format!("precision {text} is unknown")))
    }
}
