//! Ctrl-C: within a prompt, within a text, within a window; what was cut short says so.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::smollm2_path;
use serde_json::Value;

fn signal(child: &Child, name: &str) {
    assert!(Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status().unwrap().success());
}

/// Starts a command and waits until it says `word` at the start of a line of stderr.
fn started(arguments: &[&str], word: &str) -> (Child, BufReader<std::process::ChildStderr>) {
    let mut child = Command::new(assert_cmd::cargo::cargo_bin("samebits"))
        .args(arguments)
        .args(["--backend", "cpu", "-t", "1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.starts_with(word) {
        line.clear();
        assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "it ended before it said {word:?}");
    }
    (child, stderr)
}

/// What stands on stdout after the end, and the exit code.
fn ended(mut child: Child, mut stderr: BufReader<std::process::ChildStderr>, within: Duration) -> (String, i32) {
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() && start.elapsed() < within {
        std::thread::sleep(Duration::from_millis(5));
    }
    let status = child.try_wait().unwrap();
    if status.is_none() {
        child.kill().unwrap();
    }
    let (mut out, mut err) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    stderr.read_to_string(&mut err).unwrap();
    let status = status.unwrap_or_else(|| panic!("still running {within:?} after the signal: {err}"));
    assert!(!err.contains("panicked"), "{err}");
    (out, status.code().unwrap_or_else(|| panic!("{status}: {err}")))
}

/// Far more than is computed in the time of the test, however fast the machine is.
fn long_text() -> String {
    include_str!("data/persuasion.txt").repeat(4).chars().take(25_000).collect()
}

/// A model whose context holds that text.
fn model() -> String {
    smollm2_path().to_str().unwrap().to_owned()
}

const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_prompt_stops_at_the_next_layer() {
    for (name, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let text = long_text();
        let (child, stderr) =
            started(&["generate", "--json", "-c", "0", "--chunk", "1", "-p", &text, "-m", &model()], "backend: ");
        std::thread::sleep(Duration::from_millis(300));
        signal(&child, name);
        let (out, got) = ended(child, stderr, SOON);
        assert_eq!(got, code, "{name}");
        let value: Value = serde_json::from_str(&out).unwrap();
        assert_eq!(value["stop_reason"], "interrupted");
        assert_eq!(value["tokens"], serde_json::json!([]));
    }
    let (child, stderr) =
        started(&["logits", "-c", "0", "--chunk", "1", "-p", &long_text(), "-m", &model()], "backend: ");
    std::thread::sleep(Duration::from_millis(100));
    signal(&child, "INT");
    assert_eq!(ended(child, stderr, SOON), (String::new(), 130));
}

/// The text so far is kept, and a script sees that it is not all.
#[test]
fn a_text_ends_where_it_is() {
    let (mut child, stderr) = started(&["generate", "-n", "-1", "Once"], "backend: ");
    let mut first = [0];
    child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
    signal(&child, "INT");
    let (out, code) = ended(child, stderr, SOON);
    assert_eq!(code, 130);
    assert!(out.ends_with('\n'), "{out:?}");
}

#[test]
fn a_measurement_that_is_cut_short_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text");
    std::fs::write(&path, long_text()).unwrap();
    let command = ["perplexity", "-c", "16", "-f", path.to_str().unwrap()];
    for (extra, windows) in [(&["--json"][..], 2), (&[], 1)] {
        let (child, stderr) = started(&[&command, extra].concat(), &format!("window {windows} "));
        signal(&child, "INT");
        let (out, code) = ended(child, stderr, SOON);
        assert_eq!(code, 130);
        if extra.is_empty() {
            assert!(out.contains("interrupted after "), "{out}");
        } else {
            let value: Value = serde_json::from_str(&out).unwrap();
            assert_eq!(value["interrupted"], true);
            assert!(value["windows"].as_u64() < value["windows_in_text"].as_u64());
        }
    }
    let (child, stderr) = started(&["perplexity", "-c", "512", "--json", "-f", path.to_str().unwrap()], "backend: ");
    signal(&child, "INT");
    let (out, code) = ended(child, stderr, SOON);
    let value: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &value["perplexity"], &value["windows"]), (130, &Value::Null, &Value::from(0)));
}
