//! The configuration file, as a user writes it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use common::{data, samebits};
use predicates::str::contains;
use serde_json::Value;

/// The program in a home folder.
fn program(home: &Path) -> Command {
    let mut command = samebits();
    command
        .env_remove("SAMEBITS_CONFIG")
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home.join("config"))
        .env("APPDATA", home.join("config"));
    command
}

/// Where the file belongs in such a home folder.
fn place(home: &Path) -> PathBuf {
    let folder = if cfg!(target_os = "macos") { home.join("Library/Application Support") } else { home.join("config") };
    folder.join("samebits/config.toml")
}

fn write(home: &Path, text: &str) {
    let path = place(home);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn json(command: &mut Command) -> Value {
    serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap()
}

#[test]
fn an_option_is_taken_from_the_command_line_else_the_environment_else_the_file() {
    let home = tempfile::tempdir().unwrap();
    std::fs::copy(data("tiny/tiny-f32.gguf"), home.path().join("tiny.gguf")).unwrap();
    write(
        home.path(),
        "model = \"small\"\nbackend = \"cpu\"\nseed = 5\n\n[generate]\nn-predict = 3\nquiet = true\nseed = 0x7\n\n[aliases]\nsmall = \"../../tiny.gguf\"\nother = \"hf:a/b:Q4_0\"\n",
    );
    let run = |args: &[&str], environment: &[(&str, &str)]| {
        let mut command = program(home.path());
        command.args(["generate", "-p", "ab", "--json", "--temp", "1"]).args(args).envs(environment.iter().copied());
        json(&mut command)
    };
    let seed = |value: &Value| value["seed"].as_u64().unwrap();
    let of_file = run(&[], &[]);
    assert_eq!(
        (of_file["tokens"].as_array().unwrap().len(), seed(&of_file)),
        (3, 7),
        "a section goes before what is for all"
    );
    assert_eq!(of_file["backend"], "cpu");
    assert_eq!(seed(&run(&[], &[("SAMEBITS_SEED", "8")])), 8);
    assert_eq!(seed(&run(&["--seed", "9"], &[("SAMEBITS_SEED", "8")])), 9);
    // An alias goes before a file; -m and a flag of the environment go before the file's.
    let direct = run(&["-m", home.path().join("tiny.gguf").to_str().unwrap()], &[]);
    assert_eq!(direct["logits_hash"], of_file["logits_hash"]);
    let mut loud = program(home.path());
    loud.args(["generate", "-p", "ab", "-n", "1"])
        .env("SAMEBITS_QUIET", "0")
        .assert()
        .success()
        .stderr(contains("logits hash"));
    // Another file, and none.
    let file = home.path().join("other.toml");
    std::fs::write(&file, "backend = \"cpu\"\n[generate]\nseed = 11\n").unwrap();
    let other = ["--config", file.to_str().unwrap(), "-m", home.path().join("tiny.gguf").to_str().unwrap(), "-n", "1"]
        .map(str::to_owned);
    let other: Vec<_> = other.iter().map(String::as_str).collect();
    assert_eq!(seed(&run(&other, &[])), 11);
    assert_eq!(seed(&run(&other[2..], &[("SAMEBITS_CONFIG", other[1])])), 11);
    assert_eq!(seed(&run(&[&["--config", "", "--backend", "cpu"], &other[2..]].concat(), &[])), 0);
}

/// Whatever the file may set has a variable, and help names it.
#[test]
fn every_setting_has_its_variable() {
    let home = tempfile::tempdir().unwrap();
    let shown = json(program(home.path()).args(["config", "--json"]));
    let settings = shown["settings"].as_array().unwrap();
    assert!(settings.len() > 33, "{shown}");
    for setting in settings {
        let variable = format!("SAMEBITS_{}", setting["option"].as_str().unwrap().to_uppercase().replace('-', "_"));
        let command = setting["commands"][0].as_str().unwrap();
        program(home.path()).args(["help", command]).assert().success().stdout(contains(format!("[env: {variable}=]")));
    }
    std::fs::copy(data("tiny/tiny-f32.gguf"), home.path().join("tiny.gguf")).unwrap();
    let run = |args: &[&str], environment: &[(&str, &str)]| {
        let mut command = program(home.path());
        command.args(["generate", "-p", "ab", "--json", "--backend", "cpu", "-m"]).arg(home.path().join("tiny.gguf"));
        json(command.args(args).envs(environment.iter().copied()))
    };
    let length = |value: &Value| value["tokens"].as_array().unwrap().len();
    let variables = [("SAMEBITS_N_PREDICT", "3"), ("SAMEBITS_IGNORE_EOS", "1"), ("SAMEBITS_CHAT_TEMPLATE", "chatml")];
    let of_environment = run(&[], &variables);
    let of_options = run(&["-n", "3", "--ignore-eos", "--chat-template", "chatml"], &[]);
    assert_eq!((length(&of_environment), &of_environment["tokens"]), (3, &of_options["tokens"]));
    // An option goes before a setting that it excludes, of the environment and of the file.
    let raw = run(&["-n", "3", "--ignore-eos"], &[]);
    assert_ne!(raw["prompt_tokens"], of_options["prompt_tokens"]);
    assert_eq!(run(&["--raw"], &variables)["prompt_tokens"], raw["prompt_tokens"]);
    write(home.path(), "[generate]\nchat-template = \"chatml\"\nraw = false\n");
    assert_eq!(run(&["--raw", "-n", "3"], &[])["prompt_tokens"], raw["prompt_tokens"]);
    let chat = run(&["--chat-template", "chatml"], &[("SAMEBITS_RAW", "yes"), ("SAMEBITS_N_PREDICT", "3")]);
    assert_eq!(chat["prompt_tokens"], of_options["prompt_tokens"]);
    run(&["--regex", "a*"], &[("SAMEBITS_IGNORE_EOS", "1"), ("SAMEBITS_N_PREDICT", "3")]);
    let bench = ["bench", "--json", "-q", "-p", "1", "-n", "0", "-r", "1", "--backend", "cpu"];
    json(program(home.path()).args(bench).env("SAMEBITS_OUTPUT", "csv"));
}

/// A variable of ours that means nothing is an error; those that our own sources name mean something.
#[test]
fn a_variable_that_is_no_setting_is_refused_with_what_is_near() {
    let home = tempfile::tempdir().unwrap();
    let misspelt = |word: &str| format!("SAMEBITS_{word}");
    for (word, near) in [("TEMPERATURE", "TEMP"), ("N_PREDCT", "N_PREDICT"), ("MODLE", "MODEL"), ("CONFG", "CONFIG")] {
        for command in [&["generate", "hi"][..], &["config"], &["devices"]] {
            let refused = program(home.path()).args(command).env(misspelt(word), "1").assert().code(2).stdout("");
            let says = format!("the environment has {}, which is no setting; nearest: ", misspelt(word));
            let said = String::from_utf8(refused.get_output().stderr.clone()).unwrap();
            assert!(said.contains(&says) && said.contains(&misspelt(near)), "{said}");
        }
        program(home.path()).args(["help", "generate"]).env(misspelt(word), "1").assert().success();
    }
    // Those of the program, of scripts and of tests.
    let mut command = program(home.path());
    let mut known = 0;
    let mut paths = ["src", "tests", "scripts", "benches", "examples", "build.rs"].map(PathBuf::from).to_vec();
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        for (at, prefix) in text.match_indices("SAMEBITS_") {
            let rest = &text[at + prefix.len()..];
            let end = rest.find(|c: char| !(c.is_ascii_uppercase() || c == '_')).unwrap_or(rest.len());
            let name = &rest[..end];
            if !["", "CONFIG", "PROMPT"].contains(&name) {
                command.env(misspelt(name), "1");
                known += 1;
            }
        }
    }
    assert!(known > 50, "the sources name variables in another way now");
    command.arg("config").assert().success();
}

#[test]
fn what_is_in_force_is_shown_with_where_it_comes_from() {
    let home = tempfile::tempdir().unwrap();
    let mut none = program(home.path());
    none.arg("config").assert().success().stderr(contains("there is no configuration")).stdout(contains("default"));
    write(
        home.path(),
        "threads = 2\n\n[generate]\ntemp = 0.5\n\n[bench]\nbackend = [\"cpu\", \"gpu\"]\n\n[aliases]\nsmol = \"hf:a/b:Q4_0\"\n",
    );
    let mut command = program(home.path());
    command.args(["config", "--json"]).env("SAMEBITS_TOP_K", "7");
    let value = json(&mut command);
    assert_eq!(value["aliases"]["smol"], "hf:a/b:Q4_0");
    assert_eq!(
        (&value["exists"], value["file"].as_str().unwrap()),
        (&true.into(), place(home.path()).to_str().unwrap())
    );
    let settings = value["settings"].as_array().unwrap();
    let of = |option: &str, command: &str| {
        let is = |s: &&Value| s["option"] == option && s["commands"].as_array().unwrap().iter().any(|c| c == command);
        let found = settings.iter().find(is).unwrap_or_else(|| panic!("{option} of {command}"));
        (found["value"].as_str().unwrap_or("").to_owned(), found["from"].as_str().unwrap().to_owned())
    };
    let pair = |value: &str, from: &str| (value.to_owned(), from.to_owned());
    assert_eq!(of("temp", "generate"), pair("0.5", "file, line 4"));
    assert_eq!(of("threads", "chat"), pair("2", "file, line 1"));
    assert_eq!(of("top-k", "generate"), pair("7", "SAMEBITS_TOP_K"));
    assert_eq!(of("backend", "bench"), pair("cpu,gpu", "file, line 7"));
    assert_eq!(of("backend", "generate"), pair("auto", "default"));
    let mut shown = program(home.path());
    shown.arg("config").assert().success().stdout(contains("alias smol       hf:a/b:Q4_0  (file, line 10)"));
}

#[test]
fn what_is_wrong_in_a_file_is_said_with_its_line_and_what_is_near() {
    let home = tempfile::tempdir().unwrap();
    for (text, line, words) in [
        ("temp = 0.5\ntempp = 1\n", 2, "a configuration has no setting 'tempp'; nearest: temp"),
        ("[generate]\nn_predict = 5\n", 2, "the command generate has no setting 'n_predict'; nearest: n-predict"),
        ("[generate]\nprompt = \"x\"\n", 2, "has no setting 'prompt'"),
        ("[generate]\njson = true\n", 2, "has no setting 'json'"),
        ("\n\n[genrate]\n", 3, "there is no command 'genrate'; nearest: generate"),
        ("[alias]\nx = \"y\"\n", 1, "there is no command 'alias'; nearest: aliases"),
        ("temp = \"hot\"\n", 1, "'temp' cannot be 'hot': a number of at least 0 is needed"),
        ("backend = \"cuda\"\n", 1, "'backend' cannot be 'cuda': it is one of auto, cpu"),
        ("threads = 0\n", 1, "'threads' cannot be '0': 0 is not in 1..=1024"),
        ("threads = -1\n", 1, "'threads' cannot be '-1'"),
        ("quiet = 1\n", 1, "'quiet' cannot be '1': true or false is needed"),
        ("temp = [1, 2]\n", 1, "'temp' cannot be array: one value is needed"),
        ("[generate]\n\ntemp = { a = 1 }\n", 3, "'temp' cannot be"),
        ("temp = \n", 1, "this is no TOML"),
        ("temp = 1\ntemp = 2\n", 2, "this is no TOML: duplicate key"),
        ("[aliases]\n\"a/b\" = \"x.gguf\"\n", 2, "'a/b' is no alias"),
        ("[aliases]\na = 5\n", 2, "'a' is no alias"),
    ] {
        write(home.path(), text);
        for command in [&["generate", "hi"][..], &["config"], &["devices"]] {
            let assert = program(home.path()).args(command).assert().code(2).stdout("");
            let said = String::from_utf8(assert.get_output().stderr.clone()).unwrap();
            assert!(said.contains(&format!("config.toml, line {line}: ")) && said.contains(words), "{text:?}: {said}");
            assert_eq!(said.lines().count(), 1, "{said}");
        }
        // Help is there all the same, and so is a way around.
        program(home.path()).args(["help", "generate"]).assert().success();
        program(home.path()).args(["--config", "", "devices", "--json"]).assert().success();
    }
    let missing = program(home.path()).args(["--config", "no/such.toml", "devices"]).assert().code(2);
    missing.stderr(contains("cannot read the configuration no/such.toml"));
    write(home.path(), "[aliases]\nsmol = \"hf:a/b\"\nbig = \"no/such.gguf\"\n");
    let unknown = program(home.path()).args(["generate", "-m", "small", "hi"]).assert().code(1);
    unknown.stderr(contains("there is no file and no alias 'small' (aliases: big, smol)"));
    let gone = program(home.path()).args(["generate", "-m", "big", "hi"]).assert().code(1);
    gone.stderr(contains("cannot read")).stderr(contains("no/such.gguf"));
}

#[test]
fn what_verify_computes_depends_on_no_environment_and_no_file() {
    let home = tempfile::tempdir().unwrap();
    write(
        home.path(),
        "temp = 1.5\nseed = -1\n\n[generate]\nn-predict = 1\nignore-eos = true\nchat-template = \"chatml\"\n",
    );
    let mut command = program(home.path());
    command
        .args(["verify", "--quick", "--backend", "cpu"])
        .env("SAMEBITS_TEMP", "2")
        .env("SAMEBITS_REPEAT_PENALTY", "1.3")
        .env("SAMEBITS_CHAT_TEMPLATE", "none/such");
    command.assert().success().stdout(contains("fingerprint eb7c80644bc7cf0bc7b4b5d858ba91e8"));
}
