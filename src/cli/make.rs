//! Tokens to text while they are made, for `generate` and `chat`.

use std::error::Error;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::error::Failure;
use super::signals::Watch;
use crate::backend::Chooser;
use crate::engine::{Choice, Generation, Session, StopReason, Stops};
use crate::sample::{Sampler, SamplerOptions, log_probabilities};
use crate::tokenizer::Tokenizer;

/// What is to be made.
pub(super) struct Wanted<'a> {
    /// Tokens at most.
    pub limit: usize,
    /// How they are chosen.
    pub sampling: SamplerOptions,
    /// Strings that end the text.
    pub stops: &'a [String],
    /// Whether tokens that end a text do not end this one.
    pub ignore_end: bool,
    /// How many of the likeliest tokens are told with each.
    pub logprobs: Option<usize>,
}

/// What was made.
pub(super) struct Made {
    pub generation: Generation,
    /// The text, until a string that ended it.
    pub text: String,
    /// For each token its log-probability and those of the likeliest.
    pub logprobs: Vec<Value>,
    /// Until the first token.
    pub first: Option<Duration>,
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

/// Feeds `prompt` and makes a text behind it; `show` hears each token.
pub(super) fn make(
    session: &mut Session,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    wanted: &Wanted<'_>,
    signal: &Watch,
    show: &mut dyn FnMut(Step<'_>) -> Result<(), Failure>,
) -> Result<Made, Box<dyn Error>> {
    let start = Instant::now();
    let mut sampler = Sampler::new(wanted.sampling);
    let (mut draw, mut sample);
    let choice = match sampler.draw_options() {
        _ if sampler.is_greedy() => Choice::Ahead(Chooser::Greedy),
        Some(options) => {
            draw = || sampler.next_draw();
            Choice::Ahead(Chooser::Draw(options, &mut draw))
        }
        None => {
            sample = |logits: &[f32], history: &[u32]| sampler.sample(logits, history);
            Choice::By(&mut sample)
        }
    };
    let mut stream = tokenizer.stream();
    let mut stops = Stops::new(wanted.stops.to_vec());
    let (mut text, mut logprobs, mut first, mut failed) = (String::new(), Vec::new(), None, None);
    let generation = session.generate(
        prompt,
        wanted.limit,
        choice,
        |token| !wanted.ignore_end && tokenizer.is_end_of_generation(token),
        |token, logits| {
            first.get_or_insert_with(|| start.elapsed());
            if let Some(n) = wanted.logprobs {
                logprobs.push(told(tokenizer, token, logits, n));
            }
            let (certain, stop) = stops.push(&stream.push(token));
            text.push_str(&certain);
            let step = Step { token: Some(token), text: &certain, logprobs: logprobs.last() };
            failed = show(step).err();
            match () {
                () if failed.is_some() || signal.asked() => ControlFlow::Break(StopReason::Interrupted),
                () if stop => ControlFlow::Break(StopReason::StopString),
                () => ControlFlow::Continue(()),
            }
        },
    )?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    if generation.stop_reason != StopReason::StopString {
        let (mut certain, stop) = stops.push(&stream.finish());
        if !stop {
            certain.push_str(&stops.finish());
        }
        text.push_str(&certain);
        show(Step { token: None, text: &certain, logprobs: None })?;
    }
    Ok(Made { generation, text, logprobs, first })
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
