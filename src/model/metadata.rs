//! The metadata of an architecture, read and checked.

use super::{Config, ModelError};
use crate::gguf::{Array, Gguf, Value};

/// Keys that every architecture obeys, after its name.
pub(super) const KEYS: &[&str] = &[
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "attention.layer_norm_rms_epsilon",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scale_linear",
    "rope.scaling.type",
    "rope.scaling.factor",
    "rope.scaling.attn_factor",
    "rope.scaling.low_freq_factor",
    "rope.scaling.high_freq_factor",
    "rope.scaling.original_context_length",
];

/// The metadata under an architecture's name.
#[derive(Clone, Copy)]
pub(super) struct Metadata<'a> {
    pub gguf: &'a Gguf,
    pub architecture: &'a str,
}

impl Metadata<'_> {
    /// The whole key.
    pub fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    pub fn has(&self, name: &str) -> bool {
        self.gguf.get(&self.key(name)).is_some()
    }

    /// That a key's value cannot be.
    pub fn refused(&self, name: &str, reason: &'static str) -> ModelError {
        let key = self.key(name);
        let value = self.gguf.get(&key).map_or_else(|| "missing".to_owned(), Value::summary);
        ModelError::Metadata { key, value, reason }
    }

    /// A size, which may be given once per layer if all are equal.
    pub fn count(&self, name: &str, default: Option<usize>) -> Result<usize, ModelError> {
        let key = self.key(name);
        let value = match (self.gguf.get(&key), default) {
            (None, Some(default)) => default,
            (Some(Value::Array(values)), _) => self.same_in_all_layers(name, values)?,
            _ => self.gguf.get_u32(&key)? as usize,
        };
        if value == 0 || value > 1 << 24 {
            let reason = "it must lie between 1 and 2^24; the file is damaged";
            return Err(ModelError::Metadata { key, value: value.to_string(), reason });
        }
        Ok(value)
    }

    /// The same where 0 stands for absent.
    pub fn optional_count(&self, name: &str) -> Result<Option<usize>, ModelError> {
        match self.gguf.get(&self.key(name)).and_then(Value::as_u64) {
            Some(0) => Ok(None),
            _ if self.has(name) => self.count(name, None).map(Some),
            _ => Ok(None),
        }
    }

    /// A positive number; `None` where it is absent or 0.
    pub fn optional_number(&self, name: &str) -> Result<Option<f64>, ModelError> {
        match self.gguf.get(&self.key(name)).map(Value::as_f64) {
            None | Some(Some(0.0)) => Ok(None),
            _ => self.positive(name, 0.0).map(Some),
        }
    }

    /// A positive number.
    pub fn positive(&self, name: &str, default: f64) -> Result<f64, ModelError> {
        if !self.has(name) {
            return Ok(default);
        }
        let number = f64::from(self.gguf.get_f32(&self.key(name))?);
        if number.is_finite() && number > 0.0 { Ok(number) } else { Err(self.refused(name, "it must be positive")) }
    }

    /// A truth value.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, ModelError> {
        if self.has(name) { Ok(self.gguf.get_bool(&self.key(name))?) } else { Ok(default) }
    }

    /// For each of so many layers whether it has the window: by a number p, all but every p-th, or by a truth value per layer.
    pub fn window_pattern(&self, layers: usize, default: usize) -> Result<Vec<bool>, ModelError> {
        let name = "attention.sliding_window_pattern";
        let every = |p: usize| (0..layers).map(|i| p == 0 || i % p < p - 1).collect();
        match self.gguf.get(&self.key(name)) {
            None => Ok(every(default)),
            Some(Value::Array(Array::Bool(flags))) if flags.len() == layers => Ok(flags.clone()),
            Some(Value::Array(_)) => {
                Err(self.refused(name, "there must be one truth value per layer; the file is damaged"))
            }
            Some(_) => Ok(every(self.gguf.get_u32(&self.key(name))? as usize)),
        }
    }

    fn same_in_all_layers(&self, name: &str, values: &Array) -> Result<usize, ModelError> {
        let same = values.uniform().and_then(|value| usize::try_from(value.as_u64()?).ok());
        let same = same.ok_or_else(|| self.refused(name, "layers that differ are not supported"))?;
        if self.gguf.get(&self.key("block_count")).and_then(Value::as_u64) != Some(values.len() as u64) {
            return Err(self.refused(name, "there must be one value per layer; the file is damaged"));
        }
        Ok(same)
    }

    /// Reads and checks the numbers that every architecture has.
    pub fn config(&self) -> Result<Config, ModelError> {
        let check = |name: &str, value: usize, ok: bool, reason| match ok {
            true => Ok(()),
            false => Err(ModelError::Metadata { key: self.key(name), value: value.to_string(), reason }),
        };
        let embedding_length = self.count("embedding_length", None)?;
        let head_count = self.count("attention.head_count", None)?;
        let head_count_kv = self.count("attention.head_count_kv", Some(head_count))?;
        // Of latent attention these are the sizes of heads; the other keys are those of its cache.
        let latent = self.has("attention.key_length_mla");
        let [key_name, value_name] = match latent {
            true => ["attention.key_length_mla", "attention.value_length_mla"],
            false => ["attention.key_length", "attention.value_length"],
        };
        let head_dim = self.count(key_name, Some(embedding_length / head_count))?;
        let value_dim = self.count(value_name, Some(head_dim))?;
        let rope_dimensions = self.count("rope.dimension_count", Some(head_dim))?;
        let divides = head_count % head_count_kv == 0;
        check("attention.head_count_kv", head_count_kv, divides, "it must divide the head count")?;
        check("attention.key_length", head_dim, head_dim % 2 == 0, "heads of odd size are not supported")?;
        check("attention.value_length", value_dim, latent || value_dim == head_dim, "it must equal the key length")?;
        let rope_fits = rope_dimensions % 2 == 0 && rope_dimensions <= head_dim;
        check("rope.dimension_count", rope_dimensions, rope_fits, "it must be even and at most the head size")?;
        let eps_name = "attention.layer_norm_rms_epsilon";
        let rms_eps = self.gguf.get_f32(&self.key(eps_name))?;
        if !(0.0..1.0).contains(&rms_eps) {
            return Err(self.refused(eps_name, "it must lie between 0 and 1"));
        }
        let block_count = self.count("block_count", None)?;
        let tensor = |name: String| self.gguf.tensor(&name).ok_or(ModelError::MissingTensor(name));
        // Sizes are compared with tensors before memory depends on them.
        for layer in [0, block_count - 1] {
            let name = format!("blk.{layer}.attn_output.weight");
            let expected = vec![(head_count * value_dim) as u64, embedding_length as u64];
            let found = tensor(name.clone())?.dims.clone();
            if found != expected {
                return Err(ModelError::Shape { name, found, expected });
            }
        }
        let embedding = tensor("token_embd.weight".to_owned())?;
        Ok(Config {
            architecture: self.architecture.to_owned(),
            name: self.gguf.get_text("general.name").unwrap_or_default().into_owned(),
            block_count,
            embedding_length,
            feed_forward_length: self.count("feed_forward_length", None)?,
            head_count,
            head_count_kv,
            head_dim,
            context_length: self.count("context_length", None)?,
            vocabulary: embedding.dims.get(1).copied().unwrap_or(1) as usize,
            rms_eps,
            rope_dimensions,
            parameters: self.gguf.tensors().iter().map(|t| t.dims.iter().product::<u64>()).sum(),
        })
    }
}
