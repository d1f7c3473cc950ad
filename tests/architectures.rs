//! Tiny models of every architecture (`tests/data/arch`): close to float64 within what rounded activations explain, and the same bits on
//! every path.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::mini::Mini;
use common::{bits, data, floats, ids, json, most_few, on_cpu, on_gpu_few, on_isa, turn};
use samebits::backend::cpu::Isa;
use samebits::backend::gpu::groups;
use samebits::engine::Session;
use samebits::gguf::{Array, Gguf, Value};
use samebits::model::{Model, architectures};
use samebits::numerics::Precision;
use serde_json::Value as Json;

/// Records of `arch.json`, each with its model; what the names in `SAMEBITS_ARCH` do not occur in is left out.
fn records() -> Vec<(Json, Model)> {
    let only = std::env::var("SAMEBITS_ARCH").unwrap_or_default();
    let all = json("arch/arch.json")["models"].as_array().unwrap().clone();
    let all = all.into_iter().filter(|r| r["file"].as_str().unwrap().contains(&only));
    let open = |r: Json| {
        let model = Model::open(&data("arch").join(r["file"].as_str().unwrap()));
        let model = model.unwrap_or_else(|e| panic!("{}: {e}", r["file"]));
        (r, model)
    };
    all.map(open).collect()
}

/// What rounding activations changes in the reference: to halves, or to 8 bits where weights are integers.
fn bound(record: &Json, precision: Precision) -> f64 {
    let of = |kind: &str| record["act_error"][kind]["max_abs"].as_f64().unwrap_or(0.0);
    let halves = of("f16");
    2.0 * if precision == Precision::Fast { halves.max(of("q8_0")).max(of("q8_k")) } else { halves }
}

/// The logits of all tokens, so many at once.
fn all_logits(session: &mut Session, ids: &[u32], rows: usize) -> Vec<u32> {
    session.clear();
    ids.chunks(rows).flat_map(|ids| bits(&session.feed(ids, true).unwrap())).collect()
}

#[test]
fn logits_are_those_of_the_reference() {
    let mut failed = Vec::new();
    for (record, model) in records() {
        let (ids, want) = (ids(&record["ids"]), floats(&record["last_logits"]));
        let context = record["n_ctx"].as_u64().unwrap() as usize;
        for precision in [Precision::Precise, Precision::Fast] {
            let got = on_cpu(&model, precision, context, 16, 2).feed(&ids, false).unwrap();
            let off = got.iter().zip(&want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
            let bound = bound(&record, precision);
            println!("{} {context} {precision:?}: {off:.2e} of {bound:.2e}", record["file"]);
            if off > bound {
                failed.push(format!("{} {precision:?}: {off:.2e} > {bound:.2e}", record["file"]));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn bits_are_the_same_on_every_path() {
    let _turn = turn();
    // Models of very many layers have no kernels that others lack.
    for (record, model) in records().into_iter().filter(|(_, model)| model.config.block_count < 40) {
        let ids = ids(&record["ids"]);
        // Plain numbers are multiplied alike in both.
        let integers =
            model.plan(Precision::Fast).unwrap().weights.iter().any(|w| w.format.activation_block().is_some());
        for precision in [Precision::Fast, Precision::Precise].into_iter().take(1 + usize::from(integers)) {
            let place = format!("{} {precision:?}", record["file"]);
            let want = all_logits(&mut on_isa(&model, precision, 64, 40, 2, Isa::Scalar), &ids, 40);
            let (mut cpu, mut gpu) =
                (on_cpu(&model, precision, 64, 40, 2), on_gpu_few(&model, precision, 64, 40, most_few(precision)));
            for rows in [1, 3, 40] {
                assert!(all_logits(&mut cpu, &ids, rows) == want, "{place}: CPU, vectors, {rows} rows");
                // Three rows are by the kernels of up to four, in both.
                let again = rows == 3 && precision == Precision::Precise;
                assert!(again || all_logits(&mut gpu, &ids, rows) == want, "{place}: GPU, {rows} rows");
            }
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_in_one_line() {
    let file = |name: &str| Mini::of(&Gguf::open(&data("arch").join(name)).unwrap());
    let number = Value::U32;
    let qwen = || file("qwen3moe-q4_k.gguf");
    let oss = || file("gpt-oss-f32.gguf");
    let without = |mut mini: Mini, name: &str| {
        mini.tensors.retain(|t| t.0 != name);
        mini
    };
    let shaped = |mut mini: Mini, name: &str, dims: &[u64]| {
        mini.tensors.retain(|t| t.0 != name);
        mini.tensor(name, dims)
    };
    for (mini, says) in [
        (qwen().set("qwen3moe.expert_count", number(0)), "'qwen3moe.expert_count'"),
        (qwen().set("qwen3moe.expert_used_count", number(0)), "'qwen3moe.expert_used_count'"),
        (qwen().set("qwen3moe.expert_used_count", number(99)), "there are not so many experts"),
        (qwen().set("qwen3moe.expert_count", number(7)), "'blk.0.ffn_gate_inp.weight' has shape"),
        (qwen().set("qwen3moe.expert_feed_forward_length", number(96)), "_exps.weight' has shape"),
        (qwen().set("qwen3moe.expert_weights_scale", Value::F32(2.5)), "a scale of the experts' weights"),
        (without(qwen(), "blk.0.ffn_up_exps.weight"), "'blk.0.ffn_up_exps.weight' is missing"),
        (without(qwen(), "blk.0.attn_q_norm.weight"), "'blk.0.attn_q_norm.weight' is missing"),
        (shaped(qwen(), "blk.0.attn_q_norm.weight", &[3]), "'blk.0.attn_q_norm.weight' has shape"),
        (qwen().tensor("blk.0.ffn_down_shexp.weight", &[32, 32]), "is not part of architecture 'qwen3moe'"),
        (oss().set("gpt-oss.attention.sliding_window", number(0)), "'gpt-oss.attention.sliding_window'"),
        (oss().without("gpt-oss.attention.sliding_window"), "'gpt-oss.attention.sliding_window'"),
        (
            oss().set("gpt-oss.attention.sliding_window_pattern", Value::Array(Array::Bool(vec![true]))),
            "one truth value per layer",
        ),
        (without(oss(), "blk.1.attn_sinks.weight"), "'blk.1.attn_sinks.weight' is missing"),
        (without(file("gemma3-q4_k.gguf"), "blk.0.post_ffw_norm.weight"), "'blk.0.post_ffw_norm.weight' is missing"),
        (file("granite-q4_k.gguf").set("granite.logit_scale", Value::F32(0.0)), "'granite.logit_scale'"),
        (file("phi3-q4_k.gguf").tensor("blk.0.attn_qkv.bias", &[96]), "is not part of architecture 'phi3'"),
        (
            file("qwen2-yarn-f16.gguf").set("qwen2.rope.scaling.factor", Value::F32(f32::NAN)),
            "'qwen2.rope.scaling.factor'",
        ),
    ] {
        let refusal = mini.refusal();
        assert!(refusal.contains(says) && refusal.lines().count() == 1, "{says}: {refusal:?}");
    }
    assert_eq!(qwen().refusal(), "");
    assert_eq!(oss().refusal(), "");
}

#[test]
fn every_architecture_has_a_file() {
    let records = records();
    for name in architectures() {
        assert!(records.iter().any(|(r, _)| r["architecture"] == name), "{name}");
    }
}

/// The kernels that begin in the last layer of a token, of files whose rows are whole chunks; a kernel whose name ends with `joined` began in the layer before.
const KERNELS: [(&str, &str); 12] = [
    ("qwen2-q4_k.gguf", "qkv attend residual gate_up residual"),
    ("qwen3-q4_k.gguf", "siblings heads attend residual gate_up residual"),
    ("gemma3-q4_k.gguf", "siblings_joined heads attend products gate_up_joined products join"),
    ("gemma2-q8_0.gguf", "qkv_joined attend products gate_up_joined products join"),
    ("phi3-q4_k.gguf", "qkv attend residual gate_up residual"),
    ("llama-moe-q8_0.gguf", "qkv attention residual products route expert_gate expert_sum"),
    ("qwen3moe-q4_k.gguf", "siblings heads attend residual products route expert_gate expert_sum"),
    (
        "qwen2moe-q8_0.gguf",
        "qkv_joined attention residual rms_norm products route expert_gate expert_sum gate_up products row_gate add add",
    ),
    ("olmo2-q4_k.gguf", "siblings rms_norm rms_norm heads attend products join gate_up products join"),
    ("smollm3-q8_0.gguf", "siblings kv_store attention residual gate_up residual"),
    ("granite-q4_k.gguf", "qkv_joined attend products gate_up_joined products join"),
    ("gpt-oss-mxfp4.gguf", "qkv attend residual products route expert_gate expert_sum"),
];

#[test]
fn a_layer_takes_these_kernels() {
    let mut other = Vec::new();
    for (file, want) in KERNELS {
        let plan = Model::open(&data("arch").join(file)).unwrap().plan(Precision::Fast).unwrap();
        let last = plan.steps.iter().filter_map(|s| s.name.layer).max();
        let there = groups(&plan).into_iter().filter(|(_, steps)| steps.iter().any(|s| s.layer == last));
        let kernels: Vec<_> = there.map(|(kernel, _)| kernel).collect();
        if kernels.join(" ") != want {
            other.push(format!("{file}: {}", kernels.join(" ")));
        }
    }
    assert!(other.is_empty(), "{other:#?}");
}
