//! `samebits bench`: its formats, every backend, fingerprints, the time per step, comparison, the picture.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::Value;

fn bench(arguments: &[&str]) -> Command {
    let mut command = common::samebits();
    command.args(["bench", "-q"]).args(arguments);
    command
}

/// The smallest run that measures something.
const SMALL: [&str; 9] = ["--backend", "cpu", "-p", "8", "-n", "4", "-r", "2", "--no-warmup"];

fn printed(arguments: &[&str]) -> String {
    String::from_utf8(bench(arguments).assert().success().get_output().stdout.clone()).unwrap()
}

fn rows(arguments: &[&str]) -> Vec<Value> {
    serde_json::from_str(&printed(&[arguments, &["--json"]].concat())).unwrap()
}

fn column<'a>(rows: &'a [Value], name: &str) -> Vec<&'a str> {
    rows.iter().map(|r| r[name].as_str().unwrap()).collect()
}

#[test]
fn every_format_and_the_comparison() {
    let folder = tempfile::tempdir().unwrap();
    let (earlier, picture) = (folder.path().join("earlier.json"), folder.path().join("bench.svg"));
    let json = printed(&[&SMALL[..], &["-o", "json"]].concat());
    std::fs::write(&earlier, &json).unwrap();
    let first: Vec<Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(column(&first, "test"), ["pp8", "tg4"]);
    assert_eq!(column(&first, "model_type"), ["llama 17M Q4_0"; 2]);
    for row in &first {
        assert!(row["avg_ts"].as_f64().unwrap() > 0.0 && row["samples_ts"].as_array().unwrap().len() == 2);
        assert!(row["first_token_s"].as_f64().unwrap() > row["load_s"].as_f64().unwrap());
    }
    assert!(first.iter().all(|row| row["bandwidth_share"].as_f64().unwrap() > 0.0));
    assert_eq!([&first[0]["rows_per_pass"], &first[1]["rows_per_pass"]], [8, 1]);

    let compared = ["--compare", earlier.to_str().unwrap(), "--svg", picture.to_str().unwrap(), "--wide"];
    let table = printed(&[&SMALL[..], &compared].concat());
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.contains("to earlier") && table.contains(" pp8 |") && table.contains("first token"), "{table}");
    assert!(std::fs::read_to_string(&picture).unwrap().contains("tokens/s"));

    // One thread, other chunks, behind a fuller cache: the same results.
    let other = rows(&[&SMALL[..], &["-t", "1", "--chunk", "3"]].concat());
    assert_eq!(column(&first, "fingerprint"), column(&other, "fingerprint"));
    let lists = ["-n", "2-8*2", "-d", "0,5", "-pg", "4,2", "-ub", "3"];
    let deep = rows(&[&["--backend", "cpu", "-p", "8", "-r", "1", "--no-warmup"], &lists[..]].concat());
    let shallow = ["pp8", "tg2", "tg4", "tg8", "pp4+tg2"];
    assert_eq!(column(&deep[..5], "test"), shallow);
    assert_eq!(column(&deep[5..], "test"), shallow.map(|t| format!("{t} @ d5")));
    assert_eq!(deep[0]["fingerprint"], first[0]["fingerprint"]);
    assert_eq!(deep[2]["fingerprint"], first[1]["fingerprint"]);
    let fingerprints: std::collections::HashSet<_> = column(&deep, "fingerprint").into_iter().collect();
    assert_eq!(fingerprints.len(), 10);

    bench(&SMALL)
        .args(["-o", "jsonl", "-oe", "csv"])
        .assert()
        .success()
        .stderr(contains("\"tg4\""))
        .stdout(predicate::function(|s: &str| s.lines().all(|l| serde_json::from_str::<Value>(l).is_ok())));
    assert!(printed(&[&SMALL[..], &["-o", "sql"]].concat()).contains("INSERT INTO bench (version,"));
}

#[test]
fn cpu_and_gpu_have_the_same_fingerprints() {
    let all =
        rows(&["--backend", "cpu,gpu", "-p", "6", "-n", "3", "-pg", "3,2", "-d", "0,4", "-r", "1", "--no-warmup"]);
    let (cpu, gpu) = all.split_at(6);
    assert!(!gpu.is_empty() && gpu.len() % 6 == 0);
    assert!(column(cpu, "backend").iter().all(|b| *b == "cpu") && column(gpu, "backend").iter().all(|b| *b != "cpu"));
    for adapter in gpu.chunks(6) {
        assert_eq!(column(adapter, "fingerprint"), column(cpu, "fingerprint"));
        assert!(adapter[1]["read_gb_per_s"].as_f64().unwrap() > 0.1, "{}", adapter[1]);
        // A pass of six rows and one of a single row, by kernels of their own.
        let layer = |row: &Value| row["layer"].as_str().unwrap().to_owned();
        assert!(layer(&adapter[0]).contains("given_qkv") && !layer(&adapter[1]).contains("given"), "{}", adapter[0]);
        assert_eq!(adapter[0]["dispatches_per_pass"].as_f64().unwrap().fract(), 0.0);
        assert!(adapter[2]["rows_per_pass"].is_null() && adapter[2]["dispatches_per_pass"].is_null());
    }
    assert!(all.iter().all(|r| r["differs"] == false));
}

#[test]
#[cfg(feature = "faults")]
fn a_wrong_backend_is_marked() {
    bench(&["--backend", "cpu,gpu", "-p", "4", "-n", "0", "-r", "1", "--no-warmup"])
        .env("SAMEBITS_FAULT", "rope")
        .assert()
        .code(1)
        .stdout(contains(" DIFFERS |"))
        .stderr(contains("different fingerprints"));
}

#[test]
fn the_time_of_every_step() {
    let arguments = ["--backend", "cpu,gpu", "-p", "3", "-n", "2", "-r", "1", "--no-warmup", "--profile"];
    for row in rows(&arguments) {
        let profile = row["profile"].as_array().unwrap();
        let sum = |name: &str| profile.iter().map(|s| s[name].as_f64().unwrap()).sum::<f64>();
        assert!(sum("seconds") > 0.0 && (sum("share") - 1.0).abs() < 1e-9);
        // Ten layers in every token but the prompt's, which runs at once. A GPU's kernel for single tokens is `attend`.
        let named = |op: &str| profile.iter().find(|s| s["op"].as_str().unwrap().starts_with(op)).unwrap();
        assert_eq!(named("atten")["calls"], if row["test"] == "tg2" { 20 } else { 10 }, "{row}");
        if row["backend"] == "cpu" {
            assert!(profile.iter().any(|s| s["op"] == "matmul" && s["step"] == "ffn_gate+ffn_up"));
        }
    }
    let table = printed(&[&SMALL[..], &["--profile"]].concat());
    assert!(table.contains("tg4 on cpu (") && table.contains("| matmul ") && table.contains("| 100.0 % |"), "{table}");
}

#[test]
fn a_report_for_tuning_says_how_kernels_are_spread_on_every_place() {
    let arguments = ["--backend", "cpu,gpu", "-p", "3", "-n", "2", "-r", "1", "--no-warmup", "--tune-report"];
    let text = printed(&arguments);
    let blocks: Vec<_> = text.split("```\n").filter(|block| !block.trim().is_empty()).collect();
    assert_eq!(blocks.len(), 2, "{text}");
    for (block, has) in blocks.iter().zip(["cpu          ", "adapter      "]) {
        let lines: Vec<_> = block.lines().collect();
        for start in ["samebits     ", has, "model        llama 17M Q4_0, fast, ", "pp3 ", "tg2 "] {
            assert_eq!(lines.iter().filter(|l| l.starts_with(start)).count(), 1, "{start} in\n{block}");
        }
        // Ten layers a pass, also where two tokens are two passes; and the products read their matrices.
        let passes = lines.iter().filter(|l| l.contains(" us, 10 a pass, ") && l.contains(" GB/s: "));
        assert!(passes.count() >= 6, "{block}");
    }
    assert!(blocks[1].lines().any(|l| l.contains(", 1, 1] of gate_up.Q4_0.THREADS=")), "{}", blocks[1]);
    assert!(!blocks[0].contains("] of "), "{}", blocks[0]);
    let usual = bench(&["--help"]).assert().success();
    usual.stdout(contains("[default: 512; with --tune-report 2, 4, 8, 16, 32, 64, 128 and 512]"));
}

#[test]
fn wrong_usage_says_what_is_right() {
    let fails = |arguments: &[&str], code: i32, says: &str| {
        bench(arguments).assert().code(code).stdout("").stderr(contains(says.to_owned()));
    };
    fails(&["-p", "0", "-n", "0"], 2, "nothing to measure");
    fails(&["-p", "8-4"], 2, "4 is less than 8");
    fails(&["-n", "1-8*1"], 2, "again and again");
    fails(&["-pg", "512"], 2, "PP,TG");
    fails(&["-t", "0"], 2, "-t must lie between");
    fails(&["--tune-report", "--json"], 2, "cannot be used with");
    fails(&["--compare", "no/such/file.json"], 1, "cannot read no/such/file.json");
    fails(&["--compare", "Cargo.toml"], 1, "is no earlier run: ");
    fails(&["--backend", "gpu", "--device", "no such gpu"], 1, "samebits devices");
    if cfg!(target_os = "linux") {
        fails(&["--backend", "metal,dx12"], 1, "does not exist on linux; use --backend vulkan");
        let some = bench(&["--backend", "cpu,metal", "-p", "2", "-n", "0", "-r", "1"]).assert().success();
        some.stderr(contains("warning: not measured: Metal does not exist on linux")).stdout(contains("| cpu "));
    }
    fails(&["-m", "no/such/model.gguf"], 1, "cannot read no/such/model.gguf");
}
