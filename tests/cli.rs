//! The command line as people type it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{data, samebits, smollm2_path};
use predicates::prelude::*;

fn json(output: &[u8]) -> serde_json::Value {
    serde_json::from_slice(output).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(output)))
}

fn generate(extra: &[&str]) -> serde_json::Value {
    let model = smollm2_path();
    let mut command = samebits();
    command
        .args(["generate", "-p", "The capital of France is", "-n", "8", "--json", "-q", "-m"])
        .arg(model)
        .args(extra);
    json(&command.assert().success().get_output().stdout)
}

#[test]
fn cpu_and_gpu_print_the_same_text_and_hash() {
    let cpu = generate(&["--backend", "cpu"]);
    let gpu = generate(&["--backend", "gpu"]);
    assert_eq!(cpu["text"], " Paris.\n\nThe United States has");
    assert_eq!(cpu["stop_reason"], "length");
    for key in ["text", "tokens", "prompt_tokens", "logits_hash", "stop_reason"] {
        assert_eq!(cpu[key], gpu[key], "{key}");
    }
    assert_eq!(cpu["backend"], "cpu");
    assert_ne!(gpu["backend"], "cpu");
    assert_eq!(
        generate(&["--backend", "cpu", "-t", "1", "--chunk", "2", "--ctx", "64"])["logits_hash"],
        cpu["logits_hash"]
    );
    assert_ne!(generate(&["--backend", "cpu", "--precision", "precise"])["logits_hash"], cpu["logits_hash"]);
}

#[test]
fn text_goes_to_stdout_and_the_rest_to_stderr() {
    samebits()
        .args(["generate", "The capital of France is", "-n", "2", "--backend", "cpu", "-m"])
        .arg(smollm2_path())
        .assert()
        .success()
        .stdout(" Paris.\n")
        .stderr(predicate::str::contains("backend: cpu").and(predicate::str::contains("logits hash: ")));
}

#[test]
fn sampling_with_a_seed_repeats() {
    let run = |seed: &str| generate(&["--backend", "cpu", "--temp", "1.2", "--seed", seed])["tokens"].clone();
    assert_eq!(run("5"), run("5"));
    assert_ne!(run("5"), run("6"));
}

#[test]
fn a_full_context_stops_clearly() {
    let full = generate(&["--backend", "cpu", "--ctx", "8"]);
    assert_eq!(full["stop_reason"], "context_full");
    assert_eq!(full["tokens"].as_array().unwrap().len(), 4);
}

#[test]
fn logits_tokenize_and_inspect() {
    let tiny = data("tiny/tiny-q8_0.gguf");
    let folder = tempfile::tempdir().unwrap();
    let npy = folder.path().join("logits.npy");
    let output = samebits()
        .args(["logits", "--tokens", "1,247,181", "--all", "--top", "2", "--json", "--backend", "cpu", "-q", "-m"])
        .arg(&tiny)
        .arg("--npy")
        .arg(&npy)
        .assert()
        .success();
    let value = json(&output.get_output().stdout);
    assert_eq!(value["positions"].as_array().unwrap().len(), 3);
    let saved = std::fs::read(&npy).unwrap();
    assert!(saved.starts_with(b"\x93NUMPY"));
    let vocabulary = (saved.len() - 128) / 4 / 3;
    assert_eq!(128 + vocabulary * 12, saved.len());

    let model = smollm2_path();
    let output = samebits().args(["tokenize", "--json", "Hello world", "-m"]).arg(&model).assert().success();
    assert_eq!(json(&output.get_output().stdout)["ids"], serde_json::json!([19556, 905]));
    samebits().args(["tokenize", "--decode", "19556,905", "-m"]).arg(&model).assert().success().stdout("Hello world\n");

    let output = samebits().args(["inspect", "--json"]).arg(&model).assert().success();
    let value = json(&output.get_output().stdout);
    assert_eq!(value["metadata"]["llama.block_count"], 30);
    assert_eq!(value["parameters"], 134_515_008);
    samebits().arg("inspect").arg(&model).assert().success().stdout(predicate::str::contains("blk.29.ffn_down.weight"));
    let layers = predicate::str::contains(" layers 0 to 29, each\n  qkv ")
        .and(predicate::str::contains("attn_k.rope kv_cache\n"));
    let memory = predicate::str::contains("MiB of cache for 512 positions");
    samebits().args(["inspect", "--ctx", "512"]).arg(&model).assert().success().stdout(memory);
    let window = data("arch/qwen2-window-key-f16.gguf");
    let ignored = predicate::str::contains("ignored: qwen2.attention.sliding_window, as the models'");
    samebits().arg("inspect").arg(window).assert().success().stdout(ignored);
    samebits().args(["inspect", "--plan"]).arg(&model).assert().success().stdout(layers);
    samebits().args(["devices"]).assert().success().stdout(predicate::str::contains("driver"));
}

/// Every error is one line on stderr that says what to do.
fn fails(arguments: &[&str], code: i32, says: &str) {
    let assert = samebits().args(arguments).assert().code(code).stdout("");
    let stderr = String::from_utf8_lossy(&assert.get_output().stderr).into_owned();
    assert!(stderr.contains(says), "{arguments:?}: {stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    if code == 1 {
        assert_eq!(stderr.lines().filter(|l| l.starts_with("error")).count(), 1, "{stderr}");
    }
}

#[test]
fn bad_input_is_one_clear_line() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = std::fs::read(data("tiny/tiny-q4_0.gguf")).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let generate =
        |model: &str, code, says: &str| fails(&["generate", "hello", "--backend", "cpu", "-m", model], code, says);
    generate(&write("truncated.gguf", &tiny[..tiny.len() / 2]), 1, "download it again");
    generate(&write("magic.gguf", b"NOPE0000"), 1, "is not a GGUF file");
    generate(&write("magic.gguf", b"NOPE0000"), 1, "; take one from Hugging Face's hub (-m hf:OWNER/REPO), or");
    generate(&write("empty.gguf", b""), 1, "it is empty");
    let mut count = tiny.clone();
    count[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    generate(&write("count.gguf", &count), 1, "tensor count");
    let mut key = tiny.clone();
    let at = key.windows(17).position(|w| w == b"llama.block_count").unwrap();
    key[at + 6] = b'x';
    generate(&write("key.gguf", &key), 1, "'llama.block_count' is missing");
    let mut architecture = tiny.clone();
    let at = architecture.windows(20).position(|w| w == b"general.architecture").unwrap();
    architecture[at + 32..at + 37].copy_from_slice(b"mamba");
    generate(&write("architecture.gguf", &architecture), 1, "supported: llama");
    generate(folder.path().to_str().unwrap(), 1, "it is a directory");
    generate("no/such/file.gguf", 1, "cannot read no/such/file.gguf");
    let good = write("good.gguf", &tiny);
    fails(&["generate", "", "--backend", "cpu", "-m", &good], 1, "the prompt is empty");
    fails(&["generate", "hello hello hello", "--ctx", "4", "--backend", "cpu", "-m", &good], 1, "--ctx");
    fails(&["generate", "hello", "--frobnicate", "-m", &good], 2, "unexpected argument");
    fails(&["generate", "hello", "--device", "no such gpu", "--backend", "gpu", "-m", &good], 1, "samebits devices");
    fails(&["logits", "--tokens", "999999", "--backend", "cpu", "-m", &good], 1, "outside the vocabulary");
    samebits()
        .args(["generate", "hello", "--backend", "gpu", "-m", &good])
        .env("VK_DRIVER_FILES", "/nonexistent")
        .env("VK_ICD_FILENAMES", "/nonexistent")
        .assert()
        .code(if cfg!(target_os = "linux") { 1 } else { 0 })
        .stderr(predicate::str::contains("use --backend cpu").or(predicate::str::contains("logits hash")));
}

#[test]
fn the_cpu_path_can_be_forced() {
    let run = |path: &str| {
        let mut command = samebits();
        command.args(["generate", "Once upon a time", "-n", "4", "--json", "-q", "--backend", "cpu"]);
        command.env("SAMEBITS_CPU", path).assert()
    };
    let scalar = json(&run("scalar").success().get_output().stdout);
    assert!(scalar["adapter"].as_str().unwrap().contains("scalar"));
    let best = samebits()
        .args(["generate", "Once upon a time", "-n", "4", "--json", "-q", "--backend", "cpu"])
        .assert()
        .success();
    assert_eq!(json(&best.get_output().stdout)["logits_hash"], scalar["logits_hash"]);
    run("mmx").code(1).stderr(predicate::str::contains("SAMEBITS_CPU=mmx").and(predicate::str::contains("scalar")));
}

#[test]
fn arithmetic_of_a_gpu_can_be_chosen_and_sampling_is_the_same_everywhere() {
    let run = |backend: &str, arithmetic: &str| {
        let mut command = samebits();
        command.args(["generate", "Once upon a time", "-n", "12", "--temp", "0.9", "-s", "3", "--json", "-q"]);
        command.args(["--backend", backend]).env("SAMEBITS_ARITHMETIC", arithmetic).assert()
    };
    let gpu = json(&run("gpu", "portable").success().get_output().stdout);
    let cpu = json(&run("cpu", "portable").success().get_output().stdout);
    for key in ["text", "logits_hash"] {
        assert_eq!(gpu[key], cpu[key], "{key}");
    }
    run("gpu", "fast").code(1).stderr(
        predicate::str::contains("SAMEBITS_ARITHMETIC=fast").and(predicate::str::contains("portable or native")),
    );
}

#[test]
fn more_threads_than_processors_are_not_started_and_change_nothing() {
    let run = |threads: &str, more: &[&str]| {
        let mut command = samebits();
        command.args(["generate", "The capital of France is", "-n", "8", "--backend", "cpu", "--json", "-t", threads]);
        command.args(["-m"]).arg(smollm2_path()).args(more);
        let output = command.assert().success().get_output().clone();
        (json(&output.stdout)["logits_hash"].clone(), String::from_utf8(output.stderr).unwrap())
    };
    let (one, quiet) = run("1", &[]);
    assert!(!quiet.contains("this process may use"), "{quiet}");
    let (many, warned) = run("1024", &[]);
    assert!(warned.contains("warning: this process may use ") && warned.contains(" instead of 1024"), "{warned}");
    assert_eq!(one, many);
    assert!(!run("1024", &["-q"]).1.contains("this process may use"));
}
