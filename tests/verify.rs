//! `samebits verify`: green on a conforming device, red with the right name for each planted fault.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use assert_cmd::Command;
use predicates::prelude::*;
use serde_json::Value;

/// Runs `samebits verify --quick --json`, with a fault planted where one is named.
fn verify(fault: Option<&str>, folder: &std::path::Path) -> (bool, Value) {
    let mut command = Command::cargo_bin("samebits").unwrap();
    command.env("XDG_RUNTIME_DIR", std::env::temp_dir()).args(["verify", "--quick", "--json", "--out"]).arg(folder);
    if let Some(fault) = fault {
        command.env("SAMEBITS_FAULT", fault);
    }
    let output = command.output().unwrap();
    let value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.success(), value)
}

#[test]
fn holds_on_this_device() {
    let folder = tempfile::tempdir().unwrap();
    let (success, value) = verify(None, folder.path());
    assert!(success, "{value:#}");
    assert_eq!(value["holds"], true);
    assert_ne!(value["adapter"], "none");
    let names: Vec<_> = value["rungs"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    for name in [
        "primitives, GPU = CPU",
        "ops, GPU = CPU",
        "L0 repeat, GPU",
        "L2 cuts, GPU",
        "L3 steps, GPU = CPU",
        "L3 many rows, GPU = CPU",
        "L1 processes",
        "fingerprint",
    ] {
        assert!(names.contains(&name), "{names:?}");
    }
    assert_eq!(value["fingerprint"], value["known_fingerprint"]);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn the_cpu_alone() {
    let mut command = Command::cargo_bin("samebits").unwrap();
    command.env("XDG_RUNTIME_DIR", std::env::temp_dir()).args(["verify", "--quick", "--backend", "cpu"]);
    command
        .assert()
        .success()
        .stdout(predicate::str::contains("L0 repeat, CPU").and(predicate::str::contains("GPU =").not()));
}

/// A file of the same name and size with other weights is not held against the known fingerprint.
#[test]
fn another_file_of_a_known_model_has_its_own_fingerprint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.gguf");
    let stories = concat!(env!("CARGO_MANIFEST_DIR"), "/models/stories.gguf");
    let samebits = || Command::cargo_bin("samebits").unwrap();
    samebits().args(["quantize", stories]).arg(&path).arg("Q8_0").assert().success();
    let mut command = samebits();
    command.args(["verify", "--quick", "--backend", "cpu", "--json", "-m"]).arg(&path);
    let value: Value = serde_json::from_slice(&command.assert().success().get_output().stdout).unwrap();
    assert!(value["known_fingerprint"].is_null(), "{value}");
}

/// Each fault makes the op fail that it is in, and the first step of the model that runs it.
#[cfg(feature = "faults")]
#[test]
fn planted_faults_are_named() {
    for (fault, op, step) in [
        // It is in `exp`, which both gates call; the first example that shows it is GELU's.
        ("fused", "op gelu_mul", "ffn_silu_mul"),
        // It is in the sums of S8; the first example that shows it is a norm's.
        ("order", "op rms_norm", "attn_q"),
        ("uninitialised", "op attention", "attention"),
        ("gqa", "op attention", "attention"),
        ("rope", "op rope", "attn_q.rope"),
        ("eps", "op rms_norm", "attn_norm"),
        ("transposed", "op matmul", "attn_q"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (success, value) = verify(Some(fault), folder.path());
        assert!(!success, "{fault}");
        let rung = |name: &str| {
            let rungs = value["rungs"].as_array().unwrap();
            let rung = rungs.iter().find(|r| r["name"] == name).unwrap();
            assert_eq!(rung["holds"], false, "{fault}: {name}");
            rung["detail"].as_str().unwrap().to_owned()
        };
        let (ops, steps) = (rung("ops, GPU = CPU"), rung("L3 steps, GPU = CPU"));
        if ["uninitialised", "gqa", "rope", "eps"].contains(&fault) {
            assert!(rung("L3 fused, GPU = CPU").contains("step 'blk.0."), "{fault}");
        }
        if fault == "gqa" {
            assert!(rung("L3 many rows, GPU = CPU").contains("step 'blk.0.attention'"));
        }
        assert!(ops.contains(op), "{fault}: {ops}");
        assert!(steps.contains(&format!("step 'blk.0.{step}'")), "{fault}: {steps}");
        assert!(steps.contains("elements differ, worst at"), "{steps}");
        // The self-test knows the primitives, and nothing of heads, pairs, rows and columns.
        let primitives =
            value["rungs"].as_array().unwrap().iter().find(|r| r["name"] == "primitives, GPU = CPU").unwrap();
        assert_eq!(primitives["holds"], !["fused", "order"].contains(&fault), "{fault}: {primitives}");
        let files: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|f| f.unwrap().file_name()).collect();
        let written = |start: &str| files.iter().filter(|f| f.to_string_lossy().starts_with(start)).count();
        let logits = |r: &&Value| r["holds"] == false && r["detail"].as_str().unwrap().contains("logits: ");
        let logits = value["rungs"].as_array().unwrap().iter().filter(logits).count();
        assert_eq!(logits == 0, fault == "transposed", "only this fault is in a kernel for examples alone: {value:#}");
        // Expected and found: of the op, of the model's step, and the logits of every rung that compared them.
        assert_eq!((written("op."), written("blk.0."), written("logits.")), (2, 2, 2 * logits), "{fault}: {files:?}");
    }
}

/// Faults in kernels for single tokens that llama has not: the other kernels hold, and the first step that is wrong is named.
#[cfg(feature = "faults")]
#[test]
fn planted_faults_in_kernels_of_other_architectures_are_named() {
    for (fault, file, step) in [
        ("branch", "gemma3-q4_k.gguf", "attn_residual"),
        ("expert", "qwen3moe-q4_k.gguf", "ffn_exps_gate"),
        ("expert_sum", "qwen3moe-q4_k.gguf", "ffn_residual"),
        ("heads", "qwen3-q4_k.gguf", "kv_cache"),
        ("siblings", "qwen3-q4_k.gguf", "attn_k"),
        // Kernels for a few rows: the number of rows is named.
        ("two_rows", "qwen3-tied-q8_0.gguf", "2 rows, step 'blk.0.attn_q'"),
        ("given_rows", "qwen3-q4_k.gguf", "2 rows, step 'blk.0.attn_q'"),
        ("few_rows", "qwen3-q4_k.gguf", "9 rows, step 'blk.0.attn_residual'"),
        ("few_blocks", "qwen3-q4_k.gguf", "9 rows, step 'blk.0.ffn_silu_mul'"),
        // A kernel for many rows, which has a step for itself.
        ("expert_tiles", "qwen3moe-q4_k.gguf", "ffn_gate_exps"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = Command::cargo_bin("samebits").unwrap();
        command.env("XDG_RUNTIME_DIR", std::env::temp_dir()).env("SAMEBITS_FAULT", fault);
        command.args(["verify", "--quick", "--json", "--out"]).arg(folder.path());
        command.arg("-m").arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/arch/").to_owned() + file);
        let output = command.output().unwrap();
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        let rung = |name: &str| value["rungs"].as_array().unwrap().iter().find(|r| r["name"] == name).unwrap();
        assert!(!output.status.success(), "{fault}");
        // The logits of a whole prompt differ, which a few rows may have computed; no step by itself does.
        let (steps, alone) = (rung("L3 steps, GPU = CPU"), fault == "expert_tiles");
        assert_eq!(steps["detail"].as_str().unwrap().contains("step '"), alone, "{fault}: {steps}");
        let (name, step) = match step.contains("rows") {
            true => ("L3 few rows, GPU = CPU", step.to_owned()),
            false if alone => ("L3 steps, GPU = CPU", format!("step 'blk.0.{step}'")),
            false => ("L3 fused, GPU = CPU", format!("step 'blk.0.{step}'")),
        };
        let found = rung(name)["detail"].as_str().unwrap();
        assert!(found.contains(&step), "{fault}: {found}");
    }
}

#[test]
fn validate_checks_every_shader_and_the_users_own() {
    let samebits = || {
        let mut command = Command::cargo_bin("samebits").unwrap();
        command.env("XDG_RUNTIME_DIR", std::env::temp_dir()).arg("validate");
        command
    };
    let folder = tempfile::tempdir().unwrap();
    let output = samebits().args(["--json", "--emit"]).arg(folder.path()).assert().success();
    let value: Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
    assert_eq!(value["failed"], 0);
    let shaders = value["shaders"].as_array().unwrap();
    let checks = |name: &str| {
        let shader = shaders.iter().find(|s| s["name"] == name).unwrap();
        shader["checks"].as_array().unwrap().iter().map(|c| c["check"].as_str().unwrap()).collect::<Vec<_>>()
    };
    let all =
        ["portable", "SPIR-V", "MSL", "HLSL", "GLSL", "numerics", "every compiler", "compiles", "compiles, precise"];
    assert_eq!(checks("matmul.Q4_K"), all);
    assert_eq!(checks("rms_norm"), all[..8]);
    let languages = |name: &str| checks(name).iter().filter(|c| all[1..5].contains(c)).count();
    assert_eq!(languages("tiled_units.Q4_K"), 1);
    let files: usize = shaders.iter().map(|s| languages(s["name"].as_str().unwrap())).sum();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), files);

    let own = folder.path().join("own.wgsl");
    let source = "@group(0) @binding(0) var<storage, read_write> x: array<f32>;
        @compute @workgroup_size(64) fn run(@builtin(global_invocation_id) i: vec3<u32>) { x[i.x] = sqrt(x[i.x]); }";
    std::fs::write(&own, source).unwrap();
    samebits().arg(&own).assert().code(1).stdout(predicate::str::contains("numerics: run: banned Sqrt"));
    std::fs::write(&own, source.replace("sqrt(x[i.x])", "x[i.x +")).unwrap();
    samebits().arg(&own).assert().code(1).stdout(predicate::str::contains("valid: error:"));
    std::fs::write(&own, source.replace("sqrt", "abs")).unwrap();
    samebits().arg(&own).assert().success();
}
