//! Hostile files: every truncation and many corruptions give an error or a valid container, never a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::Random;
use samebits::gguf::{Array, Gguf, GgufError, GgufWriter, Value};
use samebits::model::{Model, ModelError};

fn sample() -> Vec<u8> {
    let metadata: Vec<(String, Value)> = [
        ("general.architecture", Value::String("llama".into())),
        ("a.u8", Value::U8(1)),
        ("a.i8", Value::I8(-1)),
        ("a.u16", Value::U16(2)),
        ("a.i16", Value::I16(-2)),
        ("a.u32", Value::U32(3)),
        ("a.i32", Value::I32(-3)),
        ("a.f32", Value::F32(0.5)),
        ("a.bool", Value::Bool(true)),
        ("a.u64", Value::U64(4)),
        ("a.i64", Value::I64(-4)),
        ("a.f64", Value::F64(0.25)),
        ("a.strings", Value::Array(Array::String(vec!["x".into(), "é".into()]))),
        ("a.nested", Value::Array(Array::Array(vec![Array::U32(vec![1, 2]), Array::Bool(vec![true])]))),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .to_vec();
    let tensors = vec![("t.f32".to_owned(), vec![3, 2], 0), ("t.q8".to_owned(), vec![32], 8)];
    let mut writer = GgufWriter::new(&metadata, &tensors).unwrap();
    let mut bytes = Vec::new();
    writer.write_header(&mut bytes).unwrap();
    writer.write_tensor(&mut bytes, &[7; 24]).unwrap();
    writer.write_tensor(&mut bytes, &[9; 34]).unwrap();
    bytes
}

#[test]
fn what_is_written_is_read() {
    let gguf = Gguf::from_bytes(sample()).unwrap();
    assert_eq!((gguf.version(), gguf.alignment(), gguf.metadata().len()), (3, 32, 14));
    assert_eq!(gguf.get("a.i16"), Some(&Value::I16(-2)));
    assert_eq!(gguf.get_u32("a.u8").unwrap(), 1);
    assert!(matches!(gguf.get_u32("a.i32"), Err(GgufError::WrongType { .. })));
    assert!(matches!(gguf.get_str("nothing"), Err(GgufError::MissingKey(_))));
    let tensor = gguf.tensor("t.q8").unwrap();
    assert_eq!((tensor.bytes, tensor.offset % 32), (34, 0));
    assert_eq!(gguf.data(tensor), [9; 34]);
}

#[test]
fn version_2_is_read() {
    let mut bytes = sample();
    bytes[4] = 2;
    assert_eq!(Gguf::from_bytes(bytes).unwrap().version(), 2);
}

#[test]
fn no_truncation_is_accepted() {
    let bytes = sample();
    let data_end = bytes.len() - 30; // the padding after the last tensor may be missing
    for n in 0..data_end {
        assert!(Gguf::from_bytes(bytes[..n].to_vec()).is_err(), "{n} of {} bytes", bytes.len());
    }
}

#[test]
fn corrupt_bytes_do_not_panic() {
    let bytes = sample();
    let mut random = Random(1);
    for _ in 0..20_000 {
        let mut bad = bytes.clone();
        for _ in 0..1 + random.word() % 3 {
            let at = random.word() as usize % bad.len();
            bad[at] = random.word() as u8;
        }
        if let Ok(gguf) = Gguf::from_bytes(bad) {
            gguf.tensors().iter().for_each(|t| assert_eq!(gguf.data(t).len() as u64, t.bytes));
        }
    }
}

#[test]
fn corrupt_models_do_not_panic() {
    let bytes = std::fs::read(common::data("tiny/tiny-q4_0.gguf")).unwrap();
    let mut random = Random(2);
    for _ in 0..3_000 {
        let mut bad = bytes.clone();
        let at = random.word() as usize % 12_000;
        bad[at] = random.word() as u8;
        if let Ok(model) = Gguf::from_bytes(bad).map_err(ModelError::from).and_then(Model::new) {
            let _ = samebits::tokenizer::Tokenizer::from_gguf(&model.gguf);
        }
    }
}

fn error(bytes: Vec<u8>) -> String {
    Gguf::from_bytes(bytes).unwrap_err().to_string()
}

#[test]
fn errors_say_what_and_what_to_do() {
    let with = |at: usize, value: &[u8]| {
        let mut bytes = sample();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    assert!(error(with(4, &1u32.to_le_bytes())).contains("version 1"));
    assert!(error(with(4, &3u32.to_be_bytes())).contains("big-endian"));
    assert!(error(with(8, &u64::MAX.to_le_bytes())).contains("tensor count"));
    assert!(error(with(16, &(1u64 << 60).to_le_bytes())).contains("metadata count"));
    assert!(error(with(24, &(1u64 << 40).to_le_bytes())).contains("metadata key"));
    assert!(error(b"PK\x03\x04....".to_vec()).contains("zip"));
    assert!(error(b"<html>".to_vec()).contains("web page"));
    let split = vec![("split.count".to_owned(), Value::U16(3))];
    let mut bytes = Vec::new();
    GgufWriter::new(&split, &[]).unwrap().write_header(&mut bytes).unwrap();
    assert!(error(bytes).contains("--merge"));
}
