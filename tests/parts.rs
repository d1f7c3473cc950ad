//! Each command works on any file that has the part it needs, and says what is odd about it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::path::{Path, PathBuf};

use assert_cmd::assert::Assert;
use common::mini::{Mini, NORMAL, USER_DEFINED, text};
use common::{data, samebits};
use samebits::gguf::Value;
use tempfile::TempDir;

/// A folder with files that are made for one test.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

fn run(words: &[&str], file: &Path) -> Assert {
    samebits().args(words).arg(file).assert()
}

fn said(assert: &Assert) -> [String; 2] {
    let output = assert.get_output();
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

#[test]
fn a_vocabulary_alone_tokenizes_and_weights_alone_give_logits() {
    let files = Files::new();
    let vocabulary = files.write("vocabulary.gguf", &Mini::bpe("qwen2", &["hello"], &[]).bytes());
    let [ids, _] = said(&run(&["tokenize", "hello", "--json", "-m"], &vocabulary).success());
    assert!(ids.contains("\"ids\""), "{ids}");
    run(&["inspect"], &vocabulary).success();
    let [_, error] = said(&run(&["generate", "hello", "-m"], &vocabulary).code(1));
    assert!(error.contains("general.architecture"), "{error}");

    let mut weights = Mini::spm(&[]).llama(1);
    weights.metadata.retain(|(key, _)| !key.starts_with("tokenizer."));
    let weights = files.write("weights.gguf", &weights.bytes());
    let logits = ["logits", "--tokens", "1,2,3", "--backend", "cpu", "-m"];
    let [out, _] = said(&run(&logits, &weights).success());
    assert!(out.starts_with("position 2 (token 3)"), "{out}");
    let [_, error] = said(&run(&["generate", "hello", "--backend", "cpu", "-m"], &weights).code(1));
    assert!(error.contains("tokenizer.ggml.model"), "{error}");
}

#[test]
fn files_of_another_kind_can_be_looked_at_and_are_refused_by_name() {
    let files = Files::new();
    let mini = Mini::spm(&[]).llama(1);
    let cases = [
        ("type", mini.bytes_with_type("blk.0.ffn_up.weight", 31), "31 (Q4_0_4_4, removed from ggml"),
        ("newer", mini.bytes_with_type("blk.0.ffn_up.weight", 99), "99 (newer than this program)"),
        ("adapter", mini.clone().set("general.type", text("adapter")).bytes(), "adapter"),
        ("mamba", mini.clone().set("general.architecture", text("mamba")).bytes(), "'mamba' is not supported"),
        (
            "experts",
            mini.clone().set("llama.expert_count", Value::U32(8)).bytes(),
            "'llama.expert_used_count' is missing",
        ),
        ("tensor", mini.clone().tensor("blk.0.attn_q_norm.weight", &[8]).bytes(), "blk.0.attn_q_norm.weight"),
    ];
    for (name, bytes, says) in cases {
        let path = files.write(name, &bytes);
        run(&["inspect"], &path).success();
        run(&["tokenize", "hello", "-m"], &path).success();
        let [out, error] = said(&run(&["generate", "hello", "--backend", "cpu", "-m"], &path).code(1));
        assert!(out.is_empty() && error.contains(says) && !error.contains("download"), "{name}: {error}");
    }
    // A part is looked at together with the others.
    let split = files.write("split", &mini.clone().set("split.count", Value::U16(2)).bytes());
    for arguments in [&["inspect"][..], &["generate", "hello", "--backend", "cpu", "-m"]] {
        let [_, error] = said(&run(arguments, &split).code(1));
        assert!(error.contains("is a part of a split model"), "{error}");
    }
    let newer = files.write("version", &[b"GGUF".as_slice(), &4u32.to_le_bytes(), &[0; 16]].concat());
    let [_, error] = said(&run(&["inspect"], &newer).code(1));
    assert!(error.contains("newer"), "{error}");
}

#[test]
fn a_text_token_without_a_row_is_refused_when_the_file_is_opened() {
    let files = Files::new();
    let mut mini = Mini::spm(&[]).llama(1);
    let mut tokens = mini.strings("tokenizer.ggml.tokens");
    tokens.push("Z@Z".to_owned());
    mini = mini.set("tokenizer.ggml.tokens", common::mini::texts(&tokens)).without("tokenizer.ggml.token_type");
    mini = mini.without("tokenizer.ggml.scores");
    let model = files.write("rows.gguf", &mini.bytes());
    let sample = files.write("sample.txt", b"abcdefZ@Z");
    for words in [
        vec!["perplexity", "-f", sample.to_str().unwrap(), "-c", "9", "--backend", "cpu", "-m"],
        vec!["generate", "Z@Z", "--backend", "cpu", "-m"],
    ] {
        let [_, error] = said(&run(&words, &model).code(1));
        assert!(error.contains("356 tokens") || error.contains("rows"), "{error}");
    }
}

#[test]
fn what_is_odd_is_a_warning_that_quiet_leaves_out() {
    let files = Files::new();
    let odd = Mini::spm(&[("<|eot_id|>", NORMAL), ("x y", USER_DEFINED)])
        .llama(1)
        .set("tokenizer.ggml.eos_token_id", Value::U32(u32::MAX));
    let path = files.write("odd.gguf", &odd.bytes());
    let words = ["generate", "<s>Hello", "-n", "2", "--backend", "cpu"];
    let [_, loud] = said(&run(&[&words[..], &["-m"]].concat(), &path).success());
    for says in ["<|eot_id|>", "'tokenizer.ggml.eos_token_id' is 4294967295", "BOS"] {
        let line = loud.lines().find(|l| l.contains(says)).unwrap_or_else(|| panic!("{says}: {loud}"));
        assert!(line.starts_with("warning: "), "{line}");
    }
    let [_, quiet] = said(&run(&[&words[..], &["-q", "-m"]].concat(), &path).success());
    assert!(!quiet.contains("warning"), "{quiet}");
}

#[test]
fn another_pre_tokenizer_is_chosen_by_name() {
    let files = Files::new();
    let path = files.write("unknown.gguf", &Mini::bpe("frobnicate", &["12"], &[]).bytes());
    let [_, error] = said(&run(&["tokenize", "1234", "-m"], &path).code(1));
    assert!(error.contains("'frobnicate'") && error.contains("--pre NAME"), "{error}");
    let ids = |pre: &str| said(&run(&["tokenize", "1212", "--json", "--pre", pre, "-m"], &path).success())[0].clone();
    // Digits stay together in one of them, and stand alone in the other.
    assert_ne!(ids("gpt-2"), ids("qwen2"));
    let [_, error] = said(&run(&["tokenize", "x", "--pre", "qwen2", "-m"], &data("pre/spm-prefix.gguf")).code(1));
    assert!(error.contains("has no pre-tokenizer"), "{error}");
}

#[cfg(unix)]
#[test]
fn a_model_comes_through_a_pipe() {
    use std::process::{Command, Stdio};
    let files = Files::new();
    let path = files.write("model.gguf", &Mini::spm(&[]).llama(1).bytes());
    let mut cat = Command::new("cat").arg(&path).stdout(Stdio::piped()).spawn().unwrap();
    let mut command = Command::new(assert_cmd::cargo::cargo_bin("samebits"));
    let output = command.args(["inspect", "/dev/stdin"]).stdin(cat.stdout.take().unwrap()).output().unwrap();
    cat.wait().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("blk.0.attn_q.weight"));
}
