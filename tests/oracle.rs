//! Accuracy against a float64 reference: `tests/data/{tiny,smollm2}`, within the bounds derived there.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{floats, ids, json, on_cpu, smollm2, tiny};
use samebits::backend::{Backend, cpu::Cpu};
use samebits::backend::{Batch, Rows};
use samebits::numerics::Precision;
use serde_json::Value;

fn max_difference(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max)
}

/// Each tiny file, one per format and one per feature of the architecture.
#[test]
fn tiny_models() {
    let mut checked = 0;
    for entry in json("tiny/tiny.json")["models"].as_array().unwrap() {
        let name = entry["file"].as_str().unwrap();
        let model = tiny(name);
        let (ids, want) = (ids(&entry["ids"]), floats(&entry["last_logits"]));
        for precision in [Precision::Precise, Precision::Fast] {
            let mut session = on_cpu(&model, precision, 64, 8, 2);
            let logits = session.feed(&ids, false).unwrap();
            let difference = max_difference(&logits, &want);
            // The fast path is bounded by what rounding activations to int8 does to the reference itself; the precise
            // one rounds like f16.
            let int8 = int8_error(entry);
            let bound = if precision == Precision::Fast { (3.0 * int8).max(0.05) } else { 0.05 };
            println!("{name} {precision:?}: {difference:.2e} (bound {bound:.2e}, int8 {int8:.2e})");
            assert!(difference <= bound, "{name} {precision:?}: {difference} > {bound}");
        }
        checked += 1;
    }
    assert!(checked >= 16, "{checked} files");
}

/// The largest difference that int8 activations make in the reference.
fn int8_error(entry: &Value) -> f64 {
    fn largest(value: &Value) -> f64 {
        match value {
            Value::Number(n) => n.as_f64().unwrap_or(0.0),
            Value::Object(map) => {
                map.get("max_abs").map_or_else(|| map.values().map(largest).fold(0.0, f64::max), largest)
            }
            _ => 0.0,
        }
    }
    ["q8_0", "q8_k"].iter().map(|k| largest(&entry["act_error"][k])).fold(0.0, f64::max)
}

fn log_sum_exp(logits: &[f32]) -> f64 {
    let top = logits.iter().fold(f64::MIN, |m, x| m.max(f64::from(*x)));
    top + logits.iter().map(|x| (f64::from(*x) - top).exp()).sum::<f64>().ln()
}

/// SmolLM2: logits, argmax at every position and the log-likelihoods of the next ids.
fn smollm2_logits(precision: Precision) {
    let model = smollm2();
    let reference = json("smollm2/logits.json");
    let sample_ids = ids(&reference["sample_ids"]);
    let tolerance = json("smollm2/tolerance.json");
    let mut session = on_cpu(&model, precision, 512, 32, 2);
    for prompt in reference["prompts"].as_array().unwrap() {
        let name = prompt["name"].as_str().unwrap();
        session.clear();
        let prompt_ids = ids(&prompt["ids"]);
        let all = session.feed(&prompt_ids, true).unwrap();
        let rows: Vec<&[f32]> = all.chunks_exact(model.config.vocabulary).collect();
        let row = |mode: &str| {
            let rows = tolerance[format!("logits_{mode}")].as_array().unwrap();
            rows.iter().find(|r| r["name"] == name).unwrap_or_else(|| panic!("{name} in tolerance.json")).clone()
        };
        let last = rows[rows.len() - 1];
        if precision == Precision::Precise {
            let bound = (4.0 * row("f16_kv16")["max_abs"].as_f64().unwrap()).max(0.1);
            for (id, want) in sample_ids.iter().zip(floats(&prompt["sampled"])) {
                let got = f64::from(last[*id as usize]);
                assert!((got - want).abs() <= bound, "{name}: logit {id} is {got}, want {want} ± {bound}");
            }
            for pair in prompt["top20"].as_array().unwrap() {
                let got = f64::from(last[pair[0].as_u64().unwrap() as usize]);
                assert!((got - pair[1].as_f64().unwrap()).abs() <= bound, "{name}: {got} for {pair}");
            }
        }
        let positions = &prompt["positions"];
        let gap_bound = if precision == Precision::Precise { 0.1 } else { 1.0 };
        for (i, (want, gap)) in ids(&positions["argmax"]).iter().zip(floats(&positions["gap"])).enumerate() {
            if gap > gap_bound {
                assert_eq!(samebits::ops::argmax::cpu(rows[i]), *want, "{name} position {i}, gap {gap}");
            }
        }
        // The mean difference of the log-likelihoods bounds the same thing as the KL divergence, from the numbers the
        // reference keeps for every position.
        let nll = floats(&positions["next_nll"]);
        if !nll.is_empty() {
            let got = nll.iter().enumerate().map(|(i, want)| {
                let next = prompt_ids[i + 1] as usize;
                (log_sum_exp(rows[i]) - f64::from(rows[i][next]) - want).abs()
            });
            let mean = got.sum::<f64>() / nll.len() as f64;
            let bound = if precision == Precision::Precise { 0.03 } else { 0.5 };
            assert!(mean <= bound, "{name}: mean log-likelihood error {mean}");
        }
    }
}

#[test]
fn smollm2_logits_precise() {
    smollm2_logits(Precision::Precise);
}

#[test]
fn smollm2_logits_fast() {
    smollm2_logits(Precision::Fast);
}

/// Teacher-forced greedy continuations: at every step with a gap above the bound the reference's token wins.
#[test]
fn smollm2_greedy() {
    let model = smollm2();
    for (precision, bound) in [(Precision::Precise, 0.1), (Precision::Fast, 1.0)] {
        let mut session = on_cpu(&model, precision, 512, 32, 2);
        for case in json("smollm2/greedy.json")["cases"].as_array().unwrap() {
            session.clear();
            let (prompt, new) = (ids(&case["ids"]), ids(&case["new_ids"]));
            let all = session.feed(&[&prompt[..], &new[..new.len() - 1]].concat(), true).unwrap();
            let rows: Vec<_> = all.chunks_exact(model.config.vocabulary).skip(prompt.len() - 1).collect();
            for (i, gap) in floats(&case["gap"]).into_iter().enumerate().filter(|(_, gap)| *gap > bound) {
                assert_eq!(
                    samebits::ops::argmax::cpu(rows[i]),
                    new[i],
                    "{} {precision:?} step {i} gap {gap}",
                    case["name"]
                );
            }
        }
    }
}

/// The residual stream after every layer, by its norm over all positions.
#[test]
fn smollm2_layers() {
    let model = smollm2();
    for (precision, bound) in [(Precision::Precise, 2e-2), (Precision::Fast, 0.1)] {
        for prompt in json("smollm2/layers.json")["prompts"].as_array().unwrap().iter().take(5) {
            let prompt_ids = ids(&prompt["ids"]);
            let mut cpu =
                Cpu::new(&model, model.plan(precision).unwrap(), common::sizes(64, prompt_ids.len()), 2).unwrap();
            let mut norms = Vec::new();
            let mut listen = |step: &samebits::plan::Step, words: &[u32]| {
                if matches!(step.name.part.as_str(), "token_embd" | "ffn_residual") {
                    norms.push(words.iter().map(|w| f64::from(f32::from_bits(*w)).powi(2)).sum::<f64>().sqrt());
                }
            };
            let batch = Batch::checked(&prompt_ids, 0, Rows::Last, &cpu.limits()).unwrap();
            cpu.forward(batch, Some(&mut listen)).unwrap();
            for (i, layer) in prompt["layers"].as_array().unwrap().iter().enumerate() {
                let want = layer["all"]["l2"].as_f64().unwrap();
                let error = (norms[i] - want).abs() / want;
                assert!(error <= bound, "{} {precision:?} layer {i}: {} for {want}", prompt["name"], norms[i]);
            }
        }
    }
}
