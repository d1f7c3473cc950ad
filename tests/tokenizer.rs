//! Tokenizers against reference cases, on small vocabularies, and with all that is odd in published files.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::time::Duration;

use common::mini::{CONTROL, Mini, NORMAL, USER_DEFINED, byte_letters, text, texts};
use common::{data, ids, json, smollm2_path, thread_time};
use samebits::gguf::{Array, Gguf, Value};
use samebits::tokenizer::{EncodeOptions, Tokenizer, TokenizerError, Warning, pre_tokenizers};
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

#[test]
fn sentencepiece_merges_by_score_and_falls_back_to_bytes() {
    let vocabulary = [
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
    ];
    let tokens = vocabulary.map(|(text, _, kind)| (text.to_owned(), kind));
    let scores = vocabulary.map(|(_, score, _)| score).to_vec();
    let tokenizer = Mini::vocabulary("llama", &tokens)
        .set("tokenizer.ggml.scores", Value::Array(Array::F32(scores)))
        .tokenizer()
        .unwrap();
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

const SPECIAL: EncodeOptions = EncodeOptions { add_special: true, parse_special: true };
const PARSE: EncodeOptions = EncodeOptions { add_special: false, parse_special: true };
const PLAIN: EncodeOptions = EncodeOptions { add_special: false, parse_special: false };

#[test]
fn every_pre_tokenizer_cuts_as_the_reference_does() {
    let cases = json("pre/cases.json");
    let texts: Vec<&str> = cases["texts"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    let vocabularies = cases["vocabularies"].as_array().unwrap();
    assert!(vocabularies.len() >= 24);
    for vocabulary in vocabularies {
        let file = vocabulary["file"].as_str().unwrap();
        let gguf = Gguf::open(&data("pre").join(file)).unwrap();
        let names = vocabulary["names"].as_array().unwrap();
        let tokenizers: Vec<Tokenizer> = match names.is_empty() {
            true => vec![Tokenizer::from_gguf(&gguf).unwrap()],
            // These cut alike, but take a word that is a token as it stands.
            false => names
                .iter()
                .filter_map(|n| n.as_str().filter(|n| !["glm4", "glm5"].contains(n)))
                .map(|n| Tokenizer::with_pre(&gguf, Some(n)).unwrap())
                .collect(),
        };
        let own = Tokenizer::from_gguf(&gguf).unwrap();
        assert_eq!(own.encode("Hello", SPECIAL).unwrap(), ids(&vocabulary["hello"]), "{file}");
        for tokenizer in &tokenizers {
            for (text, case) in texts.iter().zip(vocabulary["cases"].as_array().unwrap()) {
                let found = tokenizer.encode(text, PARSE).unwrap();
                let original = case.get("ids_original").is_some_and(|original| found == ids(original));
                assert!(original || found == ids(&case["ids"]), "{file}: {text:?} gives {found:?}, not {case}");
                let plain = case.get("ids_plain").unwrap_or(&case["ids"]);
                if case.get("ids_original").is_none() {
                    assert_eq!(tokenizer.encode(text, PLAIN).unwrap(), ids(plain), "{file}: {text:?} as plain text");
                }
            }
        }
    }
}

#[test]
fn an_unknown_pre_tokenizer_is_named_and_another_can_be_chosen() {
    let vocabulary = Mini::bpe("frobnicate", &["hello", " world"], &[]);
    let error = vocabulary.tokenizer().unwrap_err();
    assert!(matches!(&error, TokenizerError::PreTokenizer(name) if name == "frobnicate"));
    assert!(error.to_string().contains("llama-bpe"), "{error}");
    let gguf = vocabulary.gguf().unwrap();
    for name in pre_tokenizers() {
        let ids = Tokenizer::with_pre(&gguf, Some(name)).unwrap().encode("hello world", PLAIN).unwrap();
        assert!(!ids.is_empty());
    }
    assert!(matches!(Tokenizer::with_pre(&gguf, Some("x")), Err(TokenizerError::PreTokenizer(_))));
    let spm = Mini::spm(&[]).gguf().unwrap();
    assert!(matches!(Tokenizer::with_pre(&spm, Some("qwen2")), Err(TokenizerError::NoPreTokenizer(_))));
    let absent = Mini::bpe("x", &["hello"], &[]).without("tokenizer.ggml.pre").tokenizer().unwrap();
    assert!(absent.warnings().contains(&Warning::NoPreTokenizer));
}

#[test]
fn names_that_models_use_for_control_tokens_count_more_than_their_type() {
    let names = ["<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|endoftext|>", "<|fim_prefix|>", "<|file_sep|>"];
    for mini in [Mini::spm(&names.map(|n| (n, NORMAL))), Mini::bpe("gpt-2", &["the"], &names.map(|n| (n, NORMAL)))] {
        let tokenizer = mini.tokenizer().unwrap();
        let tokens = mini.strings("tokenizer.ggml.tokens");
        for name in names {
            let id = tokens.iter().position(|t| t == name).unwrap() as u32;
            assert_eq!(tokenizer.encode(name, PARSE).unwrap(), [id], "{name}");
            assert_ne!(tokenizer.encode(name, PLAIN).unwrap(), [id], "{name} as plain text");
            assert_eq!(tokenizer.is_end_of_generation(id), name != "<|fim_prefix|>", "{name}");
        }
        let named = |w: &Warning| matches!(w, Warning::Retyped { count: 6, .. });
        assert!(tokenizer.warnings().iter().any(named), "{:?}", tokenizer.warnings());
    }
    let spm = Mini::spm(&[]).tokenizer().unwrap();
    assert_eq!(spm.encode("<unk>", PARSE).unwrap(), [0]);
    assert_ne!(spm.encode("<unk>", PLAIN).unwrap(), [0]);
    // With both, gpt-oss goes on behind <|end|>.
    let harmony = Mini::bpe("gpt-4o", &[], &["<|end|>", "<|return|>", "<|call|>"].map(|n| (n, CONTROL)));
    let (tokenizer, tokens) = (harmony.tokenizer().unwrap(), harmony.strings("tokenizer.ggml.tokens"));
    let end = |name: &str| tokenizer.is_end_of_generation(tokens.iter().position(|t| t == name).unwrap() as u32);
    assert_eq!([end("<|end|>"), end("<|return|>"), end("<|call|>")], [false, true, true]);
}

#[test]
fn ids_outside_the_vocabulary_are_warned_about_and_defaults_taken() {
    let odd = [Value::U32(u32::MAX), Value::I32(-1), Value::U32(354), Value::U64(1 << 40)];
    for (key, value) in ["bos_token_id", "eos_token_id", "eot_token_id", "unknown_token_id"].iter().zip(odd) {
        let key = format!("tokenizer.ggml.{key}");
        let tokenizer = Mini::spm(&[]).set(&key, value).tokenizer().unwrap();
        let said = |w: &Warning| matches!(w, Warning::IdOutside { key: k, .. } if *k == key);
        assert!(tokenizer.warnings().iter().any(said), "{key}: {:?}", tokenizer.warnings());
        assert_eq!((tokenizer.bos(), tokenizer.eos()), (Some(1), Some(2)));
        assert!(tokenizer.is_end_of_generation(2));
    }
    let bare = Mini::spm(&[]).without("tokenizer.ggml.bos_token_id").without("tokenizer.ggml.eos_token_id");
    let tokenizer = bare.tokenizer().unwrap();
    assert_eq!((tokenizer.bos_to_add(), tokenizer.eos()), (Some(1), Some(2)));
    assert!(tokenizer.warnings().is_empty());
    // A default that happens to be ordinary text ends no answer.
    let comma = Mini::bpe("gpt-2", &["the"], &[]).tokenizer().unwrap();
    assert!(!comma.is_end_of_generation(11));
    assert!(Mini::spm(&[]).set("tokenizer.ggml.bos_token_id", text("one")).tokenizer().is_err());
}

#[test]
fn merges_count_as_in_llama_cpp_whatever_is_odd_about_them() {
    let good = Mini::bpe("gpt-2", &["hello", " the", " world"], &[]);
    let merges = good.strings("tokenizer.ggml.merges");
    let sample = "hello the world theqz";
    let expected = good.tokenizer().unwrap().encode(sample, PLAIN).unwrap();
    let odd = |extra: &[&str], first: bool| {
        let extra = extra.iter().map(|m| (*m).to_owned());
        let list: Vec<String> = match first {
            true => extra.chain(merges.clone()).collect(),
            false => merges.clone().into_iter().chain(extra).collect(),
        };
        good.clone().set("tokenizer.ggml.merges", texts(&list)).tokenizer().unwrap()
    };
    for (extra, first) in [
        (&["q z"][..], false),
        (&["#version: 0.2"], true),
        (&["nospace"], false),
        (&["", " ", "a "], true),
        (&["x y", "y x"], false),
    ] {
        let tokenizer = odd(extra, first);
        assert_eq!(tokenizer.encode(sample, PLAIN).unwrap(), expected, "{extra:?}");
        let outside = |w: &Warning| matches!(w, Warning::MergesOutside { count, .. } if *count == extra.len());
        assert!(tokenizer.warnings().iter().any(outside), "{extra:?}: {:?}", tokenizer.warnings());
    }
    // The first of two equal merges counts: the last would let "l" + "o" come before "l" + "l".
    let twice: Vec<String> = merges.iter().cloned().chain([merges[0].clone()]).collect();
    let tokenizer = good.clone().set("tokenizer.ggml.merges", texts(&twice)).tokenizer().unwrap();
    assert_eq!(tokenizer.encode(sample, PLAIN).unwrap(), expected);
    assert!(tokenizer.warnings().is_empty());
}

#[test]
fn a_vocabulary_without_scores_types_or_utf8_is_used() {
    let tokenizer = Mini::spm(&[("he", NORMAL)]).without("tokenizer.ggml.scores").tokenizer().unwrap();
    assert_eq!(tokenizer.decode(&tokenizer.encode("hello", PLAIN).unwrap()), b" hello");
    assert_eq!(tokenizer.warnings(), [Warning::NoScores]);

    let tokenizer = Mini::spm(&[]).without("tokenizer.ggml.token_type").tokenizer().unwrap();
    assert_eq!(tokenizer.decode(&tokenizer.encode("hello", PLAIN).unwrap()), b" hello");

    let mini = Mini::spm(&[("x", USER_DEFINED)]);
    let mut tokens: Vec<Vec<u8>> = mini.strings("tokenizer.ggml.tokens").into_iter().map(String::into_bytes).collect();
    let last = tokens.len() - 1;
    tokens[last] = vec![0xff, 0xfe];
    let mini = mini.set("tokenizer.ggml.tokens", Value::Array(Array::Bytes(tokens)));
    let tokenizer = mini.tokenizer().unwrap();
    assert_eq!(tokenizer.decode(&[last as u32]), [0xff, 0xfe]);
    assert_eq!(tokenizer.decode(&tokenizer.encode("hé", PLAIN).unwrap()), " hé".as_bytes());

    let short = Value::Array(Array::F32(vec![0.0; 3]));
    assert!(matches!(Mini::spm(&[]).set("tokenizer.ggml.scores", short).tokenizer(), Err(TokenizerError::Damaged(_))));
}

#[test]
fn a_token_listed_twice_has_its_first_id_and_a_doubled_bos_is_odd() {
    let mini = Mini::spm(&[("hello", USER_DEFINED), ("hello", USER_DEFINED)]);
    let tokenizer = mini.tokenizer().unwrap();
    let first = mini.strings("tokenizer.ggml.tokens").len() as u32 - 2;
    assert_eq!(tokenizer.encode("hello", PARSE).unwrap(), [first]);
    assert!(matches!(tokenizer.warnings(), [Warning::TokensTwice { count: 1, .. }]));
    let odd = |text: &str| tokenizer.odd(&tokenizer.encode(text, SPECIAL).unwrap());
    assert_eq!(odd("<s>hello"), Some(Warning::DoubledBos));
    assert_eq!(odd("hello<s>"), None);
    let mini = mini.set("tokenizer.ggml.add_eos_token", Value::Bool(true));
    let tokenizer = mini.tokenizer().unwrap();
    assert_eq!(tokenizer.odd(&tokenizer.encode("hello</s>", SPECIAL).unwrap()), Some(Warning::DoubledEos));
}

#[test]
fn text_without_tokens_becomes_the_unknown_token_or_an_error_but_never_vanishes() {
    let tokens: Vec<(String, i32)> =
        [("<unk>", 2), ("<s>", 3), ("</s>", 3), ("▁", 1), ("a", 1)].map(|(t, k)| (t.to_owned(), k)).to_vec();
    let tokenizer = Mini::vocabulary("llama", &tokens).tokenizer().unwrap();
    assert_eq!(tokenizer.encode("aéa", PLAIN).unwrap(), [3, 4, 0, 4]);
    let letters: Vec<(String, i32)> = byte_letters()[..0x60].iter().map(|c| (c.to_string(), NORMAL)).collect();
    let bpe = Mini::vocabulary("gpt2", &letters)
        .set("tokenizer.ggml.pre", text("gpt-2"))
        .set("tokenizer.ggml.merges", texts::<&str>(&[]));
    assert!(matches!(bpe.tokenizer().unwrap().encode("A B", PLAIN), Ok(ids) if ids.len() == 3));
    assert!(matches!(bpe.tokenizer().unwrap().encode("é", PLAIN), Err(TokenizerError::Missing(_))));
}

#[test]
fn keys_that_are_not_applied_are_named() {
    let keys = ["precompiled_charsmap", "normalizer.lowercase", "remove_extra_whitespaces", "suppress_tokens"];
    for key in keys.map(|key| format!("tokenizer.ggml.{key}")) {
        let asks = Mini::spm(&[]).set(&key, Value::Array(Array::I32(vec![5]))).tokenizer().unwrap();
        assert!(matches!(asks.warnings(), [Warning::NotApplied { key: k, .. }] if *k == key), "{key}");
        assert!(Mini::spm(&[]).set(&key, Value::Bool(false)).tokenizer().unwrap().warnings().is_empty(), "{key}");
    }
}

#[test]
fn longer_special_tokens_are_cut_out_first_wherever_they_begin() {
    let mini = Mini::spm(&[("abc", USER_DEFINED), ("cdefg", USER_DEFINED), ("aa", USER_DEFINED), ("<ctl>", CONTROL)]);
    let (tokenizer, tokens) = (mini.tokenizer().unwrap(), mini.strings("tokenizer.ggml.tokens"));
    let names = |text: &str, options| -> Vec<String> {
        tokenizer.encode(text, options).unwrap().iter().map(|id| tokens[*id as usize].clone()).collect()
    };
    assert_eq!(names("abcdefg", PARSE), ["▁", "a", "b", "cdefg"]);
    assert_eq!(names("aaaaa", PARSE), ["aa", "aa", "▁", "a"]);
    assert_eq!(names("x<ctl>abc", PARSE), ["▁", "x", "<ctl>", "abc"]);
    assert_eq!(names("<ctl>abc", PLAIN).last().unwrap(), "abc");
    // Phi-3 drops white space behind special tokens, but not behind these.
    let phi = mini.set("general.name", text("Phi-3 mini")).tokenizer().unwrap();
    assert_eq!(phi.encode("abc \n x", PARSE).unwrap(), phi.encode("abcx", PARSE).unwrap());
    assert_ne!(phi.encode("<s> x", PARSE).unwrap(), phi.encode("<s>x", PARSE).unwrap());
}

#[test]
fn special_tokens_take_linear_time() {
    let names: Vec<String> = (0..6400).map(|i| format!("<unused{i}>")).chain(["<turn>".to_owned()]).collect();
    let extra: Vec<(&str, i32)> = names.iter().map(|n| (n.as_str(), USER_DEFINED)).collect();
    let tokenizer = Mini::spm(&extra).tokenizer().unwrap();
    let smollm2 = smollm2();
    for (tokenizer, piece, times) in [(&tokenizer, "<turn>hi there\n", 8000), (&smollm2, "<|im_start|>", 10_000)] {
        let text = piece.repeat(times);
        let start = thread_time();
        let ids = tokenizer.encode(&text, PARSE).unwrap();
        let time = thread_time() - start;
        assert!(ids.len() >= times);
        assert!(time < Duration::from_millis(1000), "{} bytes took {time:?}", text.len());
    }
}
