//! `samebits trace`: the lens ends in the model's own logits, differences are named, collapse is said.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{data, floats, ids, samebits, sizes, tiny};
use samebits::backend::cpu::Cpu;
use samebits::numerics::Precision;
use samebits::trace::{analyse, run};
use serde_json::{Value, json};

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
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("step.npy");
    let path = path.to_str().unwrap();
    let extra = ["-p", "Once", "--compare", "cpu,gpu", "--runs", "2", "--step", "blk.3.ffn_norm", "--dump", path];
    let value = trace(&extra);
    let compared = value["compared"].as_array().unwrap();
    assert_eq!(compared.len(), 3);
    assert!(compared.iter().all(|c| c["first_difference"].is_null()), "{compared:?}");
    assert!(std::fs::read(path).unwrap().starts_with(b"\x93NUMPY"));
    let wrong = ["trace", "-p", "Once", "--step", "blk.77.ffn_norm", "--dump", path, "--force"];
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

/// Layers on their own give what they give inside the model, and none is the embedding to the output.
#[test]
fn a_range_of_layers_is_run_alone() {
    let all = trace(&["-p", "Once upon"]);
    let names = |value: &Value| -> Vec<String> {
        value["trace"]["hashes"].as_array().unwrap().iter().map(|h| h[0].as_str().unwrap().to_owned()).collect()
    };
    let first_three = trace(&["-p", "Once upon", "--layers", "0..3"]);
    let layers = first_three["trace"]["layers"].as_array().unwrap();
    assert_eq!(layers[..], all["trace"]["layers"].as_array().unwrap()[..4]);
    let blocks = |value: &Value, block: &str| names(value).iter().filter(|n| n.starts_with(block)).count();
    assert_eq!(blocks(&first_three, "blk.2."), blocks(&all, "blk.2."));
    assert_eq!(blocks(&first_three, "blk.3."), 0);
    let last = trace(&["-p", "Once upon", "--layers", "9"]);
    assert_eq!(last["trace"]["layers"][1]["layer"], 9);
    assert_eq!(last["trace"]["layers"].as_array().unwrap().len(), 2);
    let none = trace(&["-p", "Once upon", "--skip-layers", "--compare", "cpu,gpu"]);
    assert_eq!(names(&none), ["token_embd", "output_rows", "output_norm", "output_norm.q32", "output"]);
    assert_eq!(none["trace"]["layers"][0], all["trace"]["layers"][0]);
    for (wrong, said, code) in
        [("9..11", "the model has 10", 1), ("3..3", "use --skip-layers", 2), ("x", "no layer number", 2)]
    {
        let command = ["trace", "-p", "Once", "--layers", wrong];
        samebits().args(command).assert().code(code).stderr(predicates::str::contains(said));
    }
}

/// The reference against the NumPy program that made the expectations, for every format and feature.
#[test]
fn the_reference_is_float64() {
    for entry in common::json("tiny/tiny.json")["models"].as_array().unwrap() {
        let (name, prompt) = (entry["file"].as_str().unwrap(), ids(&entry["ids"]));
        let model = tiny(name);
        let plan = model.plan(Precision::Precise).unwrap();
        let n = prompt.len();
        let run = run(&mut Cpu::new(&model, plan.clone(), sizes(n, n), 2).unwrap(), &prompt, true).unwrap();
        let trace = analyse(&model, &plan, &prompt, &run, true);
        let reference = trace.reference.unwrap();
        let mut want = floats(&entry["last_logits"]);
        want.sort_by(|a, b| b.total_cmp(a));
        for ((_, got), want) in reference.layers.last().unwrap().top.iter().zip(want) {
            assert!((got - want).abs() < 1e-6, "{name}: {got} for {want}");
        }
        assert!(reference.errors.iter().all(|e| e.error < 0.01 && e.cosine > 0.9999), "{name}: {:?}", reference.errors);
        assert!(trace.steps.iter().all(|s| s.error.is_some()));
    }
}

#[test]
fn the_reference_shows_what_rounding_does() {
    let error = |precision: &str| {
        let value = trace(&["-p", "Once upon a time", "--reference", "f64", "--precision", precision]);
        value["trace"]["reference"]["logits"]["error"].as_f64().unwrap()
    };
    let (fast, precise) = (error("fast"), error("precise"));
    assert!(precise > 0.0 && 10.0 * precise < fast, "{precise} {fast}");
}

#[test]
fn a_page_and_a_picture_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let [html, svg] = ["t.html", "t.svg"].map(|f| folder.path().join(f).to_str().unwrap().to_owned());
    trace(&["-p", "Once <b>", "--reference", "f64", "--html", &html, "--svg", &svg, "--compare", "cpu,cpu"]);
    let page = std::fs::read_to_string(&html).unwrap();
    for part in [
        "<title>samebits trace: samebits stories</title>",
        "every bit is that of",
        "Nothing stands out",
        "Error against",
        "blk.9.ffn_down",
        "&lt;",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("<b>"), "the prompt is escaped");
    let loads = ["src=", "href=", "@import", "url("].iter().find(|l| page.contains(**l));
    assert_eq!(loads, None, "the page loads something");
    let picture = std::fs::read_to_string(&svg).unwrap();
    assert!(picture.starts_with("<svg") && page.contains(picture.trim()));
    samebits()
        .args(["trace", "-p", "Once", "--html", "/no/such/folder/t.html"])
        .assert()
        .code(1)
        .stderr(predicates::str::contains("cannot write /no/such/folder/t.html"));
}

/// The whole table of a short run; the line with this machine's threads left out.
#[test]
fn the_table_is_readable() {
    let output =
        samebits().args(["trace", "-p", "Once upon a", "--layers", "0..2", "--reference", "f64", "--steps"]).assert();
    let text = String::from_utf8(output.success().get_output().stdout.clone()).unwrap();
    let text: Vec<_> = text.lines().filter(|l| !l.starts_with("run ")).collect();
    insta::assert_snapshot!(text.join("\n"));
}

#[test]
fn comparisons_without_sense_are_refused() {
    for (compare, said, code) in [
        ("cpu:fused,cpu", "the CPU fuses nothing", 2),
        ("gpu:melted,cpu", "':melted' is neither", 2),
        ("gpu:fused,gpu:fused", "cannot be seen", 1),
        ("cpu", "needs two backends", 2),
    ] {
        let command = ["trace", "-p", "Once", "--compare", compare];
        samebits().args(command).assert().code(code).stderr(predicates::str::contains(said));
    }
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
        .args(["trace", "--json", "-p", "Once upon", "--compare", "cpu,gpu:unfused,gpu:fused"])
        .env("SAMEBITS_FAULT", "rope")
        .assert()
        .code(1);
    let value: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    let first = |i: usize| value["compared"][i]["first_difference"].clone();
    assert_eq!(first(0)["step"], "blk.0.attn_q.rope");
    assert_eq!(first(0)["worst"].as_array().unwrap().len(), 2);
    // At position 0, where the first token stands, no order of a pair matters to its score.
    assert_eq!((&first(1)["step"], &first(1)["token"]), (&json!("output"), &json!(1)));
}
