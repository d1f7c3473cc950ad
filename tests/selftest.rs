//! What a start leaves for the next: the result of the self-test, which is done once, told, and followed by a fallback where
//! it fails; compiled kernels.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};

use assert_cmd::Command;
use predicates::prelude::*;
use predicates::str::contains;
use serde_json::{Value, json};

/// The program with this folder as the user's cache.
fn samebits(cache: &Path, fault: Option<&str>) -> Command {
    let mut command = Command::cargo_bin("samebits").unwrap();
    // The cache's place on Linux and on macOS.
    command.env("XDG_CACHE_HOME", cache).env("HOME", cache).env("XDG_RUNTIME_DIR", std::env::temp_dir());
    if let Some(fault) = fault {
        command.env("SAMEBITS_FAULT", fault);
    }
    command
}

/// Generates two tokens on the first adapter with this folder as the user's cache.
fn generate(backend: &str, cache: &Path, fault: Option<&str>) -> assert_cmd::assert::Assert {
    let mut command = samebits(cache, fault);
    command.args(["generate", "Once", "-n", "2", "-q", "--json", "--backend", backend]);
    if backend != "cpu" {
        command.args(["--device", "0"]);
    }
    command.assert().success()
}

fn backend_of(assert: &assert_cmd::assert::Assert) -> String {
    let value: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    value["backend"].as_str().unwrap().to_owned()
}

fn hash_of(assert: &assert_cmd::assert::Assert) -> Value {
    let value: Value = serde_json::from_slice(&assert.get_output().stdout).unwrap();
    value["logits_hash"].clone()
}

/// All results in a cache.
fn results(cache: &Path) -> Vec<PathBuf> {
    files(cache, "selftest-")
}

/// The files of a cache with this in their path.
fn files(cache: &Path, name: &str) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(cache) else { return Vec::new() };
    let paths = entries.map(|e| e.unwrap().path());
    paths
        .flat_map(|p| if p.is_dir() { files(&p, name) } else { vec![p] })
        .filter(|p| p.to_string_lossy().contains(name))
        .collect()
}

#[test]
fn it_is_done_once_and_the_result_is_used() {
    let cache = tempfile::tempdir().unwrap();
    let first = generate("auto", cache.path(), None).stderr(predicate::str::is_empty());
    assert_ne!(backend_of(&first), "cpu");
    let [path] = &results(cache.path())[..] else { panic!("one result: {:?}", results(cache.path())) };
    let mut cached: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!((&cached["failures"], &cached["numerics"]), (&json!([]), &json!("numerics v1")));
    // A result that says otherwise is believed: the test is not done again.
    cached["failures"] = json!(["1/x (planted)"]);
    std::fs::write(path, cached.to_string()).unwrap();
    let second = generate("auto", cache.path(), None).stderr(contains("does not keep numerics v1: 1/x (planted)"));
    assert_eq!(backend_of(&second), "cpu");
    // A damaged one is made anew.
    std::fs::write(path, "{").unwrap();
    assert_ne!(backend_of(&generate("auto", cache.path(), None).stderr(predicate::str::is_empty())), "cpu");
    assert!(std::fs::read_to_string(path).unwrap().contains("failures"));
}

#[test]
fn a_cache_that_cannot_be_written_is_no_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    assert_ne!(backend_of(&generate("auto", file.path(), None).stderr(contains("warning").not())), "cpu");
}

/// Compiled kernels are kept where the API allows it, and read again; what is damaged is made anew.
#[test]
fn kernels_are_kept() {
    let cache = tempfile::tempdir().unwrap();
    let first = generate("gpu", cache.path(), None);
    let kept = files(cache.path(), "kernels-");
    if backend_of(&first) != "vulkan" {
        assert!(kept.is_empty(), "{kept:?}");
        return;
    }
    let [path] = &kept[..] else { panic!("one file: {kept:?}") };
    let whole = std::fs::read(path).unwrap();
    let written = || std::fs::metadata(path).unwrap().modified().unwrap();
    let before = written();
    generate("gpu", cache.path(), None).stderr(predicate::str::is_empty());
    assert_eq!(written(), before, "a cache that was read, and got no new kernel, is not written");
    let mut turned = whole.clone();
    *turned.last_mut().unwrap() ^= 1;
    let damaged = [&turned[..], &whole[..whole.len() / 2], &whole[..20], b""];
    for bytes in damaged {
        std::fs::write(path, bytes).unwrap();
        let again = generate("gpu", cache.path(), None).stderr(predicate::str::is_empty());
        assert_eq!(hash_of(&again), hash_of(&first));
        let now = std::fs::read(path).unwrap();
        assert!(now.len() >= whole.len() && now != bytes, "{} bytes were not replaced", bytes.len());
    }
}

/// A planted fault makes `auto` fall back, with the CPU's results; a backend that was named runs, and is named.
#[cfg(feature = "faults")]
#[test]
fn a_device_that_fails_is_named_and_left() {
    let cache = tempfile::tempdir().unwrap();
    let good = hash_of(&generate("cpu", cache.path(), None));
    for (fault, guarantee) in [("order", "sums of floats in the order S8"), ("fused", "exp (")] {
        let auto = generate("auto", cache.path(), Some(fault));
        assert_eq!((backend_of(&auto).as_str(), hash_of(&auto)), ("cpu", good.clone()), "{fault}");
        auto.stderr(contains(guarantee).and(contains("the CPU is used instead")));
        let named = generate("gpu", cache.path(), Some(fault));
        assert_ne!(backend_of(&named), "cpu");
        assert_ne!(hash_of(&named), good, "{fault}");
        named.stderr(contains(guarantee).and(contains("its results are not those of other machines")));
    }
    // Faulty shaders are other shaders: each has its own result, and the good one is not touched.
    assert_ne!(backend_of(&generate("auto", cache.path(), None).stderr(predicate::str::is_empty())), "cpu");
    assert_eq!(results(cache.path()).len(), 3);
}

/// A kernel that does not compile: `auto` goes on and says why; an adapter that was named is an error with a way out.
#[cfg(feature = "faults")]
#[test]
fn a_kernel_that_does_not_compile_is_named_and_the_adapter_left() {
    let cache = tempfile::tempdir().unwrap();
    let why = || contains("failed with the driver's compiler: kernel ").and(contains("does not compile"));
    let auto = generate("auto", cache.path(), Some("refused"));
    assert_eq!(backend_of(&auto), "cpu");
    assert_eq!(hash_of(&auto), hash_of(&generate("cpu", cache.path(), None)));
    auto.stderr(contains("is not used: ").and(why()).and(contains("the CPU is used instead")));
    let mut named = samebits(cache.path(), Some("refused"));
    named.args(["generate", "Once", "-n", "2", "-q", "--backend", "gpu", "--device", "0"]);
    named.assert().code(1).stdout("").stderr(why().and(contains("use --backend cpu")));
}

/// The weights of a single format come out wrong: a model that has it is not run on the adapter, another is.
#[cfg(feature = "faults")]
#[test]
fn a_format_that_is_read_wrongly_matters_to_models_that_have_it() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("q3_k.gguf");
    let mut quantize = samebits(folder.path(), None);
    quantize.args(["quantize", concat!(env!("CARGO_MANIFEST_DIR"), "/models/stories.gguf")]).arg(&model);
    quantize.args(["Q3_K", "--pure", "-q"]).assert().success();
    let with_q3_k = |fault| {
        let mut command = samebits(folder.path(), fault);
        command.args(["generate", "Once", "-n", "1", "-q", "--json", "--device", "0", "-m"]).arg(&model);
        command.assert().success()
    };
    let wrong = with_q3_k(Some("q3_k"));
    assert_eq!(backend_of(&wrong), "cpu");
    wrong.stderr(contains("does not keep numerics v1: weights of Q3_K (").and(contains("the CPU is used instead")));
    assert_ne!(backend_of(&with_q3_k(None).stderr(predicate::str::is_empty())), "cpu");
    let without = generate("auto", folder.path(), Some("q3_k")).stderr(predicate::str::is_empty());
    assert_ne!(backend_of(&without), "cpu");
}
