//! Drafts change how fast a text comes, and nothing of it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::ops::ControlFlow;
use std::path::Path;

use common::{ids, samebits, turn};
use samebits::backend::gpu::Api;
use samebits::engine::Drafts;
use samebits::{Generate, Llm, OpenOptions, StopReason, Text, Wanted};
use serde_json::Value;

/// Hardly anything of what is drafted in its texts holds.
const STORIES: &str = "models/stories.gguf";

/// It repeats itself soon, as models do that were not trained.
const LOOPS: &str = "tests/data/arch/gemma3-q4_k.gguf";

const TWICE: &str = "Tim has a red ball. Tim likes the red ball. Tim has a red ball. Tim likes the";

type Describe<'d> = &'d dyn for<'a> Fn(Generate<'a>) -> Generate<'a>;

/// A text with and without drafts, by a stream of few tokens at a time, too.
fn both(plain: &mut Llm, drafted: &mut Llm, prompt: &str, way: Describe<'_>, n: usize) -> Text {
    fn limited<'a>(g: Generate<'a>, n: usize) -> Generate<'a> {
        if n == 0 { g } else { g.max_tokens(n) }
    }

    let want = limited(way(plain.generate(prompt)), n).text().unwrap();
    let got = limited(way(drafted.generate(prompt)), n).text().unwrap();
    let parts = |text: &Text| (text.text.clone(), text.tokens.clone(), text.logits_hash.clone(), text.stop_reason);
    assert_eq!(parts(&got), parts(&want), "{prompt}");
    assert!(want.drafts.is_none());
    let pieces: String = limited(way(drafted.generate(prompt)), n).stream().unwrap().map(Result::unwrap).collect();
    assert_eq!(pieces, want.text);
    assert_eq!(drafted.last().unwrap().logits_hash, want.logits_hash);
    got
}

fn with_lookup(file: &str, backend: Wanted, context: usize) -> [Llm; 2] {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    [false, true].map(|lookup| {
        let options = OpenOptions { backend, context: Some(context), lookup, ..OpenOptions::default() };
        options.open(&file).unwrap()
    })
}

/// Texts of all ways to sample: by the backend, with random numbers, by the host.
fn all_ways(file: &str, backend: Wanted, n: usize) -> Vec<Drafts> {
    let [mut plain, mut drafted] = with_lookup(file, backend, 400);
    let ways: [Describe<'_>; 4] = [
        &|g| g.ignore_eos(),
        &|g| g.temperature(0.3).seed(3).ignore_eos(),
        &|g| g.repeat_penalty(1.01, 20).ignore_eos(),
        &|g| g.temperature(0.3).seed(5).repeat_penalty(1.01, 64).ignore_eos(),
    ];
    ways.map(|way| both(&mut plain, &mut drafted, TWICE, way, n).drafts.unwrap()).to_vec()
}

#[test]
fn a_text_with_drafts_is_the_text_without() {
    let drafts = all_ways(LOOPS, Wanted::Cpu, 120);
    assert!(drafts.iter().all(|d| d.accepted > 10 && d.accepted <= d.drafted), "{drafts:?}");
    let drafts = all_ways(STORIES, Wanted::Cpu, 120);
    assert!(drafts.iter().all(|d| d.accepted < d.drafted), "{drafts:?}");
}

#[test]
fn drafts_end_where_the_text_ends() {
    let [mut plain, mut drafted] = with_lookup(LOOPS, Wanted::Cpu, 160);
    for n in 1..60 {
        let text = both(&mut plain, &mut drafted, TWICE, &|g| g.ignore_eos(), n);
        assert_eq!((text.stop_reason, text.tokens.len()), (StopReason::Length, n));
    }
    let full = both(&mut plain, &mut drafted, TWICE, &|g| g.ignore_eos(), 0);
    assert_eq!(full.stop_reason, StopReason::ContextFull);
    let end: String = full.text.chars().skip(full.text.chars().count() / 2).take(2).collect();
    let stopped = both(&mut plain, &mut drafted, TWICE, &|g| g.stop(end.as_str()).ignore_eos(), 0);
    assert_eq!(stopped.stop_reason, StopReason::StopString);
    // Who listens ends it within a draft.
    let mut pieces = 0;
    let cut = drafted.generate(TWICE).ignore_eos().each(|_| {
        pieces += 1;
        if pieces == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(cut.unwrap().stop_reason, StopReason::Interrupted);
    both(&mut plain, &mut drafted, TWICE, &|g| g, 12);
}

#[test]
fn on_a_gpu_as_well() {
    let _turn = turn();
    let drafts = all_ways(LOOPS, Wanted::Gpu(Api::Any), 60);
    assert!(drafts.iter().all(|d| d.accepted > 0), "{drafts:?}");
}

#[test]
fn the_command_says_how_many_drafts_held() {
    let run = |more: &[&str]| {
        let output = samebits()
            .args(["generate", "-m", LOOPS, "--backend", "cpu", "-n", "60", "--ignore-eos", TWICE])
            .args(more)
            .output();
        let output = output.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output
    };
    let json = |more: &[&str]| -> Value { serde_json::from_slice(&run(more).stdout).unwrap() };
    let (plain, drafted) = (json(&["--json"]), json(&["--json", "--lookup"]));
    assert_eq!(ids(&plain["tokens"]), ids(&drafted["tokens"]));
    assert_eq!(plain["logits_hash"], drafted["logits_hash"]);
    assert!(plain.get("drafted").is_none());
    let (held, all) = (drafted["accepted"].as_u64().unwrap(), drafted["drafted"].as_u64().unwrap());
    assert!(0 < held && held <= all);
    let note = String::from_utf8(run(&["--lookup"]).stderr).unwrap();
    assert!(note.contains(&format!("lookup: {held} of {all} drafted tokens held")), "{note}");
}
