//! Texts while they are made, for `generate` and `chat`.

use std::error::Error;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::error::Failure;
use super::signals::Watch;
use crate::engine::{Generator, Session, Text};
use crate::record::Recorder;
use crate::sample::log_probabilities;
use crate::tokenizer::Tokenizer;

/// What is kept of a text besides the text.
#[derive(Clone, Copy, Default)]
pub(super) struct Keep {
    /// How many of the likeliest tokens are told with each.
    pub logprobs: Option<usize>,
    /// What a record has of it.
    pub record: bool,
}

/// What was made.
pub(super) struct Made {
    pub text: Text,
    /// For each token its log-probability and those of the likeliest.
    pub logprobs: Vec<Value>,
    /// Until the first token.
    pub first: Option<Duration>,
    pub recorder: Option<Recorder>,
}

/// A token on its way out.
pub(super) struct Step<'a> {
    /// The token; `None` for text that was held back until the end.
    pub token: Option<u32>,
    /// The text that is certain with it; may be empty.
    pub text: &'a str,
    /// Its log-probabilities, where they are wanted.
    pub logprobs: Option<&'a Value>,
}

/// Makes a text and calls `show` for each token, also for one that only ends the text and adds nothing to it.
pub(super) fn make(
    session: &mut Session,
    tokenizer: &Tokenizer,
    generator: Generator<'_>,
    keep: Keep,
    signal: &Watch,
    show: &mut dyn FnMut(Step<'_>) -> Result<(), Failure>,
) -> Result<Made, Box<dyn Error>> {
    let start = Instant::now();
    let mut recorder = keep.record.then(|| Recorder::new(&generator.request().prompt));
    let (mut logprobs, mut first, mut failed) = (Vec::new(), None, None);
    let text = generator.run(session, &mut |token| {
        first.get_or_insert_with(|| start.elapsed());
        if let Some(recorder) = &mut recorder {
            recorder.push(&token);
        }
        if let Some(n) = keep.logprobs {
            logprobs.push(told(tokenizer, token.id, token.logits, n));
        }
        failed = show(Step { token: Some(token.id), text: token.text, logprobs: logprobs.last() }).err();
        if failed.is_some() || signal.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    if !text.tail.is_empty() {
        show(Step { token: None, text: &text.tail, logprobs: None })?;
    }
    Ok(Made { text, logprobs, first, recorder })
}

/// A token's log-probability and those of the `n` likeliest, as JSON.
fn told(tokenizer: &Tokenizer, token: u32, logits: &[f32], n: usize) -> Value {
    let all = log_probabilities(logits);
    let one = |id: u32| {
        let bytes = tokenizer.decode(&[id]);
        json!({"id": id, "text": String::from_utf8_lossy(&bytes), "logprob": all.get(id as usize)})
    };
    let mut order: Vec<u32> = (0..all.len() as u32).collect();
    let larger = |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    if n < order.len() {
        order.select_nth_unstable_by(n, larger);
        order.truncate(n);
    }
    order.sort_by(larger);
    let mut value = one(token);
    value["top"] = order.into_iter().map(one).collect();
    value
}
