//! Layers with windows keep the newest positions only: the bits are those of caches that keep all, however the sequence came about.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::cell::RefCell;

use common::{bits, data, on_cpu, on_gpu, on_isa, sizes, turn};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use samebits::backend::cpu::{Cpu, Isa};
use samebits::backend::{Backend, BackendError, Batch, BatchError, Rows, Sampling};
use samebits::engine::Session;
use samebits::model::Model;
use samebits::numerics::Precision;

/// Positions of the context, many times those that the tiny models' windows need with small batches.
const CONTEXT: usize = 400;

/// Windows in every other layer and in five of six, with sinks, and capped scores.
const FILES: [&str; 3] = ["gpt-oss-f32.gguf", "gemma3-pattern6-f16.gguf", "gemma2-q8_0.gguf"];

fn model(file: &str) -> Model {
    Model::open(&data("arch").join(file)).unwrap()
}

/// The tokens of a sequence that is always the same.
fn ids(model: &Model) -> Vec<u32> {
    let vocabulary = model.plan(Precision::Fast).unwrap().vocabulary() as u32;
    (0..CONTEXT as u32).map(|i| (i * 7 + i * i % 13 + 3) % vocabulary).collect()
}

/// The logits of every position by caches that keep all of them: there is no ring where a batch may be as long as the context.
fn expected(model: &Model, ids: &[u32]) -> Vec<Vec<u32>> {
    let mut session = on_isa(model, Precision::Fast, CONTEXT, CONTEXT, 2, Isa::Scalar);
    let logits = session.feed(ids, true).unwrap();
    logits.chunks(logits.len() / ids.len()).map(bits).collect()
}

#[derive(Clone, Copy, Debug)]
enum Move {
    /// Feeds so many tokens of the sequence.
    Feed(usize),
    /// Generates so many others and forgets them.
    Generate(usize),
    /// Goes back by so many, or to the beginning where that is too far.
    Back(usize),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        4 => (1usize..120).prop_map(Move::Feed),
        1 => (1usize..40).prop_map(Move::Generate),
        2 => prop_oneof![3 => 1usize..40, 1 => 1usize..400].prop_map(Move::Back),
    ];
    proptest::collection::vec(one, 1..12)
}

/// Fails unless every logit is that of the sequence.
fn walk(session: &mut Session, ids: &[u32], want: &[Vec<u32>], moves: &[Move]) -> Result<(), TestCaseError> {
    session.clear();
    for step in moves {
        let at = session.tokens().len();
        match *step {
            Move::Feed(n) if at < CONTEXT => {
                let n = n.min(CONTEXT - at);
                let logits = session.feed(&ids[at..at + n], true).unwrap();
                for (i, row) in logits.chunks(logits.len() / n).enumerate() {
                    prop_assert!(bits(row) == want[at + i], "position {} after {:?}", at + i, moves);
                }
            }
            Move::Feed(_) => {}
            Move::Generate(n) => {
                let n = n.min(CONTEXT - at);
                session.run(ids[at % CONTEXT], n, Sampling::Greedy, false, &mut |_, _| true).unwrap();
                session.truncate(at);
            }
            Move::Back(n) => {
                let to = at.saturating_sub(n);
                let left = session.truncate(to);
                prop_assert!(left == to || left == 0);
            }
        }
    }
    Ok(())
}

fn walks(cases: u32, open: impl Fn(&Model, usize) -> Session) {
    for file in FILES {
        let model = model(file);
        let ids = ids(&model);
        let want = expected(&model, &ids);
        for batch in [1, 5, 40] {
            let session = RefCell::new(open(&model, batch));
            let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
            let result = runner.run(&moves(), |moves| walk(&mut session.borrow_mut(), &ids, &want, &moves));
            result.unwrap_or_else(|e| panic!("{file}, batches of {batch}: {e}"));
            // Half of the context is further back than such caches reach.
            let mut session = session.into_inner();
            session.clear();
            session.feed(&ids, false).unwrap();
            assert_eq!(session.truncate(CONTEXT / 2), 0, "{file}, batches of {batch}");
        }
    }
}

#[test]
fn any_way_through_a_sequence_gives_its_bits_on_the_cpu() {
    walks(24, |model, batch| on_cpu(model, Precision::Fast, CONTEXT, batch, 2));
    walks(4, |model, batch| on_isa(model, Precision::Fast, CONTEXT, batch, 1, Isa::Scalar));
}

#[test]
fn any_way_through_a_sequence_gives_its_bits_on_a_gpu() {
    let _turn = turn();
    walks(4, |model, batch| on_gpu(model, Precision::Fast, CONTEXT, batch));
}

#[test]
fn a_backend_refuses_what_it_no_longer_has() {
    let model = model(FILES[0]);
    let plan = model.for_context(CONTEXT).plan(Precision::Fast).unwrap();
    let mut cpu = Cpu::new(&model, plan, sizes(CONTEXT, 8), 1).unwrap();
    let limits = cpu.limits();
    for position in (0..CONTEXT).step_by(8) {
        cpu.forward(Batch::checked(&[1; 8], position, Rows::None, &limits).unwrap(), None).unwrap();
    }
    let mut forward =
        |position| cpu.forward(Batch::checked(&[1], position, Rows::None, &limits).unwrap(), None).map(|_| ());
    assert!(forward(CONTEXT - 8).is_ok());
    let refused = forward(CONTEXT / 2).unwrap_err();
    assert!(matches!(refused, BackendError::Batch(BatchError::Replaced { position: 200, end: 400 })), "{refused}");
    assert!(forward(0).is_ok() && forward(1).is_ok());
}
