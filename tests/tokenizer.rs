//! SmolLM2's tokenizer against the reference cases; SentencePiece on a small vocabulary.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{ids, json, smollm2_path};
use samebits::gguf::{Array, Gguf, GgufWriter, Value};
use samebits::tokenizer::{EncodeOptions, Tokenizer};
use sha2::{Digest, Sha256};

fn smollm2() -> Tokenizer {
    Tokenizer::from_gguf(&Gguf::open(&smollm2_path()).unwrap()).unwrap()
}

#[test]
fn encodes_every_case() {
    let tokenizer = smollm2();
    let cases = json("smollm2/tokenizer.json");
    let cases = cases["cases"].as_array().unwrap();
    assert!(cases.len() > 100);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let encode =
            |special| tokenizer.encode(text, EncodeOptions { add_special: special, parse_special: special }).unwrap();
        assert_eq!(encode(true), ids(&case["ids"]), "{text:?}");
        assert_eq!(encode(false), ids(&case["ids_plain"]), "{text:?} as plain text");
    }
}

#[test]
fn decodes_every_case_whole_and_streamed() {
    let tokenizer = smollm2();
    for case in json("smollm2/tokenizer.json")["decode"].as_array().unwrap() {
        let case_ids = ids(&case["ids"]);
        let hex: String = tokenizer.decode(&case_ids).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, case["bytes_hex"].as_str().unwrap());
        let mut stream = tokenizer.stream();
        let mut text: String = case_ids.iter().map(|id| stream.push(*id)).collect();
        text.push_str(&stream.finish());
        assert_eq!(text, case["text_lossy"].as_str().unwrap());
    }
}

#[test]
fn all_pieces_have_the_reference_checksum() {
    let tokenizer = smollm2();
    let reference = json("smollm2/tokenizer.json");
    assert_eq!(tokenizer.vocab_size() as u64, reference["vocab_size"].as_u64().unwrap());
    let mut hash = Sha256::new();
    for id in 0..tokenizer.vocab_size() as u32 {
        let piece = tokenizer.decode(&[id]);
        hash.update((piece.len() as u32).to_le_bytes());
        hash.update(&piece);
    }
    let hex: String = hash.finalize().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, reference["vocab_pieces_sha256"].as_str().unwrap());
}

fn vocabulary(tokens: &[(&str, f32, i32)]) -> Tokenizer {
    let text = |s: &str| Value::String(s.to_owned());
    let metadata = vec![
        ("tokenizer.ggml.model".to_owned(), text("llama")),
        (
            "tokenizer.ggml.tokens".to_owned(),
            Value::Array(Array::String(tokens.iter().map(|t| t.0.to_owned()).collect())),
        ),
        ("tokenizer.ggml.scores".to_owned(), Value::Array(Array::F32(tokens.iter().map(|t| t.1).collect()))),
        ("tokenizer.ggml.token_type".to_owned(), Value::Array(Array::I32(tokens.iter().map(|t| t.2).collect()))),
        ("tokenizer.ggml.bos_token_id".to_owned(), Value::U32(1)),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(2)),
    ];
    let writer = GgufWriter::new(&metadata, &[]).unwrap();
    let mut bytes = Vec::new();
    writer.write_header(&mut bytes).unwrap();
    Tokenizer::from_gguf(&Gguf::from_bytes(bytes).unwrap()).unwrap()
}

#[test]
fn sentencepiece_merges_by_score_and_falls_back_to_bytes() {
    let tokenizer = vocabulary(&[
        ("<unk>", 0.0, 2),
        ("<s>", 0.0, 3),
        ("</s>", 0.0, 3),
        ("<0xC3>", 0.0, 6),
        ("<0xA9>", 0.0, 6),
        ("▁", -5.0, 1),
        ("a", -6.0, 1),
        ("b", -7.0, 1),
        ("ab", -1.0, 1),
        ("▁a", -2.0, 1),
        ("▁ab", -9.0, 1),
    ]);
    let encode = |text: &str| tokenizer.encode(text, EncodeOptions { add_special: true, parse_special: true }).unwrap();
    // "ab" is the better pair, then "▁" + "ab" merges too.
    assert_eq!(encode("ab"), [1, 10]);
    assert_eq!(encode("aab"), [1, 9, 8]);
    assert_eq!(encode("é"), [1, 5, 3, 4]);
    assert_eq!(encode("a</s>b"), [1, 9, 2, 5, 7]);
    assert_eq!(encode(""), [1]);
    let mut stream = tokenizer.stream();
    assert_eq!([stream.push(3), stream.push(4), stream.push(10)], ["", "é", " ab"]);
    assert!(tokenizer.is_end_of_generation(2) && !tokenizer.is_end_of_generation(1));
}
