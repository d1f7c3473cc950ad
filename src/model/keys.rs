//! What the metadata keys of an architecture ask for, as data.
//!
//! A file says what its model computes by keys under its architecture's name (`llama.rope.freq_base`). An architecture lists
//! the keys that it obeys. Every other key must be one of this table (llama.cpp's `llama-arch.cpp` and gguf-py's
//! `constants.py`): either it changes no result, or its value asks for nothing, or the file is refused. So is a key that
//! nobody here has heard of: it may ask for anything.

use super::ModelError;
use crate::gguf::{Gguf, Value};

/// A key that an architecture does not obey.
struct Key {
    /// Its name after the architecture; one that ends in `.` stands for all keys that begin so.
    name: &'static str,
    meaning: Meaning,
}

enum Meaning {
    /// It changes no result, for this reason.
    #[cfg_attr(not(test), expect(dead_code, reason = "the words are for readers; a test asks for them"))]
    Harmless(&'static str),
    /// It asks for this, unless one of these holds.
    Asks(&'static str, &'static [Unless]),
}

/// When a key asks for nothing.
enum Unless {
    /// Its value is, or all its elements are, this number.
    Is(f64),
    /// Its value is this truth value.
    Flag(bool),
    /// Its value is this text.
    Text(&'static str),
    /// Its value is that of another key.
    Equals(&'static str),
    /// Its value is at least that of another key.
    AtLeast(&'static str),
    /// Another key is absent or 0.
    Without(&'static str),
}

use Meaning::{Asks, Harmless};
use Unless::{AtLeast, Equals, Flag, Is, Text, Without};

const EXPERTS: &[Unless] = &[Without("expert_count")];
const NONE: &[Unless] = &[Is(0.0)];
const ONE: &[Unless] = &[Is(1.0)];
const SCALE: &[Unless] = &[Is(0.0), Is(1.0)];

const fn key(name: &'static str, meaning: Meaning) -> Key {
    Key { name, meaning }
}

static KEYS: &[Key] = &[
    // What comes first is what a refused file is best called.
    key("expert_count", Asks("a mixture of experts", NONE)),
    key("expert_used_count", Asks("a mixture of experts", NONE)),
    key("vocab_size", Harmless("the embedding has one row per token")),
    key("tensor_data_layout", Harmless("it tells what the file was converted from")),
    key("rope.scaling.finetuned", Harmless("it tells how the model was trained")),
    key("rope.scaling.original_context_length", Harmless("only scalings that name it depend on it")),
    key("attention.sliding_window_pattern", Harmless("it only says which layers have the window")),
    // Sizes.
    key("embedding_length_out", Asks("an output of another width", &[Is(0.0), Equals("embedding_length")])),
    key("embedding_length_per_layer_input", Asks("embeddings per layer", NONE)),
    key("features_length", Asks("an input of features", NONE)),
    key("leading_dense_block_count", Asks("a mixture of experts", EXPERTS)),
    key("moe_every_n_layers", Asks("a mixture of experts", EXPERTS)),
    key("moe_latent_size", Asks("a mixture of experts", EXPERTS)),
    key("interleave_moe_layer_step", Asks("a mixture of experts", EXPERTS)),
    key("expert_feed_forward_length", Asks("a mixture of experts", EXPERTS)),
    key("expert_shared_feed_forward_length", Asks("a shared expert", EXPERTS)),
    key("expert_chunk_feed_forward_length", Asks("experts in chunks", EXPERTS)),
    key("expert_shared_count", Asks("a shared expert", EXPERTS)),
    key("expert_group_count", Asks("experts in groups", EXPERTS)),
    key("expert_group_used_count", Asks("experts in groups", EXPERTS)),
    key("expert_group_scale", Asks("experts in groups", EXPERTS)),
    key("experts_per_group", Asks("experts in groups", EXPERTS)),
    key("expert_weights_scale", Asks("a scale of the experts' weights", &[Without("expert_count"), Is(0.0), Is(1.0)])),
    key("expert_weights_norm", Asks("a norm of the experts' weights", EXPERTS)),
    key("expert_gating_func", Asks("another gating of experts", EXPERTS)),
    key("expert_latent_length", Asks("experts in a latent space", EXPERTS)),
    key("router_logit_softcapping", Asks("a soft cap of the router", &[Without("expert_count"), Is(0.0)])),
    key("nextn_predict_layers", Asks("layers that predict further tokens", NONE)),
    key("n_deepstack_layers", Asks("deepstack layers", NONE)),
    key("deepstack_mapping", Asks("deepstack layers", &[Is(-1.0)])),
    // Activations, scales and caps.
    key("hidden_activation", Asks("another activation", &[Text("silu"), Text("swish")])),
    key("activation.", Asks("another activation", &[])),
    key("swiglu_clamp_exp", Asks("a clamped gate", NONE)),
    key("swiglu_clamp_shexp", Asks("a clamped gate", NONE)),
    key("embedding_scale", Asks("a scale of the embedding", SCALE)),
    key("residual_scale", Asks("a scale of the residual stream", SCALE)),
    key("logit_scale", Asks("a scale of the logits", SCALE)),
    key("attn_logit_softcapping", Asks("a soft cap of the attention's scores", NONE)),
    key("final_logit_softcapping", Asks("a soft cap of the logits", NONE)),
    key("use_parallel_residual", Asks("attention and feed-forward in parallel", &[Flag(false)])),
    key("swin_norm", Asks("another place of the norms", &[Flag(false)])),
    key("norm_before_residual", Asks("another place of the norms", &[Flag(false)])),
    key("norm_before_fc", Asks("another place of the norms", &[Flag(false)])),
    key("num_loops", Asks("layers that run several times", SCALE)),
    key("skip_loop_final_norm", Asks("layers that run several times", &[Flag(false)])),
    key("full_attention_interval", Asks("layers without attention", SCALE)),
    key("pooling_type", Asks("pooled embeddings", NONE)),
    key("classifier.", Asks("a classifier", NONE)),
    key("dense_2_feat_", Asks("a dense layer behind the output", NONE)),
    key("dense_3_feat_", Asks("a dense layer behind the output", NONE)),
    key("decoder_start_token_id", Asks("an encoder and a decoder", &[])),
    key("decoder_block_count", Asks("an encoder and a decoder", NONE)),
    key("adapters.", Asks("adapters", NONE)),
    key("target_layers", Asks("a draft model", &[])),
    key("target_hidden_size", Asks("a draft model", NONE)),
    key("block_size", Asks("a draft model", NONE)),
    // Attention.
    key("attention.causal", Asks("attention to later tokens", &[Flag(true)])),
    key("attention.scale", Asks("a scale of the attention's scores", NONE)),
    key("attention.output_scale", Asks("a scale of the attention's output", SCALE)),
    key("attention.value_scale", Asks("a scale of the attention's values", SCALE)),
    key("attention.clamp_kqv", Asks("a clamp of queries, keys and values", NONE)),
    key("attention.max_alibi_bias", Asks("ALiBi", NONE)),
    key("attention.layer_norm_epsilon", Asks("norms that subtract the mean", &[])),
    key("attention.group_norm_epsilon", Asks("norms of groups", &[])),
    key("attention.group_norm_groups", Asks("norms of groups", NONE)),
    key("attention.sliding_window", Asks("attention within a window", &[Is(0.0), AtLeast("context_length")])),
    key("attention.key_length_swa", Asks("other heads within the window", &[Equals("attention.key_length")])),
    key("attention.value_length_swa", Asks("other heads within the window", &[Equals("attention.value_length")])),
    key("attention.q_lora_rank", Asks("latent attention", NONE)),
    key("attention.kv_lora_rank", Asks("latent attention", NONE)),
    key("attention.key_length_mla", Asks("latent attention", NONE)),
    key("attention.value_length_mla", Asks("latent attention", NONE)),
    key("attention.temperature_length", Asks("a temperature of the attention", NONE)),
    key("attention.temperature_scale", Asks("a temperature of the attention", NONE)),
    key("attention.relative_buckets_count", Asks("relative positions", NONE)),
    key("attention.shared_kv_layers", Asks("layers that share keys and values", NONE)),
    key("attention.recurrent_layers", Asks("recurrent layers", &[Is(0.0), Flag(false)])),
    key("attention.indexer.", Asks("sparse attention", NONE)),
    // Positions.
    key("rope.dimension_count_swa", Asks("other positions within the window", &[Equals("rope.dimension_count")])),
    key("rope.freq_base_swa", Asks("other positions within the window", &[Equals("rope.freq_base")])),
    key("rope.dimension_sections", Asks("positions in several dimensions", NONE)),
    key("rope.scaling.attn_factor", Asks("a magnitude of the positions", ONE)),
    key("rope.scaling.alpha", Asks("a scale of the positions", SCALE)),
    key("rope.scaling.yarn_log_multiplier", Asks("YaRN", NONE)),
    key("rope.scaling.yarn_ext_factor", Asks("YaRN", NONE)),
    key("rope.scaling.yarn_attn_factor", Asks("YaRN", ONE)),
    key("rope.scaling.yarn_beta_fast", Asks("YaRN with its own limits", &[Is(32.0)])),
    key("rope.scaling.yarn_beta_slow", Asks("YaRN with its own limits", ONE)),
    // Layers of other kinds.
    key("ssm.", Asks("state space layers", NONE)),
    key("wkv.", Asks("recurrent layers", NONE)),
    key("kda.", Asks("delta attention", NONE)),
    key("shortconv.", Asks("convolution layers", NONE)),
    key("posnet.", Asks("convolution layers", NONE)),
    key("convnext.", Asks("convolution layers", NONE)),
    key("hyper_connection.", Asks("hyper-connections", NONE)),
    key("ple.", Asks("embeddings per layer", NONE)),
    key("hrm.", Asks("layers that run several times", NONE)),
    key("attn_res.", Asks("another residual stream", NONE)),
    key("hash_layer_count", Asks("hash layers", NONE)),
    key("rescale_every_n_layers", Asks("a scale of the residual stream", NONE)),
    key("token_shift_count", Asks("recurrent layers", NONE)),
    key("time_mix_extra_dim", Asks("recurrent layers", NONE)),
    key("time_decay_extra_dim", Asks("recurrent layers", NONE)),
];

/// Refuses a file with a key under its architecture's name that is neither `obeyed` nor known to ask for nothing.
pub(super) fn check(gguf: &Gguf, architecture: &str, obeyed: &[&str]) -> Result<(), ModelError> {
    let prefix = format!("{architecture}.");
    let mut worst: Option<(usize, ModelError)> = None;
    for (full, value) in gguf.metadata() {
        let Some(name) = full.strip_prefix(&prefix).filter(|name| !obeyed.contains(name)) else { continue };
        let (key, value_text) = (full.clone(), value.summary());
        let (rank, error) = match KEYS.iter().position(|k| k.covers(name)) {
            None => (KEYS.len(), ModelError::UnknownKey { key, value: value_text }),
            Some(i) => match &KEYS[i].meaning {
                Harmless(_) => continue,
                Asks(_, unless) if unless.iter().any(|u| u.holds(gguf, &prefix, value)) => continue,
                Asks(what, _) => {
                    let architecture = architecture.to_owned();
                    (i, ModelError::Unsupported { key, value: value_text, what, architecture })
                }
            },
        };
        if worst.as_ref().is_none_or(|(best, _)| rank < *best) {
            worst = Some((rank, error));
        }
    }
    worst.map_or(Ok(()), |(_, error)| Err(error))
}

impl Key {
    fn covers(&self, name: &str) -> bool {
        let family = self.name.ends_with('.') || self.name.ends_with('_');
        if family { name.starts_with(self.name) } else { name == self.name }
    }
}

impl Unless {
    fn holds(&self, gguf: &Gguf, prefix: &str, value: &Value) -> bool {
        let other = |name: &str| gguf.get(&format!("{prefix}{name}")).and_then(Value::as_f64);
        match self {
            Is(number) => value.as_f64() == Some(*number),
            Flag(flag) => match value {
                Value::Array(array) => array.uniform() == Some(Value::Bool(*flag)),
                value => *value == Value::Bool(*flag),
            },
            Text(text) => matches!(value, Value::String(found) if found == text),
            Equals(name) => value.as_f64().is_some() && value.as_f64() == other(name),
            AtLeast(name) => matches!((value.as_f64(), other(name)), (Some(x), Some(y)) if x >= y),
            Without(name) => other(name).is_none_or(|n| n == 0.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Asks, Harmless, KEYS};

    #[test]
    fn every_key_is_listed_once_and_says_why() {
        for (i, key) in KEYS.iter().enumerate() {
            let (Harmless(words) | Asks(words, _)) = &key.meaning;
            assert!(!words.is_empty(), "{}", key.name);
            assert!(!KEYS[..i].iter().any(|k| k.covers(key.name)), "{} is listed twice", key.name);
        }
    }
}
