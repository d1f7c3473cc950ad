//! Time per op and step.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::subject::chosen_rows;
use super::{Bench, BenchError, Test, id};
use crate::backend::{BackendError, Batch, Launch, Rows, StepTime};
use crate::plan::{Op, Plan, StepName, WeightId};

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
    /// Bytes of the matrices that it read in all, where they are known.
    #[serde(default)]
    pub bytes: u64,
    /// The kernels of its first call, on a backend that has kernels.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub launches: Vec<Launch>,
}

/// Bytes of the matrices that each step of a plan reads for `rows` rows. Which experts several rows choose is not known: none are counted.
fn bytes(plan: &Plan, rows: usize) -> HashMap<&StepName, u64> {
    let matrix = |rows: usize, id: WeightId| {
        let weight = &plan.weights[id.0];
        (rows * weight.format.row_bytes(weight.cols)) as u64
    };
    let read = |op: &Op| match op {
        Op::Matmul(op) => matrix(plan.weights[op.weight.0].rows, op.weight),
        Op::ExpertMatmul(op) if rows == 1 => matrix(chosen_rows(plan, op), op.weight),
        _ => 0,
    };
    plan.steps.iter().map(|step| (&step.name, read(&step.op))).collect()
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
            let read = bytes(&self.plan, ids.len());
            let with_bytes = |t: StepTime| (t.steps.iter().filter_map(|name| read.get(name)).sum(), t);
            times.extend(backend.profile(batch)?.into_iter().map(with_bytes));
            position += ids.len();
        }
        Ok(shares(times))
    }
}

/// Adds up what belongs to the same op and step of any layer, each with the bytes that it read; the longest first.
fn shares(times: Vec<(u64, StepTime)>) -> Vec<Share> {
    let mut shares: Vec<Share> = Vec::new();
    for (bytes, t) in times {
        let step = t.steps.iter().map(|name| name.part.as_str()).collect::<Vec<_>>().join("+");
        let seconds = t.time.as_secs_f64();
        match shares.iter_mut().find(|s| s.op == t.op && s.step == step) {
            Some(share) => {
                share.calls += 1;
                share.seconds += seconds;
                share.bytes += bytes;
            }
            None => shares.push(Share { op: t.op, step, calls: 1, seconds, share: 0.0, bytes, launches: t.launches }),
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
            launches: vec![Launch { kernel: format!("{op}.{layer:?}"), groups: [1, 2, 3] }],
        };
        let found = shares(vec![
            (0, time("embedding", None, &["token_embd"], 1)),
            (10, time("matmul", Some(0), &["attn_q", "attn_k"], 2)),
            (12, time("matmul", Some(11), &["attn_q", "attn_k"], 3)),
            (7, time("matmul", None, &["output"], 4)),
        ]);
        let lines: Vec<_> = found.iter().map(|s| (&s.op[..], &s.step[..], s.calls, s.share, s.bytes)).collect();
        assert_eq!(
            lines,
            [
                ("matmul", "attn_q+attn_k", 2, 0.5, 22),
                ("matmul", "output", 1, 0.4, 7),
                ("embedding", "token_embd", 1, 0.1, 0)
            ]
        );
        assert_eq!(found[0].launches[0].kernel, "matmul.Some(0)");
    }
}
