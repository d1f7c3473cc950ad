//! `samebits quantize` and `perplexity`: the layouts of llama.cpp, files that load and run, and errors that lose nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{bits, data, json, on_cpu, on_gpu, samebits, tiny, turn};
use predicates::prelude::*;
use samebits::convert::{File, Options, Shape, TARGETS, Target, format, quantize};
use samebits::engine::EngineError;
use samebits::gguf::{Gguf, GgufWriter};
use samebits::model::Model;
use samebits::numerics::Precision;

/// The format of every matrix of two real models, as llama.cpp chooses it.
#[test]
fn mixtures_are_those_of_llama_cpp() {
    let golden = json("mixtures.json");
    let cases = [
        ("smollm2", Shape { layers: 30, group: 3, has_output: false }, 576, 1536),
        ("stories", Shape { layers: 10, group: 3, has_output: false }, 384, 1024),
    ];
    for (model, shape, width, feed_forward) in cases {
        for (target, types) in golden[model].as_object().unwrap() {
            let target = Target::by_name(target).unwrap();
            let parts = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
            let mut names = vec!["token_embd.weight".to_owned()];
            (0..shape.layers).for_each(|l| names.extend(parts.iter().map(|p| format!("blk.{l}.{p}.weight"))));
            for name in names {
                let cols = if name.contains("ffn_down") { feed_forward } else { width };
                let got = format(target, &shape, &name, cols, false).unwrap().name;
                let want = types["others"].get(&name).unwrap_or(&types["most"]);
                assert_eq!(got, want, "{model} {} {name}", target.name);
            }
        }
    }
}

fn file(path: &std::path::Path) -> File {
    File::new(path, false, &[]).unwrap()
}

fn options(target: &str) -> Options {
    Options { target: Target::by_name(target).unwrap(), pure: false, threads: 2 }
}

/// Every target makes a file that this program runs with equal bits on CPU and GPU.
#[test]
fn every_target_runs_with_equal_bits() {
    let source = Gguf::open(&data("tiny/tiny-mix_q4_k_m.gguf")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let prompt = [1, 247, 181, 56, 13];
    for target in TARGETS {
        let path = folder.path().join(target.name);
        let report = quantize(&source, &file(&path), options(target.name), &|_| true).unwrap();
        assert!(target.name == "Q4_K_M" || report.iter().any(|t| t.from != t.to), "{}", target.name);
        let model = Model::open(&path).unwrap();
        assert_eq!(model.gguf.get_u32("general.file_type").unwrap(), target.file_type);
        let cpu = on_cpu(&model, Precision::Fast, 16, 8, 2).feed(&prompt, true).unwrap();
        let _turn = turn();
        let gpu = on_gpu(&model, Precision::Fast, 16, 8).feed(&prompt, true).unwrap();
        assert!(bits(&cpu) == bits(&gpu), "{}", target.name);
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), TARGETS.len(), "temporary files are left");
}

#[test]
fn a_failure_leaves_the_folder_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let source = Gguf::open(&data("tiny/tiny-f32.gguf")).unwrap();
    let path = folder.path().join("out.gguf");
    let error = quantize(&source, &file(&path), options("Q8_0"), &|_| false).unwrap_err();
    assert!(error.to_string().contains("interrupted"));
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    std::fs::write(&path, "precious").unwrap();
    let input = data("tiny/tiny-f32.gguf");
    let run = |extra: &[&str]| {
        let mut command = samebits();
        command.arg("quantize").arg(&input).arg(&path).args(extra).assert()
    };
    run(&["q8_0"]).code(1).stdout("").stderr(predicate::str::contains("--force"));
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    run(&["q9_9"]).code(2).stderr(predicate::str::contains("known types: F32"));
    run(&["q8_0", "--force"]).success().stdout(predicate::str::contains("blk.0.ffn_down.weight"));
    run(&["Q4_K", "--force", "--json"]).success().stdout(predicate::str::contains("Q4_K_M"));
    assert!(Model::open(&path).is_ok());

    let mut bytes = std::fs::read(&input).unwrap();
    let tensor = source.tensor("blk.0.ffn_up.weight").unwrap();
    bytes[tensor.offset as usize..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let damaged = Gguf::from_bytes(bytes).unwrap();
    let error = quantize(&damaged, &file(&folder.path().join("nan.gguf")), options("Q8_0"), &|_| true).unwrap_err();
    assert!(error.to_string().contains("blk.0.ffn_up.weight"), "{error}");
}

/// Types that exist but cannot be run are named with the tensor.
#[test]
fn unsupported_types_are_named() {
    let source = Gguf::open(&data("tiny/tiny-q4_k.gguf")).unwrap();
    let iq2_xxs = 16;
    let damaged = "blk.0.ffn_up.weight";
    let list: Vec<_> = source
        .tensors()
        .iter()
        .map(|t| (t.name.clone(), t.dims.clone(), if t.name == damaged { iq2_xxs } else { t.type_id }))
        .collect();
    let mut writer = GgufWriter::new(source.metadata(), &list).unwrap();
    let mut bytes = Vec::new();
    writer.write_header(&mut bytes).unwrap();
    for t in source.tensors() {
        let data = source.data(t);
        let size = if t.name == damaged { t.dims.iter().product::<u64>() as usize / 256 * 66 } else { data.len() };
        writer.write_tensor(&mut bytes, &data[..size]).unwrap();
    }
    let error = Model::new(Gguf::from_bytes(bytes.clone()).unwrap()).unwrap_err().to_string();
    assert!(error.contains(damaged) && error.contains("IQ2_XXS") && error.contains("Q4_K"), "{error}");
    let folder = tempfile::tempdir().unwrap();
    let gguf = Gguf::from_bytes(bytes).unwrap();
    let error = quantize(&gguf, &file(&folder.path().join("x")), options("Q8_0"), &|_| true).unwrap_err().to_string();
    assert!(error.contains(damaged) && error.contains("IQ2_XXS"), "{error}");
}

/// Random bytes as weights: finite logits, or the step that went wrong by name; the same on both backends.
#[test]
fn damaged_weights_never_pass_silently() {
    let mut random = common::Random(11);
    let _turn = turn();
    let mut failures = 0;
    for name in ["q4_0", "q4_1", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q6_k", "iq4_nl", "iq4_xs", "f16"] {
        let clean = std::fs::read(data(&format!("tiny/tiny-{name}.gguf"))).unwrap();
        let source = tiny(&format!("tiny-{name}.gguf"));
        for part in ["blk.0.ffn_down.weight", "blk.0.attn_output.weight", "token_embd.weight"] {
            let mut bytes = clean.clone();
            let tensor = source.gguf.tensor(part).unwrap();
            bytes[tensor.offset as usize..][..tensor.bytes as usize].iter_mut().for_each(|b| *b = random.word() as u8);
            let model = Model::new(Gguf::from_bytes(bytes).unwrap()).unwrap();
            let prompt = [1, 2, 3, 250, 7];
            let outcome = |result: Result<Vec<f32>, EngineError>| match result {
                Ok(logits) => Ok(bits(&logits)),
                Err(error) => Err(error.to_string()),
            };
            let cpu = outcome(on_cpu(&model, Precision::Fast, 16, 8, 2).feed(&prompt, true));
            let gpu = outcome(on_gpu(&model, Precision::Fast, 16, 8).feed(&prompt, true));
            assert!(cpu == gpu, "{name} {part}: {:?} {:?}", cpu.as_ref().err(), gpu.as_ref().err());
            if let Err(error) = cpu {
                failures += 1;
                assert!(error.contains("step '") && error.contains("NaN or infinity"), "{error}");
                // The first step that reads the damaged matrix; a tied embedding is the output matrix, too.
                let step = part.trim_end_matches(".weight");
                let named = |step: &str| error.contains(&format!("step '{step}'"));
                assert!(named(step) || (step == "token_embd" && named("output")), "{name} {part}: {error}");
            }
        }
    }
    assert!(failures > 5, "random f16 scales are NaN or infinite now and then");
}

#[test]
fn perplexity_of_the_built_in_model() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text");
    std::fs::write(&text, include_str!("data/persuasion.txt").get(..6000).unwrap()).unwrap();
    let run = |extra: &[&str]| {
        let mut command = samebits();
        command.args(["perplexity", "--backend", "cpu", "--json", "-f"]).arg(&text).args(extra);
        let output = command.assert().success();
        serde_json::from_slice::<serde_json::Value>(&output.get_output().stdout).unwrap()
    };
    let whole = run(&["--ctx", "128", "--chunks", "3"]);
    assert_eq!(whole["windows"], 3);
    assert_eq!(whole["predictions"], 3 * 63);
    let same = run(&["--ctx", "128", "--chunks", "3", "--chunk", "5", "-t", "1", "-q"]);
    assert_eq!(whole["perplexity"], same["perplexity"], "chunks of the prompt and threads do not matter");
    assert!(whole["perplexity"].as_f64().unwrap() > 100.0, "a children's story model does not know Jane Austen");
    std::fs::write(&text, "too short").unwrap();
    samebits()
        .args(["perplexity", "--backend", "cpu", "-f"])
        .arg(&text)
        .assert()
        .code(1)
        .stderr(predicate::str::contains("fewer than one window"));
}

#[test]
fn what_chooses_experts_is_not_rounded() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("out.gguf");
    let from = data("arch/qwen3moe-q4_k.gguf");
    samebits().arg("quantize").arg(&from).arg(&out).arg("Q8_0").assert().success();
    let (before, after) = (Gguf::open(&from).unwrap(), Gguf::open(&out).unwrap());
    for name in ["blk.0.ffn_gate_inp.weight", "blk.1.attn_q_norm.weight", "output_norm.weight"] {
        let [before, after] = [&before, &after].map(|gguf| gguf.data(gguf.tensor(name).unwrap()));
        assert_eq!(before, after, "{name}");
    }
    let experts = after.tensor("blk.0.ffn_up_exps.weight").unwrap();
    assert_eq!(samebits::quant::format(experts.type_id).unwrap().name, "Q8_0");
    assert!(Model::new(after).is_ok());
}
