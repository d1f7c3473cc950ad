//! The examples, run as a user runs them.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::path::Path;

use assert_cmd::Command;
use common::turn;
use predicates::prelude::*;
use predicates::str::contains;

/// An example that cargo has built beside the program.
fn example(name: &str) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_samebits"));
    let path = program.with_file_name("examples").join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    assert!(path.is_file(), "{} is missing: a run of all tests builds it, or cargo build --examples", path.display());
    let mut command = Command::new(path);
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cache");
    command.env("XDG_CACHE_HOME", &cache).env("HOME", &cache).env("XDG_RUNTIME_DIR", std::env::temp_dir());
    command
}

const MODEL: &str = "models/stories.gguf";

#[test]
fn stream_prints_the_text_that_the_program_makes() {
    let stream = example("stream").args([MODEL, "Once upon a time"]).assert().success();
    let stream = stream.get_output();
    let mut command = common::samebits();
    command.args(["generate", "Once upon a time", "--temp", "0.8", "--seed", "7", "-n", "64", "--json"]);
    let text: serde_json::Value = serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap();
    let printed = String::from_utf8(stream.stdout.clone()).unwrap();
    assert_eq!(printed, format!("Once upon a time{}\n", text["text"].as_str().unwrap()));
    let hash = text["logits_hash"].as_str().unwrap();
    assert!(String::from_utf8_lossy(&stream.stderr).contains(&format!("logits hash: {hash}")));
}

#[test]
fn chat_answers_every_line_and_reads_only_what_is_new() {
    let chat = example("chat").args([MODEL, "chatml"]).write_stdin("Tell me of a fox\nAnd then?\n").assert().success();
    let read: Vec<u32> = String::from_utf8_lossy(&chat.get_output().stderr)
        .lines()
        .filter_map(|line| line.strip_prefix('[')?.split(' ').next()?.parse().ok())
        .collect();
    let [first, second] = read[..] else { panic!("{read:?}") };
    assert!(second < first, "{read:?}");
    example("chat").arg(MODEL).write_stdin("hi\n").assert().failure().stderr(contains("NoTemplate"));
}

#[test]
fn batch_gives_each_prompt_the_hash_that_it_has_alone() {
    let run = |prompts: &str| {
        let output = example("batch").arg(MODEL).write_stdin(prompts).assert().success().get_output().stdout.clone();
        String::from_utf8(output).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let together = run("Once upon a time\nOnce upon a hill\nThe fox\n");
    assert_eq!(together.len(), 3);
    assert_eq!(run("The fox\n")[0], together[2]);
    assert_eq!(run("Once upon a hill\n")[0], together[1]);
}

#[test]
fn trace_layer_shows_the_steps_of_a_layer() {
    let trace = example("trace_layer").args([MODEL, "3"]).assert().success();
    trace.stdout(contains("blk.3.attn_norm").and(contains("blk.3.ffn_residual")).and(contains("blk.4").not()));
}

#[test]
fn custom_op_has_the_bits_of_its_twin() {
    let _turn = turn();
    example("custom_op").assert().success().stdout(contains(": 0 of 10000 results differ"));
}

#[test]
fn tensors_have_the_same_bits_on_both_sides() {
    example("tensors")
        .assert()
        .success()
        .stdout(contains("[9, 32, 64] on the CPU and on").and(contains("the same bits")));
}
