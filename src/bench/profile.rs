//! Time per op and step.

use serde::{Deserialize, Serialize};

use super::{Bench, BenchError, Test, id};
use crate::backend::{BackendError, Batch, Rows, StepTime};

/// What a kind of step took in a test.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Share {
    /// The op.
    pub op: String,
    /// The step without its layer, as `ffn_down`; several that run as one are joined by `+`.
    pub step: String,
    /// How often it ran.
    pub calls: usize,
    /// Seconds in all.
    pub seconds: f64,
    /// Share of the time of all steps.
    pub share: f64,
}

impl Bench<'_> {
    /// Runs a test once more, step by step timed: a prompt in its chunks, then each new token alone.
    pub(super) fn profile(&mut self, test: Test) -> Result<Vec<Share>, BenchError> {
        self.fill(test)?;
        let first = self.session.tokens().len();
        let ids: Vec<u32> = (first..first + test.tokens()).map(|i| id(i, self.subject)).collect();
        let (prompt, generated) = ids.split_at(test.prompt);
        let backend = self.session.backend_mut();
        let chunk = self.options.chunk.min(backend.limits().batch);
        let (mut position, mut times) = (first, Vec::new());
        for ids in prompt.chunks(chunk).chain(generated.chunks(1)) {
            let last = position + ids.len() >= first + prompt.len();
            let logits = if last { Rows::Last } else { Rows::None };
            let batch = Batch::checked(ids, position, logits, &backend.limits()).map_err(BackendError::from)?;
            times.extend(backend.profile(batch)?);
            position += ids.len();
        }
        Ok(shares(times))
    }
}

/// Adds up what belongs to the same op and step of any layer; the longest first.
fn shares(times: Vec<StepTime>) -> Vec<Share> {
    let mut shares: Vec<Share> = Vec::new();
    for t in &times {
        let step = t.steps.iter().map(|name| name.part.as_str()).collect::<Vec<_>>().join("+");
        let seconds = t.time.as_secs_f64();
        match shares.iter_mut().find(|s| s.op == t.op && s.step == step) {
            Some(share) => {
                share.calls += 1;
                share.seconds += seconds;
            }
            None => shares.push(Share { op: t.op.clone(), step, calls: 1, seconds, share: 0.0 }),
        }
    }
    let total: f64 = shares.iter().map(|s| s.seconds).sum();
    shares.iter_mut().for_each(|s| s.share = s.seconds / total.max(f64::MIN_POSITIVE));
    shares.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
    shares
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::plan::StepName;

    #[test]
    fn layers_are_added_up() {
        let time = |op, layer, parts: &[&str], ms| StepTime {
            op: String::from(op),
            steps: parts.iter().map(|part| StepName { layer, part: (*part).to_owned() }).collect(),
            time: Duration::from_millis(ms),
        };
        let found = shares(vec![
            time("embedding", None, &["token_embd"], 1),
            time("matmul", Some(0), &["attn_q", "attn_k"], 2),
            time("matmul", Some(11), &["attn_q", "attn_k"], 3),
            time("matmul", None, &["output"], 4),
        ]);
        let lines: Vec<_> = found.iter().map(|s| (&s.op[..], &s.step[..], s.calls, s.share)).collect();
        assert_eq!(
            lines,
            [("matmul", "attn_q+attn_k", 2, 0.5), ("matmul", "output", 1, 0.4), ("embedding", "token_embd", 1, 0.1)]
        );
    }
}
