//! Architecture `llama`: Llama 1 to 3, TinyLlama, SmolLM2, Mistral (Touvron et al. 2023; `llama.cpp` names).

use std::ops::Range;

use super::{Config, ModelError, weight};
use crate::gguf::{Array, Gguf, Value};
use crate::numerics::Precision;
use crate::ops;
use crate::plan::{Builder, CacheSpec, Op, Plan, WeightId};

/// Keys that are obeyed, after `llama.`.
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
    "rope.scaling.low_freq_factor",
    "rope.scaling.high_freq_factor",
    "rope.scaling.original_context_length",
];

/// Tensors that are read besides those of the steps.
pub(super) const TENSORS: &[&str] = &["rope_freqs.weight"];

/// Reads and checks the numbers of the model.
pub(super) fn config(gguf: &Gguf) -> Result<Config, ModelError> {
    let key = |name: &str| format!("llama.{name}");
    let count = |name: &str, default: Option<usize>| -> Result<usize, ModelError> {
        let key = key(name);
        let value = match (gguf.get(&key), default) {
            (None, Some(default)) => default,
            (Some(Value::Array(values)), _) => same_in_all_layers(gguf, &key, values)?,
            _ => gguf.get_u32(&key)? as usize,
        };
        if value == 0 || value > 1 << 24 {
            let reason = "it must lie between 1 and 2^24; the file is damaged";
            return Err(ModelError::Metadata { key, value: value.to_string(), reason });
        }
        Ok(value)
    };
    let check = |name: &str, value: usize, ok: bool, reason| {
        if ok { Ok(()) } else { Err(ModelError::Metadata { key: key(name), value: value.to_string(), reason }) }
    };
    let embedding_length = count("embedding_length", None)?;
    let head_count = count("attention.head_count", None)?;
    let head_count_kv = count("attention.head_count_kv", Some(head_count))?;
    let head_dim = count("attention.key_length", Some(embedding_length / head_count))?;
    let value_dim = count("attention.value_length", Some(head_dim))?;
    let rope_dimensions = count("rope.dimension_count", Some(head_dim))?;
    check("attention.head_count_kv", head_count_kv, head_count % head_count_kv == 0, "it must divide the head count")?;
    check("attention.key_length", head_dim, head_dim % 2 == 0, "heads of odd size are not supported")?;
    check("attention.value_length", value_dim, value_dim == head_dim, "it must equal the key length")?;
    let rope_fits = rope_dimensions % 2 == 0 && rope_dimensions <= head_dim;
    check("rope.dimension_count", rope_dimensions, rope_fits, "it must be even and at most the head size")?;
    let eps_key = key("attention.layer_norm_rms_epsilon");
    let rms_eps = gguf.get_f32(&eps_key)?;
    if !(0.0..1.0).contains(&rms_eps) {
        let reason = "it must lie between 0 and 1";
        return Err(ModelError::Metadata { key: eps_key, value: rms_eps.to_string(), reason });
    }
    let block_count = count("block_count", None)?;
    let layers_present = gguf.tensor(&format!("blk.{}.attn_norm.weight", block_count - 1)).is_some();
    if !layers_present {
        return Err(ModelError::MissingTensor(format!("blk.{}.attn_norm.weight", block_count - 1)));
    }
    let embedding =
        gguf.tensor("token_embd.weight").ok_or_else(|| ModelError::MissingTensor("token_embd.weight".to_owned()))?;
    Ok(Config {
        architecture: "llama".to_owned(),
        name: gguf.get_text("general.name").unwrap_or_default().into_owned(),
        block_count,
        embedding_length,
        feed_forward_length: count("feed_forward_length", None)?,
        head_count,
        head_count_kv,
        head_dim,
        context_length: count("context_length", None)?,
        vocabulary: embedding.dims.get(1).copied().unwrap_or(1) as usize,
        rms_eps,
        rope_dimensions,
        parameters: gguf.tensors().iter().map(|t| t.dims.iter().product::<u64>()).sum(),
    })
}

/// The value of a key with one value per layer, where all are equal.
fn same_in_all_layers(gguf: &Gguf, key: &str, values: &Array) -> Result<usize, ModelError> {
    let text = Value::Array(values.clone()).summary();
    let refused = |reason| ModelError::Metadata { key: key.to_owned(), value: text.clone(), reason };
    let same = values.uniform().and_then(|value| usize::try_from(value.as_u64()?).ok());
    let same = same.ok_or_else(|| refused("layers that differ are not supported"))?;
    if gguf.get("llama.block_count").and_then(Value::as_u64) != Some(values.len() as u64) {
        return Err(refused("there must be one value per layer; the file is damaged"));
    }
    Ok(same)
}

/// RoPE frequencies in radians per position, with the file's scaling.
fn rope_frequencies(gguf: &Gguf, config: &Config) -> Result<Vec<f64>, ModelError> {
    let positive = |name: &str, default: f64| -> Result<f64, ModelError> {
        let key = format!("llama.rope.{name}");
        let Some(value) = gguf.get(&key) else { return Ok(default) };
        let number = f64::from(gguf.get_f32(&key)?);
        if number.is_finite() && number > 0.0 {
            return Ok(number);
        }
        Err(ModelError::Metadata { key, value: value.summary(), reason: "it must be positive" })
    };
    let base = positive("freq_base", 10000.0)?;
    let dims = config.rope_dimensions;
    let mut frequencies: Vec<f64> = (0..dims / 2).map(|i| libm::pow(base, -2.0 * i as f64 / dims as f64)).collect();
    // As in llama.cpp: a factor without a type is linear, a factor of 0 is none, and `scale_linear` is the old name.
    let factor_key = ["scaling.factor", "scale_linear"]
        .into_iter()
        .find(|name| gguf.get(&format!("llama.rope.{name}")).is_some_and(|value| value.as_f64() != Some(0.0)));
    let factor = |default: f64| factor_key.map_or(Ok(default), |name| positive(name, default));
    let kind_key = "llama.rope.scaling.type";
    let kind = if gguf.get(kind_key).is_some() { gguf.get_str(kind_key)? } else { "linear" };
    match kind {
        "none" => {}
        "linear" => {
            let factor = factor(1.0)?;
            frequencies.iter_mut().for_each(|f| *f /= factor);
        }
        "llama3" => {
            let factor = factor(8.0)?;
            let low = positive("scaling.low_freq_factor", 1.0)?;
            let high = positive("scaling.high_freq_factor", 4.0)?;
            let original = match gguf.get("llama.rope.scaling.original_context_length") {
                Some(value) => value.as_f64().filter(|n| *n > 0.0).unwrap_or(8192.0),
                None => 8192.0,
            };
            frequencies.iter_mut().for_each(|f| *f = llama3_scaled(*f, factor, low, high, original));
        }
        other => {
            let (value, reason) = (format!("{other:?}"), "supported: none, linear, llama3");
            return Err(ModelError::Metadata { key: kind_key.to_owned(), value, reason });
        }
    }
    if let Some(factors) = weight(gguf, "rope_freqs.weight", 1, dims / 2)? {
        let mut values = vec![0.0; dims / 2];
        if let Some(tensor) = gguf.tensor(&factors.name) {
            factors.format.dequantize(gguf.data(tensor), &mut values);
        }
        for (frequency, factor) in frequencies.iter_mut().zip(values) {
            *frequency /= f64::from(factor);
        }
    }
    if let Some(bad) = frequencies.iter().find(|f| !f.is_finite()) {
        let reason = "the frequencies of RoPE must be finite numbers; 'rope_freqs.weight' or a factor is damaged";
        return Err(ModelError::Metadata { key: "llama.rope".to_owned(), value: bad.to_string(), reason });
    }
    Ok(frequencies)
}

/// The Llama 3.1 scaling of one frequency: long wavelengths slow down by `factor`, short ones stay.
fn llama3_scaled(frequency: f64, factor: f64, low: f64, high: f64, original: f64) -> f64 {
    let wavelength = 2.0 * std::f64::consts::PI / frequency;
    if wavelength < original / high {
        return frequency;
    }
    if wavelength > original / low {
        return frequency / factor;
    }
    let smooth = (original / wavelength - low) / (high - low);
    (1.0 - smooth) * frequency / factor + smooth * frequency
}

/// The plan of the embedding, these layers and the output.
pub(super) fn plan(gguf: &Gguf, c: &Config, precision: Precision, layers: Range<usize>) -> Result<Plan, ModelError> {
    let (q_width, kv_width) = (c.head_count * c.head_dim, c.head_count_kv * c.head_dim);
    // Sizes are compared with a tensor before memory depends on them.
    let query = "blk.0.attn_q.weight";
    weight(gguf, query, q_width, c.embedding_length)?.ok_or_else(|| ModelError::MissingTensor(query.to_owned()))?;
    let mut b = Builder::new(precision);
    let angles = b.angles(rope_frequencies(gguf, c)?);
    let optional = |b: &mut Builder, name: &str, rows: usize, cols: usize| -> Result<Option<WeightId>, ModelError> {
        Ok(weight(gguf, name, rows, cols)?.map(|w| b.weight(w)))
    };
    let required = |b: &mut Builder, name: &str, rows: usize, cols: usize| -> Result<WeightId, ModelError> {
        optional(b, name, rows, cols)?.ok_or_else(|| ModelError::MissingTensor(name.to_owned()))
    };

    let x = b.buffer("x", c.embedding_length);
    let norm = b.buffer("norm", c.embedding_length);
    let [q, att] = ["q", "attention"].map(|n| b.buffer(n, q_width));
    let [k, v] = ["k", "v"].map(|n| b.buffer(n, kv_width));
    let branch = b.buffer("branch", c.embedding_length);
    let [gate, up, hidden] = ["gate", "up", "hidden"].map(|n| b.buffer(n, c.feed_forward_length));

    let embedding = required(&mut b, "token_embd.weight", c.vocabulary, c.embedding_length)?;
    b.step("token_embd", Op::Embedding(ops::Embedding { weight: embedding, out: x }));
    for layer in layers {
        let tensor = |part: &str| format!("blk.{layer}.{part}");
        let matrix = |b: &mut Builder, part: &str, rows: usize, cols: usize| {
            let w = required(b, &format!("blk.{layer}.{part}.weight"), rows, cols)?;
            let bias = optional(b, &format!("blk.{layer}.{part}.bias"), 1, rows)?;
            Ok::<_, ModelError>((w, bias))
        };
        let attn_norm = required(&mut b, &tensor("attn_norm.weight"), 1, c.embedding_length)?;
        let (wq, bq) = matrix(&mut b, "attn_q", q_width, c.embedding_length)?;
        let (wk, bk) = matrix(&mut b, "attn_k", kv_width, c.embedding_length)?;
        let (wv, bv) = matrix(&mut b, "attn_v", kv_width, c.embedding_length)?;
        let (wo, bo) = matrix(&mut b, "attn_output", c.embedding_length, q_width)?;
        let ffn_norm = required(&mut b, &tensor("ffn_norm.weight"), 1, c.embedding_length)?;
        let (wg, bg) = matrix(&mut b, "ffn_gate", c.feed_forward_length, c.embedding_length)?;
        let (wu, bu) = matrix(&mut b, "ffn_up", c.feed_forward_length, c.embedding_length)?;
        let (wd, bd) = matrix(&mut b, "ffn_down", c.embedding_length, c.feed_forward_length)?;

        b.layer(Some(layer));
        b.step("attn_norm", Op::RmsNorm(ops::RmsNorm { x, weight: attn_norm, out: norm, eps: c.rms_eps }));
        let qkv = [("attn_q", wq, bq, q), ("attn_k", wk, bk, k), ("attn_v", wv, bv, v)];
        b.matmuls(norm, "attn_norm", qkv);
        for (name, x) in [("attn_q.rope", q), ("attn_k.rope", k)] {
            b.step(name, Op::Rope(ops::Rope { x, head_dim: c.head_dim, angles, neox: false }));
        }
        let cache = b.cache(CacheSpec { kv_heads: c.head_count_kv, head_dim: c.head_dim });
        b.step("kv_cache", Op::KvStore(ops::KvStore { k, v, cache }));
        b.step("attention", Op::Attention(ops::Attention { q, out: att, cache, heads: c.head_count }));
        b.matmuls(att, "attention", [("attn_output", wo, bo, branch)]);
        b.step("attn_residual", Op::Add(ops::Add { x, b: branch }));

        b.step("ffn_norm", Op::RmsNorm(ops::RmsNorm { x, weight: ffn_norm, out: norm, eps: c.rms_eps }));
        let gate_up = [("ffn_gate", wg, bg, gate), ("ffn_up", wu, bu, up)];
        b.matmuls(norm, "ffn_norm", gate_up);
        b.step("ffn_silu_mul", Op::SiluMul(ops::SiluMul { a: gate, b: up, out: hidden }));
        b.matmuls(hidden, "ffn_silu_mul", [("ffn_down", wd, bd, branch)]);
        b.step("ffn_residual", Op::Add(ops::Add { x, b: branch }));
    }
    b.layer(None);
    let [last, norm] = ["last", "last norm"].map(|n| b.wanted_buffer(n, c.embedding_length));
    let output_norm = required(&mut b, "output_norm.weight", 1, c.embedding_length)?;
    b.step("output_rows", Op::Gather(ops::Gather { x, out: last }));
    b.step("output_norm", Op::RmsNorm(ops::RmsNorm { x: last, weight: output_norm, out: norm, eps: c.rms_eps }));
    let output = optional(&mut b, "output.weight", c.vocabulary, c.embedding_length)?.unwrap_or(embedding);
    let logits = b.wanted_buffer("logits", c.vocabulary);
    b.matmuls(norm, "output_norm", [("output", output, None, logits)]);
    Ok(b.finish(logits)?)
}
