//! A plan: what to compute, in order, with a name per step. Built once by a model, run by every backend.

mod check;

use std::fmt;

use crate::numerics::Precision;
use crate::ops;

pub use crate::ops::shapes::{
    Angles, AnglesId, Buffer, BufferId, BufferKind, CacheId, CacheSpec, Shapes, TILE, Weight, WeightId,
};
pub use crate::ops::{Op, Words};
pub use check::PlanError;

/// Where the bytes of weights are.
pub trait WeightSource: Send + Sync {
    /// The bytes of a weight of the plan, as many as its format and shape need.
    fn data(&self, weight: &Weight) -> &[u8];

    /// Says that the bytes of a weight will not be needed soon.
    fn release(&self, weight: &Weight);
}

/// Where a step stands, written `blk.3.attn_norm` or, outside of the layers, `output_norm`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StepName {
    /// Its layer, counted from 0.
    pub layer: Option<usize>,
    /// Its part in the layer.
    pub part: String,
}

impl fmt::Display for StepName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.layer {
            Some(layer) => write!(f, "blk.{layer}.{}", self.part),
            None => f.write_str(&self.part),
        }
    }
}

/// A named operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// Unique in the plan.
    pub name: StepName,
    /// What it does.
    pub op: Op,
}

/// Everything a backend needs to know of a model.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How activations are rounded.
    pub precision: Precision,
    /// The buffers.
    pub buffers: Vec<Buffer>,
    /// The weights.
    pub weights: Vec<Weight>,
    /// The steps, in order.
    pub steps: Vec<Step>,
    /// The output of the last step.
    pub logits: BufferId,
    /// The caches.
    pub caches: Vec<CacheSpec>,
    /// Tables of RoPE angles.
    pub angles: Vec<Angles>,
}

impl Plan {
    /// The shapes that ops ask for.
    pub fn shapes(&self) -> Shapes<'_> {
        let Self { precision, buffers, weights, caches, angles, .. } = self;
        Shapes { precision: *precision, buffers, weights, caches, angles }
    }

    /// Size of the vocabulary: the width of the logits.
    pub fn vocabulary(&self) -> usize {
        self.buffers[self.logits.0].width
    }

    /// Ids below this have a row in every embedding matrix, and a logit.
    pub fn token_ids(&self) -> usize {
        let rows = self.steps.iter().filter_map(|step| match step.op {
            Op::Embedding(ops::Embedding { weight, .. }) => Some(self.weights[weight.0].rows),
            _ => None,
        });
        rows.fold(self.vocabulary(), usize::min)
    }

    /// Whether a step runs for those rows only whose logits are wanted.
    pub fn is_wanted(&self, op: &Op) -> bool {
        op.output().is_some_and(|out| self.buffers[out.0].wanted)
    }

    /// Whether nobody behind the step `last` reads what a buffer holds then. `reads` tells of a step by its place whether it reads the
    /// buffer: [`Op::reads`], or what runs in its stead.
    pub fn is_over(&self, buffer: BufferId, last: usize, reads: impl Fn(usize) -> bool) -> bool {
        for (i, step) in self.steps.iter().enumerate().skip(last + 1) {
            if reads(i) {
                return false;
            }
            if step.op.output() == Some(buffer) {
                return true;
            }
        }
        buffer != self.logits
    }

    /// The first step for wanted rows only: what stands before it runs for every row.
    pub fn first_wanted(&self) -> usize {
        self.steps.iter().position(|step| self.is_wanted(&step.op)).unwrap_or(self.steps.len())
    }
}

/// Collects a plan.
#[derive(Debug)]
pub struct Builder {
    plan: Plan,
    layer: Option<usize>,
}

impl Builder {
    /// An empty plan.
    pub fn new(precision: Precision) -> Self {
        Self {
            plan: Plan {
                precision,
                buffers: Vec::new(),
                weights: Vec::new(),
                steps: Vec::new(),
                logits: BufferId(0),
                caches: Vec::new(),
                angles: Vec::new(),
            },
            layer: None,
        }
    }

    /// A new f32 buffer, or the one of this name.
    pub fn buffer(&mut self, name: &str, width: usize) -> BufferId {
        self.add_buffer(name, width, BufferKind::Float, false)
    }

    /// The same with rows for those tokens only whose logits are wanted.
    pub fn wanted_buffer(&mut self, name: &str, width: usize) -> BufferId {
        self.add_buffer(name, width, BufferKind::Float, true)
    }

    fn add_buffer(&mut self, name: &str, width: usize, kind: BufferKind, wanted: bool) -> BufferId {
        if let Some(i) = self.plan.buffers.iter().position(|b| b.name == name) {
            return BufferId(i);
        }
        self.plan.buffers.push(Buffer { name: name.to_owned(), width, kind, wanted });
        BufferId(self.plan.buffers.len() - 1)
    }

    /// Adds a weight, or finds the one of these rows of this tensor.
    pub fn weight(&mut self, weight: Weight) -> WeightId {
        let same = |w: &Weight| (&w.name, w.first, w.rows) == (&weight.name, weight.first, weight.rows);
        if let Some(i) = self.plan.weights.iter().position(same) {
            return WeightId(i);
        }
        self.plan.weights.push(weight);
        WeightId(self.plan.weights.len() - 1)
    }

    /// Adds a cache.
    pub fn cache(&mut self, spec: CacheSpec) -> CacheId {
        self.plan.caches.push(spec);
        CacheId(self.plan.caches.len() - 1)
    }

    /// Adds a table of RoPE angles, or finds its equal.
    pub fn angles(&mut self, angles: Angles) -> AnglesId {
        let known = self.plan.angles.iter().position(|a| *a == angles);
        AnglesId(known.unwrap_or_else(|| {
            self.plan.angles.push(angles);
            self.plan.angles.len() - 1
        }))
    }

    /// The layer of the steps that follow.
    pub fn layer(&mut self, layer: Option<usize>) {
        self.layer = layer;
    }

    /// Appends a step.
    pub fn step(&mut self, part: impl Into<String>, op: Op) {
        self.plan.steps.push(Step { name: StepName { layer: self.layer, part: part.into() }, op });
    }

    /// Appends the products of `x` with several matrices, and before them the activation quantisations they need.
    pub fn matmuls(
        &mut self,
        x: BufferId,
        part: &str,
        products: impl IntoIterator<Item = (&'static str, WeightId, Option<WeightId>, BufferId)>,
    ) {
        let products: Vec<_> = products.into_iter().collect();
        let inputs = self.activations(x, part, products.iter().map(|p| p.1));
        for ((part, weight, bias, out), x) in products.into_iter().zip(inputs) {
            self.step(part, Op::Matmul(ops::Matmul { weight, bias, x, out }));
        }
    }

    /// Appends the quantisations of `x` that products with matrices need, and says what each of them multiplies.
    pub fn activations(
        &mut self,
        x: BufferId,
        part: &str,
        weights: impl IntoIterator<Item = WeightId>,
    ) -> Vec<BufferId> {
        let mut done: Vec<(usize, BufferId)> = Vec::new();
        let mut inputs = Vec::new();
        for weight in weights {
            let Some(block) = self.plan.weights[weight.0].format.activation_block() else {
                inputs.push(x);
                continue;
            };
            if let Some((_, known)) = done.iter().find(|(b, _)| *b == block) {
                inputs.push(*known);
                continue;
            }
            let source = self.plan.buffers[x.0].clone();
            let (name, kind) = (format!("{}.q{block}", source.name), BufferKind::Quantized(block));
            let out = self.add_buffer(&name, source.width, kind, source.wanted);
            self.step(format!("{part}.q{block}"), Op::QuantizeActivations(ops::QuantizeActivations { x, out }));
            done.push((block, out));
            inputs.push(out);
        }
        inputs
    }

    /// The plan, whose last step makes the `logits`.
    ///
    /// # Errors
    /// If steps do not fit together ([`Plan::check`]).
    pub fn finish(mut self, logits: BufferId) -> Result<Plan, PlanError> {
        self.plan.logits = logits;
        self.plan.check()?;
        Ok(self.plan)
    }
}
