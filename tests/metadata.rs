//! A file that asks for what is not done is refused by name: every key and every tensor counts.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::mini::{Mini, NORMAL, text};
use common::{bits, on_cpu};
use samebits::gguf::{Array, Value};
use samebits::model::ModelError;
use samebits::numerics::Precision;

fn llama() -> Mini {
    Mini::spm(&[("he", NORMAL)]).llama(2)
}

fn logits(mini: &Mini) -> Vec<u32> {
    let model = mini.model().unwrap_or_else(|e| panic!("{e}"));
    bits(&on_cpu(&model, Precision::Precise, 16, 4, 1).feed(&[1, 40, 300, 41, 42, 43], false).unwrap())
}

fn array_u32(values: &[u32]) -> Value {
    Value::Array(Array::U32(values.to_vec()))
}

#[test]
fn keys_that_change_results_are_refused_by_name_unless_their_value_asks_for_nothing() {
    let (f, u, b) = (Value::F32, Value::U32, Value::Bool);
    // Key after `llama.`, values that ask for nothing, one that asks for something.
    let cases: Vec<(&str, Vec<Value>, Value)> = vec![
        ("attn_logit_softcapping", vec![f(0.0)], f(50.0)),
        ("final_logit_softcapping", vec![f(0.0)], f(30.0)),
        ("router_logit_softcapping", vec![f(0.0), f(30.0)], Value::Bool(true)),
        ("logit_scale", vec![f(1.0), f(0.0)], f(0.0625)),
        ("embedding_scale", vec![f(1.0), f(0.0)], f(12.0)),
        ("residual_scale", vec![f(1.0), f(0.0)], f(0.22)),
        ("attention.scale", vec![f(0.0)], f(0.015625)),
        ("attention.output_scale", vec![f(1.0)], f(2.0)),
        ("attention.clamp_kqv", vec![f(0.0)], f(8.0)),
        ("attention.max_alibi_bias", vec![f(0.0)], f(8.0)),
        ("attention.causal", vec![b(true)], b(false)),
        ("attention.layer_norm_epsilon", vec![], f(1e-5)),
        ("attention.sliding_window", vec![u(0), u(64), u(4096)], u(63)),
        ("attention.sliding_window", vec![array_u32(&[0, 0])], array_u32(&[0, 8])),
        ("attention.temperature_scale", vec![f(0.0)], f(0.1)),
        ("attention.q_lora_rank", vec![u(0)], u(16)),
        ("attention.shared_kv_layers", vec![u(0)], u(1)),
        ("attention.indexer.top_k", vec![u(0)], u(4)),
        ("rope.freq_base_swa", vec![], f(1e6)),
        ("rope.dimension_sections", vec![array_u32(&[0, 0, 0, 0])], array_u32(&[1, 1, 2, 0])),
        ("rope.scaling.yarn_beta_fast", vec![f(32.0)], f(16.0)),
        ("rope.scaling.yarn_beta_slow", vec![f(1.0)], f(2.0)),
        ("rope.scaling.yarn_log_multiplier", vec![f(0.0)], f(0.1)),
        ("rope.scaling.yarn_ext_factor", vec![f(0.0)], f(1.0)),
        ("rope.scaling.alpha", vec![f(0.0), f(1.0)], f(2.0)),
        ("rope.scaling.type", vec![text("none"), text("linear")], text("dynamic")),
        ("rope.scaling.factor", vec![f(0.0), f(1.0)], f(-2.0)),
        ("pooling_type", vec![u(0)], u(3)),
        ("use_parallel_residual", vec![b(false)], b(true)),
        ("hidden_activation", vec![text("silu")], text("gelu")),
        ("swiglu_clamp_exp", vec![Value::Array(Array::F32(vec![0.0, 0.0]))], f(7.0)),
        ("nextn_predict_layers", vec![u(0)], u(1)),
        ("leading_dense_block_count", vec![u(0), u(1)], b(true)),
        ("ssm.state_size", vec![u(0)], u(16)),
        ("classifier.output_labels", vec![], Value::Array(Array::String(vec!["no".into(), "yes".into()]))),
        ("full_attention_interval", vec![u(1)], u(4)),
        ("token_shift_count", vec![u(0)], u(2)),
    ];
    let base = logits(&llama());
    for (name, harmless, asking) in cases {
        let key = format!("llama.{name}");
        for value in harmless {
            let with = llama().set(&key, value.clone());
            assert_eq!(with.refusal(), "", "{key} = {value:?}");
            assert_eq!(logits(&with), base, "{key} = {value:?}");
        }
        // Where there are no experts, nothing that is said of them counts.
        if !matches!(name, "router_logit_softcapping" | "leading_dense_block_count") {
            let refusal = llama().set(&key, asking.clone()).refusal();
            assert!(refusal.contains(&format!("'{key}' is {}", asking.summary())), "{key} = {asking:?}: {refusal:?}");
        }
    }
}

#[test]
fn keys_that_say_nothing_of_the_computation_are_accepted_and_unknown_ones_refused() {
    let base = logits(&llama());
    for (key, value) in [
        ("llama.vocab_size", Value::U32(7)),
        ("llama.rope.scaling.finetuned", Value::Bool(true)),
        ("llama.rope.scaling.original_context_length", Value::U32(8)),
        ("llama.tensor_data_layout", text("Meta AI original pth")),
        ("general.file_type", Value::U32(2)),
        ("general.sampling.temp", Value::F32(0.7)),
        ("quantize.imatrix.file", text("x")),
        ("somebody.else", Value::U32(1)),
        ("gemma3.attention.sliding_window", Value::U32(4)),
        ("tokenizer.chat_template", text("{{ x }}")),
    ] {
        assert_eq!(logits(&llama().set(key, value)), base, "{key}");
    }
    for key in
        ["llama.unheard_of", "llama.rope.unheard_of", "llama.attention.unheard_of", "llama.rope.scaling.x", "llama."]
    {
        let error = llama().set(key, Value::F32(1.0)).model().unwrap_err();
        assert!(matches!(&error, ModelError::UnknownKey { key: k, .. } if k == key), "{key}: {error}");
        assert!(error.to_string().contains("newer samebits"), "{error}");
    }
}

#[test]
fn a_scaling_factor_without_a_type_is_linear() {
    let typed = llama().set("llama.rope.scaling.factor", Value::F32(4.0));
    let linear = logits(&typed.clone().set("llama.rope.scaling.type", text("linear")));
    assert_eq!(logits(&typed), linear);
    assert_eq!(logits(&llama().set("llama.rope.scale_linear", Value::F32(4.0))), linear);
    assert_ne!(linear, logits(&llama()));
    assert_eq!(logits(&typed.set("llama.rope.scaling.type", text("none"))), logits(&llama()));
}

#[test]
fn tensors_that_no_step_reads_are_refused_by_name() {
    for (name, dims) in [
        ("blk.0.attn_q_norm.weight", vec![8]),
        ("blk.1.attn_norm.bias", vec![32]),
        ("blk.0.post_attention_norm.weight", vec![32]),
        ("blk.0.ffn_gate_inp.weight", vec![32, 4]),
        ("blk.0.attn_sinks.weight", vec![4]),
        ("output.bias", vec![355]),
        ("output_norm.bias", vec![32]),
        ("rope_factors_long.weight", vec![4]),
        ("rope_factors_short.weight", vec![4]),
        ("token_types.weight", vec![32, 2]),
        ("per_layer_token_embd.weight", vec![32, 4]),
        ("anything", vec![1]),
    ] {
        let refusal = llama().tensor(name, &dims).refusal();
        assert!(refusal.contains(&format!("'{name}'")) && refusal.contains("not part of architecture"), "{refusal}");
    }
    let beyond = llama().set("llama.block_count", Value::U32(1)).refusal();
    assert!(
        beyond.contains("'blk.1.") && beyond.contains("(and 8 more)") && beyond.contains("block_count"),
        "{beyond}"
    );
    // LongRoPE's factors are read with that type, and it needs them.
    let long = llama().set("llama.rope.scaling.type", text("longrope"));
    assert!(long.refusal().contains("'rope_factors_"), "{}", long.refusal());
    let factors = ["rope_factors_short.weight", "rope_factors_long.weight"];
    let long = factors.iter().fold(long, |long, name| long.tensor(name, &[4]));
    assert_ne!(logits(&long), logits(&llama()));
    assert_ne!(logits(&llama().set("llama.rope.scaling.attn_factor", Value::F32(1.2))), logits(&llama()));
    // These are read.
    let factors = llama().tensor("rope_freqs.weight", &[4]);
    assert_ne!(logits(&factors), logits(&llama()));
    assert_ne!(logits(&llama().tensor("blk.0.attn_q.bias", &[32])), logits(&llama()));
}

#[test]
fn what_a_file_is_comes_before_what_it_lacks() {
    let mut latent = llama().set("llama.attention.q_lora_rank", Value::U32(8));
    latent.tensors.retain(|t| !t.0.contains("ffn_gate"));
    assert!(latent.refusal().contains("latent attention"), "{}", latent.refusal());
    for (kind, says) in [("adapter", "adapter (LoRA)"), ("mmproj", "mmproj"), ("imatrix", "importance matrix")] {
        let refusal = Mini::spm(&[]).set("general.type", text(kind)).refusal();
        assert!(refusal.contains(says), "{refusal}");
    }
    assert_eq!(llama().set("general.type", text("model")).refusal(), "");
    assert!(llama().set("general.architecture", text("mamba")).refusal().contains("supported: llama"));
    assert_eq!(llama().set("general.architecture", text("llama\0")).refusal(), "");
    assert!(Mini::spm(&[]).refusal().contains("general.architecture"));
    assert!(llama().set("split.count", Value::U16(3)).refusal().contains("one of 3 parts of a split model"));
    let tokens: Vec<String> = llama().strings("tokenizer.ggml.tokens").into_iter().chain(["one more".into()]).collect();
    let refusal = llama().set("tokenizer.ggml.tokens", common::mini::texts(&tokens)).refusal();
    assert!(refusal.contains("356 tokens") && refusal.contains("355 rows"), "{refusal}");
}

#[test]
fn counts_per_layer_run_where_they_are_equal() {
    let base = logits(&llama());
    let set = |key: &str, value: Value| llama().set(&format!("llama.{key}"), value);
    for (key, value) in [("attention.head_count_kv", 2), ("attention.head_count", 4), ("feed_forward_length", 48)] {
        assert_eq!(logits(&set(key, array_u32(&[value, value]))), base, "{key}");
        assert_eq!(logits(&set(key, Value::Array(Array::I32(vec![value as i32; 2])))), base, "{key}");
        for odd in [vec![value, value + 1], vec![value], vec![value; 3], vec![]] {
            let refusal = set(key, array_u32(&odd)).refusal();
            assert!(refusal.contains(&format!("llama.{key}")), "{key} = {odd:?}: {refusal}");
        }
    }
}
