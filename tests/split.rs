//! Models in several files.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::path::{Path, PathBuf};

use common::samebits;
use predicates::str::contains;
use samebits::gguf::{Gguf, GgufWriter, ShardName, Value, paths_of_parts};

/// A part: its metadata, and its tensors by name, shape, type and bytes.
type Part = (Vec<(String, Value)>, Vec<(String, Vec<u64>, u32, Vec<u8>)>);

fn stories() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/stories.gguf")
}

/// The model in parts as llama-gguf-split makes them: the first has the metadata and no tensor.
fn parts(count: usize) -> Vec<Part> {
    let whole = Gguf::open(&stories()).unwrap();
    let all: Vec<_> =
        whole.tensors().iter().map(|t| (t.name.clone(), t.dims.clone(), t.type_id, whole.data(t).to_vec())).collect();
    let each = all.len().div_ceil(count - 1);
    let split = |number: usize| {
        [
            ("split.no".to_owned(), Value::U16(number as u16)),
            ("split.count".to_owned(), Value::U16(count as u16)),
            ("split.tensors.count".to_owned(), Value::I32(all.len() as i32)),
        ]
    };
    let mut parts = vec![([whole.metadata(), &split(0)].concat(), Vec::new())];
    parts.extend(all.chunks(each).enumerate().map(|(i, tensors)| (split(i + 1).to_vec(), tensors.to_vec())));
    parts
}

fn write(path: &Path, (metadata, tensors): &Part) {
    let table: Vec<_> = tensors.iter().map(|t| (t.0.clone(), t.1.clone(), t.2)).collect();
    let mut writer = GgufWriter::new(metadata, &table).unwrap();
    let mut bytes = Vec::new();
    writer.write_header(&mut bytes).unwrap();
    tensors.iter().for_each(|t| writer.write_tensor(&mut bytes, &t.3).unwrap());
    std::fs::write(path, bytes).unwrap();
}

/// Writes parts into a folder, and gives their paths.
fn written(folder: &Path, parts: &[Part]) -> Vec<PathBuf> {
    let name = |i: usize| folder.join(format!("größe-{i:05}-of-{:05}.gguf", parts.len()));
    let paths: Vec<_> = (1..=parts.len()).map(name).collect();
    paths.iter().zip(parts).for_each(|(path, part)| write(path, part));
    paths
}

#[test]
fn a_split_model_has_the_bits_of_the_whole_whichever_part_is_given() {
    let folder = tempfile::tempdir().unwrap();
    let paths = written(folder.path(), &parts(3));
    assert_eq!(paths_of_parts(&paths[1]), paths);
    let whole = Gguf::open(&stories()).unwrap();
    let generated = |model: &Path| {
        let args = ["generate", "-p", "Once upon a time", "-n", "5", "--json", "-q", "--backend", "cpu", "-m"];
        let output = samebits().args(args).arg(model).assert().success();
        let value: serde_json::Value = serde_json::from_slice(&output.get_output().stdout).unwrap();
        value["logits_hash"].as_str().unwrap().to_owned()
    };
    let wanted = generated(&stories());
    for path in &paths {
        let joined = Gguf::open(path).unwrap();
        assert_eq!((joined.files(), joined.metadata()), (3, whole.metadata()));
        assert_eq!(joined.tensors().len(), whole.tensors().len());
        for (ours, theirs) in joined.tensors().iter().zip(whole.tensors()) {
            assert_eq!((&ours.name, &ours.dims, ours.type_id), (&theirs.name, &theirs.dims, theirs.type_id));
            assert_eq!(joined.data(ours), whole.data(theirs), "{}", ours.name);
        }
        assert_eq!(generated(path), wanted);
    }
    // Rewritten it is one file, byte for byte that of the whole; and no part is written over.
    let quantized = |from: &Path, to: &Path| {
        samebits().arg("quantize").args([from, to]).args(["Q4_0", "-q"]).assert().success();
        std::fs::read(to).unwrap()
    };
    let (a, b) = (folder.path().join("a.gguf"), folder.path().join("b.gguf"));
    assert_eq!(quantized(&paths[2], &a), quantized(&stories(), &b));
    let over = samebits().arg("quantize").args([&paths[0], &paths[2]]).args(["Q4_0", "--force"]).assert().code(1);
    over.stderr(contains("is a file that this command reads"));
    samebits().arg("inspect").arg(&paths[1]).assert().success().stdout(contains("bytes in 3 files"));
}

#[test]
fn parts_that_do_not_belong_together_are_refused_in_one_line() {
    let good = parts(3);
    type Change = fn(&mut Vec<Part>);
    fn set(part: &mut Part, key: &str, value: Value) {
        part.0.retain(|(k, _)| k != key);
        part.0.push((key.to_owned(), value));
    }
    let cases: [(&str, Change); 8] = [
        ("it says that it is number 3; its name is another's", |p| p.swap(1, 2)),
        ("its 'split.count' is not that of the first part", |p| set(&mut p[2], "split.count", Value::U16(4))),
        ("its 'split.tensors.count' is not that of the first part", |p| {
            set(&mut p[1], "split.tensors.count", Value::I32(7))
        }),
        ("instead of 9999", |p| p.iter_mut().for_each(|p| set(p, "split.tensors.count", Value::I32(9999)))),
        ("its 'general.architecture' is not that of the first part", |p| {
            set(&mut p[1], "general.architecture", Value::String("other".to_owned()));
        }),
        ("is in another part, too", |p| p[2].1[0] = p[1].1[0].clone()),
        ("it says that it is number none", |p| p[2].0.retain(|(key, _)| key != "split.no")),
        ("hold 0 tensors instead of", |p| p.iter_mut().for_each(|p| p.1.clear())),
    ];
    for (wanted, change) in cases {
        let folder = tempfile::tempdir().unwrap();
        let mut parts = good.clone();
        change(&mut parts);
        let paths = written(folder.path(), &parts);
        let error = Gguf::open(&paths[0]).unwrap_err().to_string();
        assert!(error.contains(wanted) && !error.contains('\n'), "{wanted}: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let paths = written(folder.path(), &good);
    // Whatever a command does with the model, it says which file is missing.
    std::fs::rename(&paths[1], folder.path().join("away")).unwrap();
    for command in [&["generate", "-p", "x", "-m"][..], &["inspect"], &["tokenize", "x", "-m"]] {
        let assert = samebits().args(command).arg(&paths[2]).assert().code(1);
        assert.stderr(contains("part 2 of 3 is missing; download it into the same folder"));
    }
    std::fs::rename(folder.path().join("away"), &paths[1]).unwrap();
    for name in ["model.gguf", "größe-00001-of-00003.gguf.part", "größe-00002-of-00004.gguf"] {
        let other = folder.path().join(name);
        std::fs::copy(&paths[1], &other).unwrap();
        let error = Gguf::open(&other).unwrap_err().to_string();
        assert!(
            error.contains("is not called as part 2 of 3; give it its name back: …-00002-of-00003.gguf"),
            "{error}"
        );
    }
    assert!(ShardName::parse("größe-00001-of-00003.gguf").is_some());
}
