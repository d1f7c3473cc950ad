//! Records of texts: made by one backend, made again by others, and found out where anything was changed.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::path::Path;
use std::sync::OnceLock;

use common::{samebits, turn};
use predicates::prelude::*;
use predicates::str::contains;
use proptest::prelude::*;
use samebits::engine::StopReason;
use samebits::record::{Chain, Record, RecordError};

/// Records a text of the story model on the CPU.
fn record(path: &Path, extra: &[&str]) -> Record {
    let mut command = samebits();
    command.args(["generate", "Once upon a time", "--backend", "cpu", "-c", "256", "--record"]).arg(path);
    if !extra.contains(&"-n") {
        command.args(["-n", "24"]);
    }
    command.args(extra).assert().success();
    Record::from_bytes(&std::fs::read(path).unwrap()).unwrap()
}

/// A sampled text, made once for all tests.
fn sampled() -> &'static Record {
    static RECORD: OnceLock<Record> = OnceLock::new();
    RECORD.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap();
        record(&folder.path().join("r.json"), &["--temp", "0.9", "--seed", "7"])
    })
}

fn replay(record: &Record, arguments: &[&str]) -> assert_cmd::assert::Assert {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("record.json");
    std::fs::write(&path, record.to_bytes().unwrap()).unwrap();
    let mut command = samebits();
    command.arg("replay").arg(&path).args(arguments).assert()
}

#[test]
fn a_record_has_all_that_its_text_depends_on() {
    let record = sampled();
    let text = &record.texts[0];
    assert_eq!((record.texts.len(), text.tokens.len(), text.stop_reason), (1, 24, StopReason::Length));
    assert_eq!((text.logits.len(), text.chain.len(), record.context), (24, 24, 256));
    assert_eq!(text.received.text, "Once upon a time");
    assert_eq!((text.request.sampling.seed, text.request.sampling.temperature), (7, 0.9));
    assert!(record.fingerprint.starts_with("sb1-fast-"), "{}", record.fingerprint);
    assert_eq!((record.model.parts.len(), record.model.file.as_deref()), (1, None));
    let file = std::fs::read("models/stories.gguf").unwrap();
    assert_eq!(record.model.parts[0].bytes, file.len() as u64);
    assert_eq!(record.made_by.backend, "cpu");
    // The chain can be taken up at any link.
    assert_eq!(Chain::from_link(&text.chain[3]).map(|c| c.link()), Some(text.chain[3].clone()));
    assert_eq!(Chain::from_link("é").or(Chain::from_link("12")), None);
}

#[test]
fn what_the_cpu_recorded_a_gpu_makes_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let records = [
        sampled().clone(),
        record(&path("greedy"), &[]),
        record(
            &path("penalty"),
            &["--temp", "0.7", "--repeat-penalty", "1.3", "--samplers", "top_k;penalties;temperature"],
        ),
        record(&path("stop"), &["--stop", "upon", "--stop", " a ", "-n", "-1"]),
        record(&path("precise"), &["--precision", "precise", "--chunk", "2"]),
        record(&path("none"), &["-n", "0"]),
    ];
    let _turn = turn();
    for (i, record) in records.iter().enumerate() {
        let n = record.texts[0].tokens.len();
        // A software device takes its time: it makes what is drawn on the device, on the host, and in the other precision.
        let backends = if [0, 2, 4].contains(&i) { &["cpu", "gpu"][..] } else { &["cpu"] };
        for backend in backends {
            let equal = format!("equal: 1 text, {n} token{}", if n == 1 { "" } else { "s" });
            replay(record, &["--backend", backend]).success().stdout(contains(equal));
        }
    }
    for from in ["1", "11", "23"] {
        let rest = format!("{} token", 24 - from.parse::<usize>().unwrap());
        replay(&records[0], &["--from", from, "--backend", "cpu"]).success().stdout(contains(rest.clone()));
        replay(&records[2], &["--from", from, "--backend", "cpu"]).success().stdout(contains(rest));
    }
    let json = replay(&records[0], &["--json", "-q", "--backend", "cpu"]).success().stderr("");
    let json: serde_json::Value = serde_json::from_slice(&json.get_output().stdout).unwrap();
    assert_eq!((&json["equal"], &json["difference"]), (&true.into(), &serde_json::Value::Null));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_changed_byte_is_found(at in any::<prop::sample::Index>(), byte in any::<u8>(), how in 0..4usize) {
        static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
        let bytes = BYTES.get_or_init(|| sampled().to_bytes().unwrap());
        let at = at.index(bytes.len());
        let mut changed = bytes.clone();
        match how {
            0 => changed[at] = byte,
            1 => changed.insert(at, byte),
            2 => changed.truncate(at),
            // Digits into digits, letters into letters: still JSON.
            _ => changed[at] = match changed[at] {
                c @ b'0'..=b'9' => b'0' + (c - b'0' + 1 + byte % 9) % 10,
                c @ b'a'..=b'y' => c + 1,
                b',' => b' ',
                c => c ^ 1,
            },
        }
        prop_assert_eq!(Record::from_bytes(&changed).is_err(), changed != *bytes);
    }
}

#[test]
fn what_was_changed_is_said_before_anything_is_computed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.json");
    let bytes = sampled().to_bytes().unwrap();
    let text = String::from_utf8(bytes).unwrap();
    for (from, to, says) in [
        ("\"seed\":7", "\"seed\":8", "it was changed: its contents"),
        ("\"seed\":7", "\"seed\": 7", "it was changed: byte "),
        ("\"record\":1", "\"record\":2", "layout 2"),
        ("\"record\":1", "\"rekord\":1", "no key `record`"),
        ("{", "[", "it is no record"),
    ] {
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        samebits()
            .arg("replay")
            .arg(&path)
            .assert()
            .code(2)
            .stdout("")
            .stderr(contains(says).and(contains("model:").not()));
    }
    samebits().args(["replay", "nothing.json"]).assert().code(2).stderr(contains("cannot read nothing.json"));
    let empty = Record { texts: Vec::new(), ..sampled().clone() };
    replay(&empty, &["--backend", "cpu"]).code(2).stdout("").stderr(contains("cannot be replayed: it has no texts"));
    // A record that says what it has not, with the right hash.
    let mut broken = sampled().clone();
    broken.texts[0].chain.pop();
    replay(&broken, &["--backend", "cpu"]).code(2).stderr(contains("cannot be replayed"));
    let mut broken = sampled().clone();
    broken.texts[0].request.prompt = vec![u32::MAX];
    replay(&broken, &["--backend", "cpu"]).code(2).stderr(contains("panicked").not());
    let mut broken = sampled().clone();
    broken.texts[0].request.prompt.clear();
    replay(&broken, &["--backend", "cpu"]).code(2).stderr(contains("the prompt is empty"));
    replay(sampled(), &["--from", "24"]).code(2).stderr(contains("--from 24 is behind its longest text, of 24 tokens"));
}

#[test]
fn another_model_or_numerics_is_refused_before_anything_is_computed() {
    let tiny = common::data("tiny/tiny-f32.gguf");
    let tiny = ["-m", tiny.to_str().unwrap()];
    let refused = replay(sampled(), &tiny).code(2).stdout("");
    refused.stderr(
        contains("it was made by another model: samebits stories")
            .and(contains("(tiny-f32.gguf)"))
            .and(contains("; give that model with -m FILE|NAME"))
            .and(contains("backend:").not()),
    );
    let mut other = sampled().clone();
    other.numerics = "numerics v0".to_owned();
    let refused = replay(&other, &[]).code(2).stdout("");
    refused.stderr(contains("it was made by numerics v0, and this program computes numerics v1"));
    assert!(matches!(other.check(&other.model), Err(RecordError::Numerics { .. })));
}

/// The first difference is named, whatever it is in.
#[test]
fn a_planted_difference_is_named() {
    let last = |hex: &str| {
        let mut hex = hex.to_owned();
        let digit = if hex.pop() == Some('0') { '1' } else { '0' };
        hex.push(digit);
        hex
    };
    let differs = |change: &dyn Fn(&mut samebits::record::Recorded), says: &str| {
        let mut record = sampled().clone();
        change(&mut record.texts[0]);
        replay(&record, &["--backend", "cpu"]).code(1).stdout(contains(says.to_owned())).stderr(contains("see above"));
    };
    differs(&|t| t.tokens[5] += 1, "different: token 5 differs: ");
    differs(&|t| t.logits[6] = last(&t.logits[6]), "different: the logit of token 6 differs: ");
    differs(&|t| t.chain[7] = last(&t.chain[7]), "different: token 7 is the same and so is its logit");
    differs(&|t| t.request.max_tokens = Some(9), "different: token 9 differs");
    differs(&|t| t.request.max_tokens = Some(30), "different: token 24 differs: the end was recorded");
    differs(&|t| t.stop_reason = StopReason::EndOfText, "the end behind 24 tokens differs");
    differs(&|t| t.text.push('!'), "the text of 24 tokens differs");
    differs(&|t| t.logits_hash = last(&t.logits_hash), "the hash of 24 tokens differs");
    differs(&|t| t.request.sampling.seed = 8, "differs");
    differs(&|t| t.request.sampling.temperature = 1.5, "differs");
    let mut record = sampled().clone();
    record.texts[0].tokens[20] += 1;
    let json = replay(&record, &["--json", "--from", "10", "--backend", "cpu"]).code(1);
    let json: serde_json::Value = serde_json::from_slice(&json.get_output().stdout).unwrap();
    assert_eq!((&json["equal"], &json["difference"]["token"]), (&false.into(), &20.into()));
    // A text that was stopped from outside is made as far as it goes.
    let mut record = sampled().clone();
    record.texts[0].stop_reason = StopReason::Interrupted;
    replay(&record, &["--backend", "cpu"]).success();
}

/// A fault in the shaders of one machine is found by the record of another.
#[cfg(feature = "faults")]
#[test]
fn a_device_that_computes_otherwise_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("record.json");
    std::fs::write(&path, sampled().to_bytes().unwrap()).unwrap();
    let _turn = turn();
    let mut command = samebits();
    command.env("SAMEBITS_FAULT", "eps").arg("replay").arg(&path).args(["--backend", "gpu"]);
    command.arg("--trace");
    command
        .assert()
        .code(1)
        .stdout(
            contains("different: ").and(contains(" step by step: differs from the CPU first at step 'blk.0.attn_norm")),
        )
        .stderr(contains("recorded on cpu"));
}

#[test]
fn a_record_replaces_nothing_unasked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("r.json");
    record(&path, &[]);
    let generate = |extra: &[&str]| {
        let mut command = samebits();
        command.args(["generate", "a", "-n", "1", "--backend", "cpu", "--record"]).args(extra).assert()
    };
    let name = path.to_str().unwrap();
    generate(&[name]).code(1).stdout("").stderr(contains("exists"));
    generate(&[name, "--force"]).success().stderr(contains("record: "));
    generate(&["-"]).code(2).stderr(contains("give --record a file"));
}
