//! `samebits run`, as a user types it.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::path::Path;

use assert_cmd::assert::Assert;
use predicates::prelude::*;
use predicates::str::{contains, is_match};

/// Runs a script from standard input.
fn run(script: &str, arguments: &[&str]) -> Assert {
    let mut command = common::samebits();
    command.args(["run", "-q", "-"]).args(arguments).write_stdin(script.to_owned());
    command.assert()
}

fn out(script: &str, arguments: &[&str]) -> String {
    String::from_utf8(run(script, arguments).success().get_output().stdout.clone()).unwrap()
}

#[test]
fn the_scripts_of_the_examples_hold_on_both_sides() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/scripts");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let mut command = common::samebits();
        command.args(["run", "--backend", "both"]).arg(&path).assert().success();
        count += 1;
    }
    assert!(count >= 4);
    let llama = common::samebits().args(["run", "examples/scripts/llama.rhai", "--backend", "cpu"]).assert().success();
    llama.stdout(contains("the same bits as `samebits logits`"));
    let few = common::samebits()
        .args(["run", "-q", "--backend", "cpu", "examples/scripts/llama.rhai", "--"])
        .args(["models/stories.gguf", "3"])
        .assert()
        .success();
    few.stdout(contains("layer 2:").and(contains("layer 3:").not()));
}

#[test]
fn scripts_print_what_they_compute() {
    assert_eq!(out("print(tensor([[1.0, 2.5], [-3.0, 0.0]]) * 2);", &[]), "f32 [2, 2] [[2.0, 5.0],\n [-6.0, 0.0]]\n");
    assert_eq!(
        out("print(arange(3) + 1); print(1 + 1); print(`${args[0]}!`);", &["--", "hello"]),
        "i32 [3] [1, 2, 3]\n2\nhello!\n"
    );
    assert_eq!(out("let t = topk(tensor([3.0, 1.0, 2.0]), 2, 0); print(t[1]);", &[]), "i32 [2] [0, 2]\n");
    let chain = "let a = ones([2, 2]); print(einsum(\"ab,bc,cd,de,ef->af\", [a, a, a, a, a]));";
    assert_eq!(out(chain, &[]), "f32 [2, 2] [[16.0, 16.0],\n [16.0, 16.0]]\n");
    // A third as a half.
    assert_eq!(out("print(item(full([], 1.0) / 3));", &["--dtype", "f16"]), "0.333251953125\n");
}

#[test]
fn a_bad_script_is_one_line_with_its_place() {
    let bad: [(&str, &str); 12] = [
        ("let x = ;", "standard input:1:9: Unexpected ';'"),
        (
            "let x = zeros([2, 3]);\nlet y = x +\n  zeros([4]);",
            "standard input:2:11: add: shapes [2, 3] and [4] do not fit",
        ),
        ("fn f(x) { softmax(x, 5) }\nf(ones([2]));", "standard input:1:11: axis 5 of a tensor with 1 axes"),
        (
            "einsum(\"ij,jk->iq\", ones([2, 2]), ones([2, 2]));",
            "standard input:1:1: einsum \"ij,jk->iq\": no operand has the index q",
        ),
        ("print(ln(zeros([3]) - 1.0));", "standard input:1:7: ln: a result is infinite or not a number"),
        ("load_npy(\"no.npy\");", "standard input:1:1: no.npy: cannot be read"),
        ("load_model(\"no.gguf\");", "standard input:1:1: cannot read no.gguf"),
        (
            "ones([1000000, 1000000]);",
            "standard input:1:1: broadcast_to: [1000000, 1000000] has more than 2^31 elements",
        ),
        ("nothing(3);", "standard input:1:1: Function not found: nothing (i64)"),
        (
            "assert_bits(ones([2]), ones([2]) * 2.0);",
            "standard input:1:1: assert_bits: 2 of 2 elements differ; the first is element 0: 1e0 (3f800000) and 2e0 (40000000)",
        ),
        (
            "assert_close(ones([2]), tensor([1.0, 1.5]), 0.1);",
            "standard input:1:1: assert_close: 1 of 2 elements are further apart than 1e-1",
        ),
        ("linear(ones([2]), ones([2, 2]));", "standard input:1:1: linear: the weight is not as a file has it"),
    ];
    for (script, message) in bad {
        let line = format!("error: {message}");
        run(script, &[])
            .code(1)
            .stderr(predicate::function(|text: &str| text.starts_with(&line) && text.lines().count() == 1));
    }
    let endless = run("let i = 0; loop { i += 1; }", &["--limit", "100000"]).code(1);
    endless.stderr(contains("the script has made 100000 operations and is not at its end"));
    let deep = run("fn f(x) { f(x + 1) } f(0);", &[]).code(1);
    deep.stderr(is_match("^error: standard input:1:.*Stack overflow\n$").unwrap());
    common::samebits().args(["run", "no.rhai"]).assert().code(1).stderr(contains("cannot read no.rhai"));
}

/// A model is what `-m` takes: a file, or an alias of the configuration; and what is neither is the same error.
#[test]
fn models_have_names() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/stories.gguf");
    std::fs::write(&config, format!("[aliases]\nstories = {file:?}\n")).unwrap();
    let load = |name: &str| {
        let mut command = common::samebits();
        command.args(["run", "-q", "--backend", "cpu", "-"]).env("SAMEBITS_CONFIG", &config);
        command.write_stdin(format!("print(load_model({name:?}).get(\"general.architecture\"));")).assert()
    };
    load("stories").success().stdout("llama\n");
    for name in ["story", "hf:nobody", "https://example.org/a.gguf"] {
        let mut other = common::samebits();
        let other = other.args(["tokenize", "-m", name, "x"]).env("SAMEBITS_CONFIG", &config).assert().failure();
        let message = String::from_utf8(other.get_output().stderr.clone()).unwrap();
        load(name).code(1).stderr(message.replace("error: ", "error: standard input:1:7: "));
    }
}

/// A fault in the kernel of one op is found, at its line.
#[test]
fn a_fault_is_found_at_its_line() {
    let script = "let x = random([65, 33], 1) - 0.5;\nlet y = x.relu();\nlet z = y.cumsum(1);\nlet w = z.matmul(transpose(x));\nprint(sum(w));";
    for (fault, place, op) in [("scan", "3:11", "cumsum"), ("contract", "4:11", "matmul")] {
        let mut command = common::samebits();
        command.args(["run", "-q", "--backend", "both", "-"]).env("SAMEBITS_FAULT", fault).write_stdin(script);
        let line = format!("error: standard input:{place}: {op} ");
        let found = command.assert().code(1);
        found.stderr(predicate::function(|text: &str| {
            text.starts_with(&line) && text.contains("elements differ between")
        }));
    }
    run(script, &["--backend", "both"]).success();
}

#[test]
fn runs_and_references_are_told() {
    let script = "let x = random([4, 300], 3);\nlet y = softmax(x, 1);\nprint(sum(y, 1).shape());";
    let json = out(script, &["--runs", "3", "--json", "--backend", "cpu"]);
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    let steps = value["steps"].as_array().unwrap();
    let ops: Vec<_> = steps.iter().map(|s| (s["op"].as_str().unwrap(), s["line"].as_u64().unwrap())).collect();
    assert_eq!(ops, [("softmax", 2), ("sum", 3)]);
    assert_eq!(steps[0]["sha256"].as_str().unwrap().len(), 64);
    let table = out(script, &["--reference", "f64", "--backend", "cpu"]);
    assert!(table.contains("2:11  softmax") || table.contains("2:9  softmax"), "{table}");
}
