//! Text on the command line, in files and on standard input; values of options; options that contradict each other.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{data, samebits, smollm2_path};
use predicates::str::contains;
use serde_json::Value;

fn tiny() -> String {
    data("tiny/tiny-f32.gguf").to_str().unwrap().to_owned()
}

/// The prompt's tokens of a command that prints them as JSON.
fn tokens(command: &[&str], stdin: &str) -> Value {
    let output = samebits().args(command).args(["-m", &tiny(), "--json"]).write_stdin(stdin).assert().success();
    let value: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    ["prompt_tokens", "tokens", "ids"].iter().map(|key| value[key].clone()).find(|v| !v.is_null()).unwrap()
}

const GENERATE: [&str; 6] = ["generate", "-n", "1", "-q", "--backend", "cpu"];

#[test]
fn a_text_is_the_same_wherever_it_comes_from() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text");
    let file = path.to_str().unwrap();
    let commands: [&[&str]; 3] = [&GENERATE, &["logits", "-q", "--backend", "cpu"], &["trace"]];
    for text in ["ab", "- milk", "-5 degrees", "--- notes", "--json", "-", "a\nb", " ", "é\u{1f600}"] {
        for command in commands {
            let run = |extra: &[&str], stdin: &str| tokens(&[command, extra].concat(), stdin);
            let wanted = run(&["-p", text], "");
            assert_eq!(run(&[&format!("--prompt={text}")], ""), wanted, "{text:?}");
            // A line feed at the end of a file is not the prompt's.
            std::fs::write(&path, format!("{text}\n")).unwrap();
            for extra in [&["-f", file][..], &["-f", "-"], &["-"], &[]] {
                assert_eq!(run(extra, &format!("{text}\n")), wanted, "{text:?} {extra:?}");
            }
            assert_eq!(run(&[], text), wanted, "{text:?}");
        }
        let mut command = samebits();
        command.args(["tokenize", "--json", "-m", &tiny(), "--", text]).write_stdin(text);
        let value: Value = serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap();
        let ids = value["ids"].clone();
        std::fs::write(&path, text).unwrap();
        assert_eq!(tokens(&["tokenize", "-f", file], ""), ids, "{text:?}");
        assert_eq!(tokens(&["tokenize"], text), ids, "{text:?}");
    }
    assert_eq!(tokens(&[&GENERATE[..], &["-5"]].concat(), ""), tokens(&[&GENERATE[..], &["-p", "-5"]].concat(), ""));
}

/// Linux takes 128 KB in an argument.
#[test]
fn a_text_may_be_longer_than_an_argument() {
    let long = "many words ".repeat(60_000);
    let output = samebits().args(["tokenize", "--json", "-m", &tiny()]).write_stdin(long.clone()).assert().success();
    let value: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert!(value["ids"].as_array().unwrap().len() > 60_000);
    samebits()
        .args(GENERATE)
        .args(["-m", &tiny()])
        .write_stdin(long)
        .assert()
        .code(1)
        .stderr(contains("use --ctx N with a larger N or a shorter prompt"));
}

#[test]
fn text_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("latin1");
    std::fs::write(&path, b"caf\xe9").unwrap();
    let file = path.to_str().unwrap();
    for command in [&GENERATE[..], &["logits"], &["trace"], &["tokenize"], &["perplexity"], &["verify"]] {
        let run = |extra: &[&str]| samebits().args(command).args(["-m", &tiny()]).args(extra).assert().stdout("");
        run(&["-f", file]).code(1).stderr(contains("is no text: it is not UTF-8 from byte 3 on"));
        run(&["-f", "no/such/file"]).code(1).stderr(contains("cannot read no/such/file"));
        run(&["-f", folder.path().to_str().unwrap()]).code(1).stderr(contains("cannot read"));
        if !["tokenize", "perplexity"].contains(&command[0]) {
            run(&["-f", file, "-p", "ab"]).code(2).stderr(contains("cannot be used with"));
        }
        // Nothing on the command line, nothing on standard input.
        if !["tokenize", "perplexity", "verify"].contains(&command[0]) {
            run(&[]).code(2).stderr(contains("give PROMPT, -p TEXT or -f FILE, or text on standard input"));
        }
    }
}

#[test]
fn numbers_have_llama_cpps_meanings() {
    let run = |extra: &[&str]| {
        let output = samebits()
            .args(["generate", "ab", "-q", "--backend", "cpu", "--json", "-m", &tiny()])
            .args(extra)
            .assert()
            .success();
        serde_json::from_slice::<Value>(&output.get_output().stdout).unwrap()
    };
    let made = |value: &Value| value["tokens"].as_array().unwrap().len();
    assert_eq!(made(&run(&["-n", "0"])), 0);
    let full = run(&["-n", "-1", "-c", "12"]);
    assert!(full["stop_reason"] == "context_full" || full["stop_reason"] == "end_of_text", "{full}");
    let trained = run(&["-n", "-1", "-c", "0"]);
    assert!(made(&trained) >= made(&full));
    assert_eq!(run(&["--repeat-last-n", "-1", "--repeat-penalty", "1.1", "-n", "2"])["seed"], 0);
    // A drawn seed is in the JSON, and gives the same text again.
    let sampled = |seed: &str| run(&["-n", "8", "--temp", "1.5", "--seed", seed]);
    let (one, two) = (sampled("-1"), sampled("-1"));
    assert_ne!(one["seed"], two["seed"]);
    assert_eq!(sampled(&one["seed"].to_string())["tokens"], one["tokens"]);
    samebits()
        .args(["generate", "ab", "-n", "1", "--temp", "1", "--seed", "-1", "--backend", "cpu", "-m", &tiny()])
        .assert()
        .success()
        .stderr(contains("seed: "));
}

#[test]
fn values_without_meaning_are_usage_errors() {
    for (extra, says) in [
        (&["--repeat-penalty", "0"][..], "0.01 to 100"),
        (&["--repeat-penalty", "-1"], "0.01 to 100"),
        (&["--repeat-penalty", "nan"], "0.01 to 100"),
        (&["--temp", "-1"], "at least 0"),
        (&["--temp", "inf"], "at least 0"),
        (&["--top-p", "1.5"], "from 0 to 1"),
        (&["--min-p", "-0.1"], "from 0 to 1"),
        (&["-n", "-2"], "-1 for no limit"),
        (&["--repeat-last-n", "-2"], "-1 for no limit"),
        (&["--seed", "-2"], "-1 to draw a seed"),
        (&["--seed", "abc"], "-1 to draw a seed"),
        (&["--top-k", "-1"], "--top-k"),
        (&["-c", "-1"], "--ctx"),
        (&["-t", "-1"], "--threads"),
        (&["-t", "0"], "--threads"),
        (&["--chunk", "0"], "--chunk"),
        (&["--device", ""], "it is empty"),
        (&["--device", " "], "it is empty"),
    ] {
        let mut command = samebits();
        command.args(["generate", "ab", "-m", &tiny()]).args(extra);
        command.assert().code(2).stdout("").stderr(contains(says));
    }
}

#[test]
fn options_that_contradict_each_other_are_errors() {
    let fails = |arguments: &[&str], says: &str| {
        samebits().args(arguments).assert().code(2).stdout("").stderr(contains(says.to_owned()));
    };
    for command in [
        &["generate", "ab"][..],
        &["logits", "-p", "ab"],
        &["perplexity", "-f", "Cargo.toml"],
        &["verify"],
        &["trace", "-p", "ab"],
        &["bench"],
    ] {
        fails(&[command, &["--backend", "cpu", "--device", "7"]].concat(), "--backend cpu uses none");
    }
    let both = "cannot be used with";
    fails(&["generate", "ab", "-p", "cd"], both);
    fails(&["generate", "ab", "-f", "Cargo.toml"], both);
    fails(&["logits", "--tokens", "1", "-p", "cd"], both);
    fails(&["logits", "--tokens", "1", "-f", "Cargo.toml"], both);
    fails(&["tokenize", "ab", "-f", "Cargo.toml"], both);
    fails(&["tokenize", "--decode", "1", "ab"], both);
    fails(&["tokenize", "--decode", "1", "--no-special"], both);
    fails(&["validate", "--no-device", "--device", "0"], both);
    fails(&["validate", "x.wgsl", "--device", "0"], both);
    fails(&["trace", "-p", "ab", "--layers", "0", "--skip-layers"], both);
    fails(&["bench", "--json", "-o", "md"], both);
    // What has no effect is said.
    let run =
        |extra: &[&str]| samebits().args(["generate", "ab", "-n", "1", "-m", &tiny()]).args(extra).assert().success();
    run(&["--seed", "3", "--top-k", "5", "--backend", "cpu"])
        .stderr(contains("--top-k, --seed without effect: --temp 0 always takes the likeliest token"));
    run(&["--backend", "gpu", "-t", "1"]).stderr(contains("-t has no effect"));
}

#[cfg(target_os = "linux")]
#[test]
fn an_api_of_another_system_is_told_as_that() {
    for (api, name) in [("metal", "Metal"), ("dx12", "Direct3D 12")] {
        samebits()
            .args(["generate", "ab", "--backend", api])
            .assert()
            .code(1)
            .stderr(contains(format!("{name} does not exist on linux; use --backend vulkan")));
    }
}

#[test]
fn an_empty_variable_is_none() {
    for variable in ["SAMEBITS_CPU", "SAMEBITS_ARITHMETIC"] {
        let mut command = samebits();
        command.args(["generate", "ab", "-n", "1", "-q", "-m", &tiny()]).env(variable, "");
        command.args(["--backend", if variable == "SAMEBITS_CPU" { "cpu" } else { "gpu" }]).assert().success();
    }
}

/// A name may hold the comma that stands between names.
#[test]
fn a_file_with_a_comma_is_one_file() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a,b.gguf", "c.gguf"] {
        std::fs::copy(data("tiny/tiny-f32.gguf"), folder.path().join(name)).unwrap();
    }
    let rows = |list: &str| {
        let mut command = samebits();
        command.current_dir(folder.path()).args([
            "bench",
            "-m",
            list,
            "-p",
            "2",
            "-n",
            "0",
            "-r",
            "1",
            "--backend",
            "cpu",
        ]);
        let output = command.args(["--json", "-q"]).assert().success();
        let rows: Vec<Value> = serde_json::from_slice(&output.get_output().stdout).unwrap();
        rows.iter().map(|r| r["model_filename"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(rows("a,b.gguf"), ["a,b.gguf"]);
    assert_eq!(rows("c.gguf,a,b.gguf,c.gguf"), ["c.gguf", "a,b.gguf", "c.gguf"]);
}

#[test]
fn help_says_what_exit_codes_mean() {
    samebits().arg("--help").assert().success().stdout(contains("130 interrupted"));
    samebits().arg("--frobnicate").assert().code(2).stdout("").stderr(contains("unexpected argument"));
    samebits().assert().code(2).stdout("");
}

/// The text ends before the string, which may begin in one token and end in another; all else is as without it.
#[test]
fn a_text_ends_where_it_is_asked_to() {
    let run = |n: &str, extra: &[&str]| {
        let output = samebits()
            .args(["generate", "Once upon a time", "-q", "--backend", "cpu", "--json", "-n", n])
            .args(extra)
            .assert()
            .success();
        output.get_output().stdout.clone()
    };
    let whole: Value = serde_json::from_slice(&run("24", &[])).unwrap();
    let text = whole["text"].as_str().unwrap();
    let middle = text.len() / 2;
    let stop = text.get(middle..middle + 7).unwrap();
    let cut: Value = serde_json::from_slice(&run("24", &["--stop", "no such text", "--stop", stop])).unwrap();
    assert_eq!(cut["stop_reason"], "stop_string");
    assert_eq!(cut["text"], text[..text.find(stop).unwrap()]);
    let made = cut["tokens"].as_array().unwrap().len();
    assert_eq!(cut["tokens"].as_array().unwrap()[..], whole["tokens"].as_array().unwrap()[..made]);
    samebits().args(["generate", "a", "--stop", ""]).assert().code(2).stderr(contains("it is empty"));
    samebits().args(["generate", "a", "--stream"]).assert().code(2).stderr(contains("--json"));

    // Lines of JSON: one for each token, then the whole.
    let lines = String::from_utf8(run("5", &["--stream", "--logprobs", "3"])).unwrap();
    let lines: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let (last, tokens) = lines.split_last().unwrap();
    let joined: String = tokens.iter().map(|t| t["text"].as_str().unwrap()).collect();
    assert_eq!((tokens.len(), last["text"].as_str().unwrap()), (5, joined.as_str()));
    for (line, id) in tokens.iter().zip(last["tokens"].as_array().unwrap()) {
        assert_eq!(line["token"], *id);
        let top = line["logprobs"]["top"].as_array().unwrap();
        // The likeliest token is taken, and probabilities do not exceed one.
        assert_eq!((top.len(), &top[0]["id"]), (3, id));
        assert_eq!(top[0]["logprob"], line["logprobs"]["logprob"]);
        let sum: f64 = top.iter().map(|t| t["logprob"].as_f64().unwrap().exp()).sum();
        assert!(sum > 0.0 && sum <= 1.0 + 1e-9, "{line}");
    }
    assert_eq!(last["logprobs"].as_array().unwrap().len(), 5);
}

/// A model that ends a text by itself has chosen a token for that, too.
#[test]
fn the_token_that_ends_a_text_has_its_log_probability() {
    let mut command = samebits();
    command.args(["generate", "--chat", "-q", "--backend", "cpu", "--json", "--stream", "--logprobs", "1", "-m"]);
    command.arg(smollm2_path()).args(["-p", "Hi"]);
    let lines = String::from_utf8(command.assert().success().get_output().stdout.clone()).unwrap();
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (whole, steps) = lines.split_last().unwrap();
    assert_eq!(whole["stop_reason"], "end_of_text");
    let told: Vec<_> = whole["logprobs"].as_array().unwrap().iter().map(|told| &told["id"]).collect();
    let tokens: Vec<_> = whole["tokens"].as_array().unwrap().iter().collect();
    let streamed: Vec<_> = steps.iter().map(|step| &step["token"]).collect();
    assert_eq!((&told, &streamed), (&tokens, &tokens));
    let end = &steps[steps.len() - 1];
    assert_eq!((&end["text"], &end["logprobs"]["text"]), (&"".into(), &"<|im_end|>".into()));
}

/// What says how something is computed may come from the environment; an option goes before it.
#[test]
fn the_environment_gives_options() {
    let run = |variables: &[(&str, &str)], arguments: &[&str]| {
        let mut command = samebits();
        command.args(["generate", "ab", "-n", "4", "--json"]).args(arguments).envs(variables.iter().copied());
        command.assert()
    };
    let json = |variables: &[(&str, &str)], arguments: &[&str]| -> (Value, String) {
        let output = run(variables, arguments).success().get_output().clone();
        (serde_json::from_slice(&output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let tiny = tiny();
    let usual = [("SAMEBITS_MODEL", tiny.as_str()), ("SAMEBITS_BACKEND", "cpu"), ("SAMEBITS_QUIET", "1")];
    let (value, said) = json(&usual, &[]);
    let (same, _) = json(&[], &["-q", "--backend", "cpu", "-m", &tiny]);
    assert_eq!((&value["logits_hash"], said.as_str()), (&same["logits_hash"], ""));
    let sampled = [&usual[..], &[("SAMEBITS_TEMP", "5"), ("SAMEBITS_SEED", "7"), ("SAMEBITS_PRECISION", "precise")]];
    let (value, _) = json(&sampled.concat(), &[]);
    assert_eq!(value["seed"], 7);
    let (precise, _) = json(&usual, &["--temp", "5", "--seed", "7", "--precision", "precise"]);
    assert_eq!(value["tokens"], precise["tokens"]);
    assert_eq!(value["logits_hash"], precise["logits_hash"]);
    assert_eq!(json(&sampled.concat(), &["--temp", "0", "--precision", "fast"]).0["logits_hash"], same["logits_hash"]);
    // What a command works on is not taken from there; what is wrong is named.
    let unknown = run(&[("SAMEBITS_PROMPT", "x")], &[]).code(2).stdout("");
    unknown.stderr(contains("the environment has SAMEBITS_PROMPT, which is no setting; nearest: SAMEBITS_N_PROMPT"));
    run(&[("SAMEBITS_BACKEND", "nonsense")], &[]).code(2).stdout("").stderr(contains("--backend <BACKEND>"));
    run(&[("SAMEBITS_QUIET", "perhaps")], &[]).code(2).stdout("").stderr(contains("--quiet"));
    samebits().args(["generate", "--help"]).assert().success().stdout(contains("[env: SAMEBITS_BACKEND="));
}

#[test]
fn shells_and_manuals_know_all_commands() {
    let output = |arguments: &[&str]| {
        let output = samebits().args(arguments).assert().success().get_output().stdout.clone();
        String::from_utf8(output).unwrap()
    };
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = output(&["completions", shell]);
        assert!(["generate", "chat", "verify", "logprobs"].iter().all(|word| script.contains(word)), "{shell}");
    }
    samebits().args(["completions", "csh"]).assert().code(2).stderr(contains("bash"));
    let page = output(&["man"]);
    assert!(page.contains(".TH samebits") && page.contains("quantize"), "{page}");
    let page = output(&["man", "generate"]);
    assert!(page.contains(".TH samebits\\-generate") || page.contains(".TH samebits-generate"), "{page}");
    assert!(page.contains("\\-\\-logprobs") && page.contains("SAMEBITS_BACKEND"), "{page}");
    samebits().args(["man", "nonsense"]).assert().code(2).stderr(contains("there is no command nonsense"));
    let version = output(&["--version"]);
    assert!(version.starts_with("samebits 0.") && version.contains("\nnumerics v1\nfeatures stories"), "{version}");
    assert_eq!(output(&["-V"]).lines().count(), 1);
}
