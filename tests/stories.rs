//! The built-in model: float64 reference, llama.cpp's greedy choices, and the hashes that every device must print.
#![cfg(feature = "stories")]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{floats, ids, json, on_cpu, on_gpu, turn};
use samebits::backend::Sampling;
use samebits::backend::{Backend, Batch, Rows, cpu::Cpu};
use samebits::engine::{SampleOn, Session};
use samebits::model::Model;
use samebits::numerics::Precision;
use samebits::ops::argmax;

fn greedy(session: &mut Session, prompt: &[u32]) -> (Vec<u32>, String) {
    session.clear();
    let go_on = |_: u32, _: &[f32]| std::ops::ControlFlow::Continue(());
    let g = session.generate(prompt, 48, SampleOn::Backend(Sampling::Greedy), |_| false, go_on).unwrap();
    (g.tokens, g.logits_hash)
}

#[test]
fn the_hash_is_golden_on_cpu_and_gpu() {
    let (model, golden) = (Model::stories().unwrap(), json("stories.json"));
    let prompt = ids(&golden["ids"]);
    for (precision, name) in [(Precision::Fast, "fast"), (Precision::Precise, "precise")] {
        let want = golden["logits_hash"][name].as_str().unwrap();
        assert_eq!(greedy(&mut on_cpu(&model, precision, 512, 32, 2), &prompt).1, want, "CPU, {name}");
        let _turn = turn();
        assert_eq!(greedy(&mut on_gpu(&model, precision, 512, 32), &prompt).1, want, "GPU, {name}");
    }
}

#[test]
fn llama_cpp_chooses_the_same_tokens() {
    let (model, golden) = (Model::stories().unwrap(), json("stories.json"));
    let mut session = on_cpu(&model, Precision::Fast, 512, 32, 2);
    for case in golden["greedy"].as_array().unwrap() {
        let (prompt, new) = (ids(&case["prompt_ids"]), ids(&case["ids"]));
        session.clear();
        let all = session.feed(&[&prompt[..], &new[..new.len() - 1]].concat(), true).unwrap();
        for (i, row) in all.chunks_exact(model.config.vocabulary).skip(prompt.len() - 1).enumerate() {
            let gap = row[argmax::cpu(row) as usize] - row[new[i] as usize];
            assert!(gap < 0.5, "{}, token {i}: {gap} below the best", case["prompt"]);
        }
    }
}

#[test]
fn logits_and_layers_are_close_to_float64() {
    let (model, golden) = (Model::stories().unwrap(), json("stories.json"));
    let prompt = ids(&golden["ids"]);
    let mut cpu = Cpu::new(&model, model.plan(Precision::Precise).unwrap(), common::sizes(64, 8), 2).unwrap();
    let mut norms = Vec::new();
    let mut listen = |step: &samebits::plan::Step, words: &[u32]| {
        if matches!(step.name.part.as_str(), "token_embd" | "ffn_residual") {
            norms.push(words.iter().map(|w| f64::from(f32::from_bits(*w)).powi(2)).sum::<f64>().sqrt());
        }
    };
    let batch = Batch::checked(&prompt, 0, Rows::Last, &cpu.limits()).unwrap();
    let logits = cpu.forward(batch, Some(&mut listen)).unwrap();
    for pair in golden["top"].as_array().unwrap() {
        let (id, want) = (pair[0].as_u64().unwrap() as usize, pair[1].as_f64().unwrap());
        assert!((f64::from(logits[id]) - want).abs() < 0.02, "logit {id}: {} for {want}", logits[id]);
    }
    let layers = floats(&golden["layers_l2"]);
    assert_eq!(layers.len(), norms.len());
    for (i, (got, want)) in norms.iter().zip(layers).enumerate() {
        assert!((got - want).abs() / want < 2e-2, "layer {i}: {got} for {want}");
    }
}
