//! Perplexity of a text, defined as in llama.cpp's `llama-perplexity`.

use super::{EngineError, Session};
use crate::backend::{BackendError, BatchError};

/// What was measured so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Perplexity {
    /// Windows scored.
    pub chunks: usize,
    /// Predictions scored.
    pub predictions: usize,
    /// Sum of the negative log-likelihoods, in nats.
    sum: f64,
    /// Sum of their squares.
    squares: f64,
}

impl Perplexity {
    /// Mean negative log-likelihood in nats.
    pub fn mean_nll(&self) -> f64 {
        self.sum / self.predictions.max(1) as f64
    }

    /// `exp` of the mean.
    pub fn value(&self) -> f64 {
        self.mean_nll().exp()
    }

    /// Standard error of [`Self::value`].
    pub fn error(&self) -> f64 {
        if self.predictions < 2 {
            return 0.0;
        }
        let variance = self.squares / self.predictions as f64 - self.mean_nll().powi(2);
        (variance.max(0.0) / (self.predictions - 1) as f64).sqrt() * self.value()
    }

    fn add(&mut self, nll: f64) {
        self.predictions += 1;
        self.sum += nll;
        self.squares += nll * nll;
    }
}

/// Cuts `ids` into windows of `context` tokens, runs each on its own and scores the predictions of its second half.
///
/// The first token of each window is replaced by `bos` where the model wants one. At most `limit` windows; `progress`
/// hears the estimate after each and says whether to go on. A rest shorter than a window is left out, and so is a window in
/// which the backend is interrupted.
///
/// # Errors
/// When the text is shorter than a window, an id is unknown, or the backend fails.
pub fn perplexity(
    session: &mut Session,
    ids: &[u32],
    context: usize,
    bos: Option<u32>,
    limit: usize,
    mut progress: impl FnMut(&Perplexity) -> bool,
) -> Result<Perplexity, EngineError> {
    if ids.len() < context || context < 4 {
        return Err(EngineError::TextTooShort { tokens: ids.len(), context });
    }
    // The last token of a window is only predicted, never fed.
    let vocabulary = session.limits.vocabulary;
    if let Some(&id) = ids.iter().chain(&bos).find(|id| **id as usize >= vocabulary) {
        return Err(BackendError::from(BatchError::TokenId { id, vocabulary }).into());
    }
    let mut result = Perplexity::default();
    for window in ids.chunks_exact(context).take(limit) {
        let mut window = window.to_vec();
        if let Some(bos) = bos {
            window[0] = bos;
        }
        match score(session, &window, result) {
            Err(EngineError::Backend(BackendError::Interrupted)) => return Ok(result),
            scored => result = scored?,
        }
        if !progress(&result) {
            break;
        }
    }
    Ok(result)
}

/// Adds the predictions of a window's second half to `result`.
fn score(session: &mut Session, window: &[u32], mut result: Perplexity) -> Result<Perplexity, EngineError> {
    let first = window.len() / 2;
    session.clear();
    session.feed(&window[..first], false)?;
    // The last token predicts what is beyond the window.
    for (i, part) in window[first..window.len() - 1].chunks(session.chunk).enumerate() {
        let logits = session.feed(part, true)?;
        let at = first + i * session.chunk + 1;
        for (row, &next) in logits.chunks_exact(logits.len() / part.len()).zip(&window[at..]) {
            result.add(negative_log_likelihood(row, next));
        }
    }
    result.chunks += 1;
    Ok(result)
}

/// `-ln softmax(logits)[id]`.
fn negative_log_likelihood(logits: &[f32], id: u32) -> f64 {
    let max = logits.iter().copied().fold(f32::MIN, f32::max);
    let sum: f64 = logits.iter().map(|x| f64::from(x - max).exp()).sum();
    sum.ln() - f64::from(logits[id as usize] - max)
}
