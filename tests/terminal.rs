//! What reaches a terminal, and what happens without one: names that would control it, colours, closed and full streams.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::process::{Command, Stdio};

use common::{changed, data, samebits};
use samebits::gguf::Value;

/// What a hostile file would like to send.
const HOSTILE: &str = "\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}31m\u{202e}\r";

/// No command passes on what a file holds, whatever part of it is shown: keys, values, names, tokens, error messages.
#[test]
fn names_in_a_file_cannot_control_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hostile.gguf");
    let model = path.to_str().unwrap();
    let string = |text: &str| Value::String(text.to_owned());
    let clean = |arguments: &[&str]| {
        let output = samebits().args(arguments).output().unwrap();
        for bytes in [&output.stdout, &output.stderr] {
            let text = String::from_utf8(bytes.clone()).unwrap();
            let bad = text.chars().find(|c| (c.is_control() && *c != '\n' && *c != '\t') || *c == '\u{202e}');
            assert_eq!(bad, None, "{arguments:?}: {text}");
            assert!(!text.contains("panicked"), "{text}");
        }
    };
    let key = format!("general.{HOSTILE}");
    let name = [(key.as_str(), string(HOSTILE)), ("general.name", string(HOSTILE))];
    let cpu = ["-m", model, "--backend", "cpu"];
    let on_cpu = |command: &[&'static str]| clean(&[command, &cpu[..]].concat());
    for tensors in [&[][..], &[HOSTILE]] {
        std::fs::write(&path, changed("tiny-f32.gguf", &name, tensors)).unwrap();
        clean(&["inspect", model]);
        clean(&["inspect", "--json", model]);
        on_cpu(&["generate", "ab", "-n", "2"]);
        on_cpu(&["logits", "-p", "ab"]);
        on_cpu(&["trace", "-p", "ab", "--steps"]);
        on_cpu(&["bench", "-p", "2", "-n", "0", "-r", "1", "-q"]);
        on_cpu(&["bench", "-p", "2", "-n", "0", "-r", "1", "-q", "-o", "csv"]);
        on_cpu(&["bench", "-p", "2", "-n", "0", "-r", "1", "-q", "-o", "jsonl"]);
        on_cpu(&["verify", "--quick"]);
        clean(&["quantize", model, "/dev/null", "Q8_0"]);
    }
    for key in ["general.architecture", "tokenizer.ggml.model", "tokenizer.ggml.pre"] {
        std::fs::write(&path, changed("tiny-f32.gguf", &[(key, string(HOSTILE))], &[])).unwrap();
        on_cpu(&["generate", "ab", "-n", "2"]);
    }
}

/// The outputs of a command under a shell that connects its streams in some way.
fn shell(script: &str, model: &std::path::Path) -> std::process::Output {
    let program = assert_cmd::cargo::cargo_bin("samebits");
    Command::new("bash").args(["-c", script, "bash"]).arg(program).arg(model).stdin(Stdio::null()).output().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn closed_and_full_streams_never_panic() {
    let model = data("tiny/tiny-f32.gguf");
    for command in [
        r#"generate -m "$2" ab -n 3 --backend cpu"#,
        r#"logits -m "$2" -p ab --backend cpu"#,
        r#"perplexity -m "$2" -f Cargo.toml -c 8 --chunks 2 --backend cpu"#,
        r#"bench -m "$2" -p 2 -n 0 -r 1 --backend cpu -oe csv"#,
        r#"quantize "$2" /dev/null Q8_0"#,
        r#"quantize "$2" - Q8_0"#,
        r#"logits -m "$2" -p ab --backend cpu --npy -"#,
        r#"trace -m "$2" -p ab --backend cpu --html -"#,
        r#"trace -m "$2" -p ab --backend cpu --svg -"#,
        r#"inspect "$2""#,
        r#"tokenize -m "$2" ab"#,
        "devices",
        "validate --no-device",
        "--help",
        "--version",
    ] {
        let code = |script: &str| shell(script, &model).status.code();
        // Nobody reads the statistics.
        let full = shell(&format!(r#""$1" {command} 2>/dev/full"#), &model);
        assert_eq!(full.status.code(), Some(0), "{command}");
        assert!(!full.stdout.is_empty(), "{command}");
        assert_eq!(code(&format!(r#""$1" {command} 2>&-"#)), Some(0), "{command}");
        assert_eq!(
            code(&format!(r#"("$1" {command} 2>&1 >/dev/null; exit $?) | true; exit ${{PIPESTATUS[0]}}"#)),
            Some(0)
        );
        // Nobody reads the results; or nothing can hold them, which is an error.
        assert_eq!(code(&format!(r#"("$1" {command} 2>/dev/null; exit $?) | true; exit ${{PIPESTATUS[0]}}"#)), Some(0));
        let full = shell(&format!(r#""$1" {command} >/dev/full"#), &model);
        assert_eq!(full.status.code(), Some(1), "{command}");
        let stderr = String::from_utf8_lossy(&full.stderr);
        assert!(stderr.contains("error: cannot write to standard output"), "{command}: {stderr}");
    }
    for wrong in ["generate ab -m none.gguf", "generate --frobnicate", "frobnicate"] {
        let code = shell(&format!(r#""$1" {wrong} 2>/dev/full"#), &model).status.code();
        assert_eq!(code, Some(if wrong.contains("none") { 1 } else { 2 }), "{wrong}");
    }
}

/// Colours where a terminal wants them, and only there.
#[test]
fn colours_are_for_those_who_want_them() {
    let coloured = |variables: &[(&str, &str)]| {
        let mut command = samebits();
        for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM", "COLORTERM", "CI"] {
            command.env_remove(name);
        }
        let output = command.args(["inspect", "none.gguf"]).envs(variables.iter().copied()).output().unwrap();
        String::from_utf8(output.stderr).unwrap().contains('\u{1b}')
    };
    assert!(!coloured(&[("TERM", "xterm-256color")]), "standard error is a pipe");
    assert!(coloured(&[("TERM", "xterm-256color"), ("CLICOLOR_FORCE", "1")]));
    assert!(!coloured(&[("TERM", "xterm-256color"), ("NO_COLOR", "1")]));
}

/// Drivers look for a window system, and complain where there is none.
#[test]
fn drivers_say_nothing() {
    for runtime in [None, Some(""), Some("relative"), Some("/no/such/folder")] {
        let mut command = samebits();
        command.args(["generate", "Once", "-n", "1"]).env_remove("XDG_RUNTIME_DIR").env_remove("WAYLAND_DISPLAY");
        if let Some(runtime) = runtime {
            command.env("XDG_RUNTIME_DIR", runtime);
        }
        for extra in [&[][..], &["--backend", "gpu"]] {
            let mut command = Command::new(command.get_program());
            command.args(["generate", "Once", "-n", "1"]).args(extra).env_remove("XDG_RUNTIME_DIR");
            command.env_remove("WAYLAND_DISPLAY").envs(runtime.map(|r| ("XDG_RUNTIME_DIR", r)));
            let stderr = String::from_utf8(command.output().unwrap().stderr).unwrap();
            let ours = ["model: ", "backend: ", "warning: ", "1 prompt tokens", "2 prompt tokens", "logits hash: "];
            let foreign = stderr.lines().find(|line| !ours.iter().any(|start| line.starts_with(start)));
            assert_eq!(foreign, None, "{stderr}");
        }
    }
}
