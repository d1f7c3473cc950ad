//! Hostile files: every truncation and many corruptions give an error or a valid container, never a panic.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::Random;
use common::mini::Mini;
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
    for version in [4u32, 5, 255] {
        let error = error(with(4, &version.to_le_bytes()));
        assert!(error.contains("newer") && !error.contains("convert"), "{error}");
    }
    assert!(error(with(4, &0x1234_5678u32.to_le_bytes())).contains("damaged"));
    for (begins, says) in [
        (&b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"[..], "git lfs pull"),
        (b"\x1f\x8b\x08\x00....", "unpack"),
        (b"{\"error\": \"not found\"}", "JSON"),
        (b"GGML", "GGUF"),
        (b"tjgg\x03\0\0\0", "old GGML format"),
    ] {
        assert!(error(begins.to_vec()).contains(says), "{says}");
    }
}

#[test]
fn tensor_types_that_are_not_known_are_named_and_never_called_damage() {
    let mini = Mini::spm(&[]).llama(1);
    let tensor = "blk.0.ffn_up.weight";
    for (id, says) in [
        (4, "Q4_2, removed"),
        (31, "Q4_0_4_4, removed"),
        (38, "removed"),
        (40, "newer"),
        (43, "newer"),
        (u32::MAX, "newer"),
    ] {
        let gguf = Gguf::from_bytes(mini.bytes_with_type(tensor, id)).unwrap();
        let t = gguf.tensor(tensor).unwrap();
        assert_eq!((t.type_id, gguf.data(t).len() as u64), (id, t.bytes));
        assert!(t.bytes >= 48 * 32 * 4);
        let error = Model::new(gguf).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains(tensor) && error.contains(&id.to_string()), "{error}");
        assert!(!error.contains("damaged") && !error.contains("download"), "{error}");
    }
    // A shape that no type could fit into those bytes is damage all the same.
    let huge = mini.clone().tensor("huge", &[1, 1]);
    let mut bytes = huge.bytes_with_type("huge", 40);
    let at = bytes.windows(4).rposition(|w| w == b"huge").unwrap() + 8;
    bytes[at..at + 8].copy_from_slice(&(1u64 << 40).to_le_bytes());
    assert!(error(bytes).contains("damaged"));
}

#[test]
fn text_that_is_not_utf8_is_kept_as_it_is() {
    let latin = Value::Bytes(b"caf\xe9".to_vec());
    let list = Value::Array(Array::Bytes(vec![b"a".to_vec(), b"\xff\xfe".to_vec()]));
    let mini = Mini::spm(&[]).llama(1).set("general.description", latin.clone()).set("x.list", list.clone());
    let gguf = mini.gguf().unwrap();
    assert_eq!((gguf.get("general.description"), gguf.get("x.list")), (Some(&latin), Some(&list)));
    assert_eq!(gguf.get_text("general.description").unwrap(), "caf\u{fffd}");
    assert_eq!(latin.summary(), "\"caf\u{fffd}\"");
    assert!(matches!(gguf.get_str("general.description"), Err(GgufError::WrongType { .. })));
    assert!(Model::new(gguf).is_ok());
    // Names are written so that they stay apart.
    let mut bytes = mini.set("zzzz", Value::U32(1)).set("zzzy", Value::U32(2)).bytes();
    for (name, byte) in [(b"zzzz", 0xfe), (b"zzzy", 0xff)] {
        let at = bytes.windows(4).position(|w| w == name).unwrap();
        bytes[at] = byte;
    }
    let gguf = Gguf::from_bytes(bytes).unwrap();
    assert!(gguf.get("\\xfezzz").is_some() && gguf.get("\\xffzzy").is_some());
}

#[cfg(unix)]
#[test]
fn a_pipe_is_read_to_its_end_or_told_as_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let through = |bytes: Vec<u8>| {
        let path = fifo.clone();
        let writer = std::thread::spawn(move || std::fs::write(path, bytes));
        let opened = Gguf::open(&fifo);
        // A reader that had enough closes its end.
        drop(writer.join().unwrap());
        opened
    };
    let bytes = Mini::spm(&[]).llama(1).bytes();
    let gguf = through(bytes.clone()).unwrap();
    assert_eq!(gguf.file_size(), bytes.len() as u64);
    assert!(Model::new(gguf).is_ok());
    assert!(through(Vec::new()).unwrap_err().to_string().contains("pipe or device that gives no data"));
    assert!(through(vec![0; 1 << 20]).unwrap_err().to_string().contains("does not begin with 'GGUF'"));
    assert!(Gguf::open("/dev/null".as_ref()).unwrap_err().to_string().contains("gives no data"));
    assert!(Gguf::open("/dev/zero".as_ref()).unwrap_err().to_string().contains("does not begin with 'GGUF'"));
}

#[test]
fn a_part_of_a_split_model_without_the_others_is_no_model() {
    let gguf = Mini::spm(&[]).llama(1).set("split.count", Value::U16(3)).gguf().unwrap();
    assert!(gguf.whole().unwrap_err().to_string().contains("is one of 3 parts"));
    assert!(samebits::tokenizer::Tokenizer::from_gguf(&gguf).is_ok());
    assert!(matches!(Model::new(gguf), Err(ModelError::Gguf(GgufError::Split(_)))));
    assert!(Mini::spm(&[]).set("split.count", Value::U16(1)).gguf().unwrap().whole().is_ok());
}
