//! Where two runs of the same prompt first differ.

use serde::Serialize;

use crate::backend::{Backend, BackendError, Batch, Rows};
use crate::plan::{Step, Words};

/// What a run of a prompt gave.
#[derive(Clone, Debug)]
pub struct Run {
    /// Every step's output words, all tokens; `None` where the run was not listened to, so that steps could be fused.
    pub outputs: Option<Vec<(Step, Vec<u32>)>>,
    /// The logits of all tokens.
    pub logits: Vec<f32>,
}

/// Runs a prompt. One that is listened to is a single batch, at most the backend's size, and knows its steps. One that is not
/// goes token by token, as decoding does: those are the tokens whose steps a GPU fuses.
///
/// # Errors
/// When the backend fails.
pub fn run(backend: &mut dyn Backend, prompt: &[u32], listen: bool) -> Result<Run, BackendError> {
    let limits = backend.limits();
    if !listen {
        let mut logits = Vec::new();
        for (position, id) in prompt.iter().enumerate() {
            let batch = Batch::checked(std::slice::from_ref(id), position, Rows::All, &limits)?;
            logits.extend_from_slice(backend.forward(batch, None)?);
        }
        return Ok(Run { outputs: None, logits });
    }
    let mut outputs: Vec<(Step, Vec<u32>)> = Vec::new();
    let mut keep = |step: &Step, words: &[u32]| outputs.push((step.clone(), words.to_vec()));
    let batch = Batch::checked(prompt, 0, Rows::All, &limits)?;
    let logits = backend.forward(batch, Some(&mut keep))?.to_vec();
    Ok(Run { outputs: Some(outputs), logits })
}

/// The first place where two runs differ.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// The step.
    pub step: String,
    /// The token of the prompt, counted from 0, where only logits could be compared.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<usize>,
    /// How many words of the output differ.
    pub differ: usize,
    /// How many it has.
    pub of: usize,
    /// The pair of numbers that is furthest apart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worst: Option<[f32; 2]>,
}

/// Compares step by step, or by rows of logits where one of the runs was not listened to.
pub fn first_difference(a: &Run, b: &Run, vocabulary: usize) -> Option<Difference> {
    if let (Some(a), Some(b)) = (&a.outputs, &b.outputs) {
        return a.iter().zip(b).find_map(|((step, x), (_, y))| {
            difference(&step.name.to_string(), None, x, y, step.op.words() == Words::Floats)
        });
    }
    let rows = |run: &Run| -> Vec<Vec<u32>> {
        run.logits.chunks(vocabulary).map(|row| row.iter().map(|x| x.to_bits()).collect()).collect()
    };
    let (a, b) = (rows(a), rows(b));
    a.iter().zip(&b).enumerate().find_map(|(token, (x, y))| difference("output", Some(token), x, y, true))
}

fn difference(step: &str, token: Option<usize>, x: &[u32], y: &[u32], floats: bool) -> Option<Difference> {
    let wrong: Vec<_> = x.iter().zip(y).filter(|(x, y)| x != y).map(|(x, y)| [*x, *y].map(f32::from_bits)).collect();
    if wrong.is_empty() && x.len() == y.len() {
        return None;
    }
    let distance = |p: &[f32; 2]| Some((p[0] - p[1]).abs()).filter(|d| !d.is_nan()).unwrap_or(f32::INFINITY);
    let worst = wrong.iter().max_by(|p, q| distance(p).total_cmp(&distance(q))).copied().filter(|_| floats);
    Some(Difference { step: step.to_owned(), token, differ: wrong.len(), of: x.len(), worst })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops;
    use crate::plan::{BufferId, Op, StepName};

    fn run_of(steps: Option<&[(&str, &[f32])]>, logits: &[f32]) -> Run {
        let op = Op::Add(ops::Add { x: BufferId(0), b: BufferId(1) });
        let step = |(name, x): &(&str, &[f32])| {
            (
                Step { name: StepName { layer: None, part: (*name).to_owned() }, op: op.clone() },
                x.iter().map(|x| x.to_bits()).collect(),
            )
        };
        Run { outputs: steps.map(|s| s.iter().map(step).collect()), logits: logits.to_vec() }
    }

    #[test]
    fn the_first_step_is_named_with_its_worst_pair() {
        let a = run_of(Some(&[("p", &[1.0, 2.0]), ("q", &[3.0, 4.0, 5.0])]), &[0.0]);
        let b = run_of(Some(&[("p", &[1.0, 2.0]), ("q", &[3.5, 4.0, -5.0])]), &[0.0]);
        assert_eq!(first_difference(&a, &a, 1), None);
        let d = first_difference(&a, &b, 1).unwrap_or_else(|| panic!("they differ"));
        assert_eq!((d.step.as_str(), d.token, d.differ, d.of, d.worst), ("q", None, 2, 3, Some([5.0, -5.0])));
    }

    #[test]
    fn a_run_that_was_not_listened_to_is_compared_by_rows_of_logits() {
        let a = run_of(Some(&[("p", &[1.0])]), &[1.0, 2.0, 3.0, 4.0]);
        let b = run_of(None, &[1.0, 2.0, 3.0, f32::NAN]);
        let d = first_difference(&a, &b, 2).unwrap_or_else(|| panic!("they differ"));
        assert_eq!((d.step.as_str(), d.token, d.differ, d.of), ("output", Some(1), 1, 2));
        assert_eq!(first_difference(&a, &run_of(None, &a.logits), 2), None);
    }
}
