//! The plan in double precision on dequantised weights, with nothing rounded on the way: what the model means.
//!
//! It shares no arithmetic with the backends. Where a run differs from it by more than its precision explains, the run is
//! wrong; where both show the same collapse, the model is.

use crate::model::Model;
use crate::ops::Row;
use crate::ops::float64::Memory64;
use crate::ops::shapes::Shapes;
use crate::plan::{BufferId, CacheId, Op, Plan, Step, WeightId, WeightSource as _};

use super::Values;

/// Runs the whole plan over a prompt; the logits of every row are wanted.
pub(super) fn run(model: &Model, plan: &Plan, prompt: &[u32]) -> Vec<Values> {
    let mut machine = Machine::new(model, plan);
    plan.steps.iter().map(|step| Values { step: step.clone(), x: machine.step(step, prompt) }).collect()
}

/// The steps for wanted rows alone, over residual streams of equal width: the logits of each.
pub(super) fn lens(model: &Model, plan: &Plan, streams: &[&[f64]]) -> Vec<Vec<f64>> {
    let mut machine = Machine::new(model, plan);
    let Some((gather, rest)) = plan.steps[plan.first_wanted()..].split_first() else { return Vec::new() };
    if let Some(BufferId(x)) = gather.op.output() {
        machine.buffers[x] = streams.concat();
    }
    for step in rest {
        machine.step(step, &[]);
    }
    machine.buffers[plan.logits.0].chunks(plan.vocabulary()).map(<[f64]>::to_vec).collect()
}

/// Buffers with one row per token.
struct Machine<'a> {
    model: &'a Model,
    plan: &'a Plan,
    buffers: Vec<Vec<f64>>,
    /// The tokens of the prompt.
    ids: Vec<u32>,
    /// Keys and values, `[position, width]`.
    caches: Vec<[Vec<f64>; 2]>,
}

impl<'a> Machine<'a> {
    fn new(model: &'a Model, plan: &'a Plan) -> Self {
        let caches = vec![[Vec::new(), Vec::new()]; plan.caches.len()];
        Self { model, plan, buffers: vec![Vec::new(); plan.buffers.len()], ids: Vec::new(), caches }
    }

    /// Runs a step and gives its output; for the cache the keys of every row, then the values.
    fn step(&mut self, step: &Step, ids: &[u32]) -> Vec<f64> {
        self.ids = ids.to_vec();
        let result = step.op.whole().map_or_else(|| self.per_row(&step.op), |op| op.rows64(self));
        if let Some(BufferId(out)) = step.op.output() {
            self.buffers[out].clone_from(&result);
        } else if let Some(CacheId(cache)) = step.op.appends_to() {
            let (k, v) = result.split_at(result.len() / 2);
            self.caches[cache] = [k.to_vec(), v.to_vec()];
        }
        result
    }

    /// All rows of an op that is computed row by row.
    fn per_row(&self, op: &Op) -> Vec<f64> {
        let (Some(facts), Some(out), shapes) = (op.per_row(), op.output(), self.plan.shapes()) else {
            return Vec::new();
        };
        let width = shapes.width(out);
        let reads = facts.reads().map(|id| id.map_or((&[][..], 1), |id| (&self.buffers[id.0][..], shapes.width(id))));
        let vector = facts.vector().map_or_else(Vec::new, |id| self.weight(id, 0));
        let (first, rows) = (reads[0].0, reads[0].0.len() / reads[0].1);
        let mut result = if op.is_in_place() { first.to_vec() } else { vec![0.0; rows * width] };
        for (position, out) in result.chunks_mut(width).enumerate() {
            let reads = reads.map(|(x, width)| x.get(position * width..(position + 1) * width).unwrap_or_default());
            let angles = facts.angles().map_or(&[][..], |id| &shapes.angles[id.0].frequencies);
            let angles: Vec<f64> = angles.iter().map(|frequency| position as f64 * frequency).collect();
            facts.row64(&shapes, Row { reads, vector: &vector, angles: &angles }, out);
        }
        result
    }
}

impl Memory64 for Machine<'_> {
    fn shapes(&self) -> Shapes<'_> {
        self.plan.shapes()
    }

    fn ids(&self) -> &[u32] {
        &self.ids
    }

    fn rows(&self, id: BufferId) -> &[f64] {
        &self.buffers[id.0]
    }

    fn cache(&self, id: CacheId) -> [&[f64]; 2] {
        let [k, v] = &self.caches[id.0];
        [k, v]
    }

    fn weight(&self, id: WeightId, row: usize) -> Vec<f64> {
        let w = &self.plan.weights[id.0];
        let bytes = w.format.row_bytes(w.cols);
        let mut values = vec![0.0; w.cols];
        w.format.dequantize(&self.model.data(w)[row * bytes..][..bytes], &mut values);
        values.into_iter().map(f64::from).collect()
    }
}
