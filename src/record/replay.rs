//! Makes a recorded text again and compares.

use std::fmt;
use std::ops::ControlFlow;

use serde::Serialize;

use super::{Chain, RecordError, Recorded, bits};
use crate::engine::{EngineError, Generator, Session, StopReason, Text, Token};
use crate::grammar::Constraint;
use crate::tokenizer::Tokenizer;

/// The first thing that differs from a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The number of the token, from 0.
    pub token: usize,
    /// What differs: `token`, `logit`, `logits`, `end`, `text` or `hash`.
    pub what: &'static str,
    /// What the record has.
    pub recorded: String,
    /// What came now.
    pub now: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token, what, recorded, now } = self;
        match *what {
            "token" => write!(f, "token {token} differs: {recorded} was recorded, {now} comes now"),
            "logit" => write!(f, "the logit of token {token} differs: {recorded} was recorded, {now} comes now"),
            "logits" => write!(
                f,
                "token {token} is the same and so is its logit, but others it was chosen from differ: link {recorded} was \
                 recorded, {now} comes now"
            ),
            "end" => write!(f, "the end behind {token} tokens differs: {recorded} was recorded, {now} comes now"),
            what => write!(f, "the {what} of {token} tokens differs: {recorded:?} was recorded, {now:?} comes now"),
        }
    }
}

/// A logit's bits as a number.
fn number(bits: &str) -> String {
    let value = u32::from_str_radix(bits, 16).map(f32::from_bits);
    value.map_or_else(|_| format!("{bits:?}"), |value| format!("{value} ({bits})"))
}

/// Makes a recorded text again from its token `from` on, as far as it is equal; `None` where all of it is. The tokens before are
/// fed as the record has them.
///
/// A text that was stopped from outside is made as far as it was recorded.
///
/// # Errors
/// [`RecordError::From`] for a token that the text does not have; those of the engine.
pub fn replay(
    recorded: &Recorded,
    from: usize,
    session: &mut Session,
    tokenizer: &Tokenizer,
    constraint: Option<Box<dyn Constraint>>,
    hear: &mut dyn FnMut(usize) -> ControlFlow<()>,
) -> Result<Option<Difference>, ReplayError> {
    let tokens = &recorded.tokens;
    let consistent = recorded.chain.len() == tokens.len() && recorded.logits.len() == tokens.len();
    let chain = match from.checked_sub(1) {
        None => Some(Chain::new(&recorded.request.prompt)),
        Some(last) => recorded.chain.get(last).and_then(|link| Chain::from_link(link)),
    };
    let mut chain =
        chain.filter(|_| consistent && (from == 0 || from < tokens.len())).ok_or(RecordError::From(from))?;
    let stopped = recorded.stop_reason == StopReason::Interrupted;
    let mut request = recorded.request.clone();
    if stopped {
        request.max_tokens = Some(tokens.len());
    }
    let mut generator = Generator::new(tokenizer, request, constraint)?;
    generator.resume(&tokens[..from]).map_err(EngineError::from)?;
    session.clear();
    let (mut at, mut difference, mut asked) = (from, None, false);
    let text = generator.run(session, &mut |token| {
        difference = compare(recorded, at, &token, &mut chain);
        at += 1;
        asked = hear(at).is_break();
        if difference.is_some() || asked { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if difference.is_none() && (asked || text.stop_reason == StopReason::Interrupted) {
        return Err(ReplayError::Interrupted);
    }
    Ok(difference.or_else(|| end(recorded, from, at, stopped, &text)))
}

/// What a token has that is not recorded.
fn compare(recorded: &Recorded, at: usize, token: &Token<'_>, chain: &mut Chain) -> Option<Difference> {
    chain.push(token.id, token.logits);
    let (logit, link) = (bits(token), chain.link());
    let differs = |what, recorded: String, now: String| Some(Difference { token: at, what, recorded, now });
    match (recorded.tokens.get(at), recorded.logits.get(at), recorded.chain.get(at)) {
        (Some(id), _, _) if *id != token.id => differs("token", id.to_string(), token.id.to_string()),
        (Some(_), Some(bits), _) if *bits != logit => differs("logit", number(bits), number(&logit)),
        (Some(_), Some(_), Some(expected)) if *expected != link => differs("logits", expected.clone(), link),
        (Some(_), Some(_), Some(_)) => None,
        _ => differs("token", "the end".to_owned(), token.id.to_string()),
    }
}

/// What differs behind the last token.
fn end(recorded: &Recorded, from: usize, at: usize, stopped: bool, text: &Text) -> Option<Difference> {
    let name = |reason: StopReason| serde_json::to_value(reason).map_or_else(|_| String::new(), |v| v.to_string());
    let differs = |what, recorded: String, now: String| Some(Difference { token: at, what, recorded, now });
    match () {
        () if at < recorded.tokens.len() => differs("token", recorded.tokens[at].to_string(), "the end".to_owned()),
        () if !stopped && text.stop_reason != recorded.stop_reason => {
            differs("end", name(recorded.stop_reason), name(text.stop_reason))
        }
        () if text.text != recorded.text => differs("text", recorded.text.clone(), text.text.clone()),
        // The hash over all logits is that of a text made from its beginning.
        () if from == 0 && text.logits_hash != recorded.logits_hash => {
            differs("hash", recorded.logits_hash.clone(), text.logits_hash.clone())
        }
        () => None,
    }
}

/// Why a record was not compared to its end.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum ReplayError {
    #[error(transparent)]
    Record(#[from] RecordError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("interrupted")]
    Interrupted,
}
