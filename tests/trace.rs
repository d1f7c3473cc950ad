//! `samebits trace`: the lens ends in the model's own logits, differences are named, collapse is said.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use assert_cmd::Command;
use common::data;
use serde_json::Value;

fn samebits() -> Command {
    let mut command = Command::cargo_bin("samebits").unwrap();
    command.env("XDG_RUNTIME_DIR", std::env::temp_dir());
    command
}

fn trace(extra: &[&str]) -> Value {
    let output = samebits().args(["trace", "--json"]).args(extra).assert().success();
    serde_json::from_slice(&output.get_output().stdout).unwrap()
}

#[test]
fn the_last_lens_is_the_models_answer() {
    let prompt = "Once upon a time, there was a";
    let value = trace(&["-p", prompt, "--precision", "precise"]);
    let layers = value["trace"]["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 11, "the embedding and ten layers");
    let output = samebits()
        .args(["logits", "-p", prompt, "--precision", "precise", "--backend", "cpu", "--top", "5", "--json", "-q"])
        .assert()
        .success();
    let logits: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let top = logits["positions"][0]["top"].as_array().unwrap();
    for (lens, real) in layers[10]["top"].as_array().unwrap().iter().zip(top) {
        assert_eq!(lens[0], real["id"]);
        // The lens is float64 from the residual stream; the model rounds its norm to 16 bits.
        let error = (lens[1].as_f64().unwrap() - real["logit"].as_f64().unwrap()).abs();
        assert!(error < 1e-2, "{lens} {real}");
    }
    assert_eq!(value["trace"]["warnings"].as_array().unwrap().len(), 0, "{}", value["trace"]["warnings"]);
    let steps = value["trace"]["steps"].as_array().unwrap();
    assert!(steps.iter().any(|s| s["step"] == "blk.9.ffn_down" && s["op"] == "matmul"));
}

#[test]
fn backends_and_runs_are_compared_and_a_step_is_dumped() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let extra = ["-p", "Once", "--backend", "cpu,gpu", "--runs", "2", "--step", "blk.3.ffn_norm", "--dump", path];
    let value = trace(&extra);
    let compared = value["compared"].as_array().unwrap();
    assert_eq!(compared.len(), 3);
    assert!(compared.iter().all(|c| c["first_difference"].is_null()), "{compared:?}");
    assert!(std::fs::read(path).unwrap().starts_with(b"\x93NUMPY"));
    let wrong = ["trace", "-p", "Once", "--step", "blk.77.ffn_norm", "--dump", path];
    samebits().args(wrong).assert().code(1).stderr(predicates::str::contains("there is no step 'blk.77.ffn_norm'"));
}

#[test]
fn a_saved_trace_of_another_run_is_compared() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("saved.json");
    let saved = trace(&["-p", "Once upon"]);
    std::fs::write(&path, saved.to_string()).unwrap();
    let against = path.to_str().unwrap();
    let value = trace(&["-p", "Once upon", "--backend", "gpu", "--against", against]);
    assert!(value["compared"][0]["first_difference"].is_null(), "{}", value["compared"]);
    let mut other = saved.clone();
    other["trace"]["hashes"][30][1] = "0000000000000000".into();
    std::fs::write(&path, other.to_string()).unwrap();
    let output = samebits().args(["trace", "--json", "-p", "Once upon", "--against", against]).assert().code(1);
    let value: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(value["compared"][0]["first_difference"]["step"], saved["trace"]["hashes"][30][0]);
    samebits()
        .args(["trace", "-p", "Twice", "--against", against])
        .assert()
        .code(1)
        .stderr(predicates::str::contains("another prompt"));
}

/// Random weights choose evenly: a person is told to look.
#[test]
fn a_model_that_hardly_chooses_is_named() {
    let model = data("tiny/tiny-f32.gguf");
    let value = trace(&["-p", "Once", "-m", model.to_str().unwrap()]);
    let last = value["trace"]["layers"].as_array().unwrap().last().unwrap().clone();
    let share = last["entropy"].as_f64().unwrap() / last["even"].as_f64().unwrap();
    let warned = value["trace"]["warnings"].to_string().contains("hardly chooses");
    assert_eq!(warned, share > 0.9, "{last}");
}

#[cfg(feature = "faults")]
#[test]
fn the_first_wrong_step_is_named() {
    let output = samebits()
        .args(["trace", "--json", "-p", "Once upon", "--backend", "cpu,gpu"])
        .env("SAMEBITS_FAULT", "rope")
        .assert()
        .code(1);
    let value: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(value["compared"][0]["first_difference"]["step"], "blk.0.attn_q.rope");
}
