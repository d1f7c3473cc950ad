//! Which plans can run: every plan that passes runs on every path of every backend, with the same bits.

use std::collections::HashSet;

use thiserror::Error;

use super::{BufferId, BufferKind, CacheId, CacheSpec, Op, Plan, Step, StepName, Weight, WeightId};

/// Why a plan cannot run.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("step '{step}' ({op}) {reason}")]
pub struct PlanError {
    /// The step.
    pub step: String,
    /// Its op.
    pub op: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// Fails with a reason unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($reason:tt)*) => {
        if !$condition {
            return Err(format!($($reason)*));
        }
    };
}

impl Plan {
    /// Fails unless shapes, kinds, operands and caches fit: kernels and their twins index by what this has checked.
    ///
    /// # Errors
    /// The first step that does not fit.
    pub fn check(&self) -> Result<(), PlanError> {
        let mut state =
            State { plan: self, names: HashSet::new(), holds: HashSet::new(), stored: HashSet::new(), gathered: false };
        for step in &self.steps {
            state.step(step).map_err(|reason| PlanError { step: step.name.to_string(), op: step.op.name(), reason })?;
        }
        match self.steps.last() {
            Some(step) if step.op.output() == Some(self.logits) && self.is_wanted(&step.op) => Ok(()),
            last => Err(PlanError {
                step: last.map_or_else(String::new, |s| s.name.to_string()),
                op: last.map_or("", |s| s.op.name()),
                reason: "does not write the logits of the wanted rows, as the last step must".to_owned(),
            }),
        }
    }
}

/// What the steps so far have left.
struct State<'a> {
    plan: &'a Plan,
    names: HashSet<&'a StepName>,
    /// Buffers that were written.
    holds: HashSet<BufferId>,
    /// Caches that were appended to.
    stored: HashSet<CacheId>,
    /// Whether wanted rows were gathered.
    gathered: bool,
}

impl<'a> State<'a> {
    fn step(&mut self, step: &'a Step) -> Result<(), String> {
        ensure!(self.names.insert(&step.name), "has the name of an earlier step");
        for id in step.op.reads().chain(step.op.output()) {
            ensure!(id.0 < self.plan.buffers.len(), "uses buffer {}, which the plan does not have", id.0);
        }
        for id in step.op.reads() {
            let name = &self.plan.buffers[id.0].name;
            ensure!(self.holds.contains(&id), "reads '{name}' before anything is written to it");
        }
        if let (Some(out), false) = (step.op.output(), step.op.is_in_place()) {
            ensure!(step.op.reads().all(|id| id != out), "writes '{}', which it reads", self.plan.buffers[out.0].name);
        }
        self.rows(&step.op)?;
        self.shapes(&step.op)?;
        self.caches(&step.op)?;
        self.holds.extend(step.op.output());
        Ok(())
    }

    /// All operands have the same rows; what knows a token's id or position runs for every row.
    fn rows(&mut self, op: &Op) -> Result<(), String> {
        let wanted = |id: BufferId| self.plan.buffers[id.0].wanted;
        let all = match op {
            Op::Gather { x, out } => {
                ensure!(!wanted(*x) && wanted(*out), "does not gather wanted rows from all rows");
                self.gathered = true;
                return Ok(());
            }
            Op::Embedding { .. } | Op::Rope { .. } | Op::KvStore { .. } | Op::Attention { .. } => true,
            _ => op.output().is_some_and(|out| !wanted(out)),
        };
        for id in op.reads().chain(op.output()) {
            let (name, has) = (&self.plan.buffers[id.0].name, if all { "only the wanted rows" } else { "every row" });
            ensure!(wanted(id) != all, "uses '{name}', which has {has}, where it needs the others, too");
        }
        ensure!(!all || !self.gathered, "runs for every row, behind a step for the wanted rows alone");
        Ok(())
    }

    /// The width of a buffer of f32.
    fn float(&self, id: BufferId) -> Result<usize, String> {
        let buffer = &self.plan.buffers[id.0];
        ensure!(buffer.kind == BufferKind::Float, "uses '{}' as f32, but it holds integers", buffer.name);
        ensure!(buffer.width > 0, "uses '{}', which has no elements", buffer.name);
        Ok(buffer.width)
    }

    fn weight(&self, id: WeightId) -> Result<&'a Weight, String> {
        self.plan.weights.get(id.0).ok_or_else(|| format!("uses weight {}, which the plan does not have", id.0))
    }

    fn cache(&self, id: CacheId) -> Result<CacheSpec, String> {
        let caches = &self.plan.caches;
        caches.get(id.0).copied().ok_or_else(|| format!("uses the cache {} of {}", id.0, caches.len()))
    }

    /// Fails unless a weight is a vector of so many elements.
    fn vector(&self, id: WeightId, elements: usize) -> Result<(), String> {
        let w = self.weight(id)?;
        ensure!(
            w.rows == 1 && w.cols == elements,
            "needs a vector of {elements}, but '{}' is [{}, {}]",
            w.name,
            w.rows,
            w.cols
        );
        Ok(())
    }

    fn shapes(&self, op: &Op) -> Result<(), String> {
        let same = |what: &str, a: usize, b: usize| {
            if a == b { Ok(()) } else { Err(format!("has {what} of different widths, {a} and {b}")) }
        };
        match *op {
            Op::Embedding { weight, out } => {
                same("a matrix and an output", self.weight(weight)?.cols, self.float(out)?)
            }
            Op::RmsNorm { x, weight, out, .. } => {
                let width = self.float(x)?;
                self.vector(weight, width)?;
                same("an input and an output", width, self.float(out)?)
            }
            Op::QuantizeActivations { x, out } => {
                let (width, out) = (self.float(x)?, &self.plan.buffers[out.0]);
                let BufferKind::Quantized(block) = out.kind else {
                    return Err(format!("writes integers to '{}', which holds f32", out.name));
                };
                ensure!(
                    block > 0 && width.is_multiple_of(block),
                    "has rows of {width}, no multiple of its block {block}"
                );
                same("an input and an output", width, out.width)
            }
            Op::Matmul { weight, bias, x, out } => {
                let (w, x) = (self.weight(weight)?, &self.plan.buffers[x.0]);
                let kind = w.format.activation_block().map_or(BufferKind::Float, BufferKind::Quantized);
                ensure!(x.kind == kind, "multiplies '{}' with '{}', which needs {kind:?} activations", x.name, w.name);
                same("a matrix and an input", w.cols, x.width)?;
                same("matrix rows and an output", w.rows, self.float(out)?)?;
                bias.map_or(Ok(()), |bias| self.vector(bias, w.rows))
            }
            Op::Rope { x, head_dim, angles, .. } => {
                let width = self.float(x)?;
                let Some(pairs) = self.plan.angles.get(angles.0).map(Vec::len) else {
                    return Err(format!("uses the table of angles {} of {}", angles.0, self.plan.angles.len()));
                };
                ensure!(
                    head_dim > 0 && width.is_multiple_of(head_dim),
                    "has rows of {width}, no whole heads of {head_dim}"
                );
                ensure!(2 * pairs <= head_dim, "rotates {pairs} pairs of a head of {head_dim}");
                Ok(())
            }
            Op::KvStore { k, v, cache } => {
                let width = self.cache(cache)?.width();
                same("keys and a cache", self.float(k)?, width)?;
                same("values and a cache", self.float(v)?, width)?;
                ensure!(width.is_multiple_of(2), "appends to a cache of odd width {width}");
                Ok(())
            }
            Op::Attention { q, out, cache, heads } => {
                let CacheSpec { kv_heads, head_dim } = self.cache(cache)?;
                ensure!(
                    kv_heads > 0 && heads > 0 && heads % kv_heads == 0,
                    "shares {kv_heads} keys among {heads} heads"
                );
                ensure!(head_dim.is_multiple_of(2), "has heads of odd size {head_dim}");
                same("queries and heads", self.float(q)?, heads * head_dim)?;
                same("an output and heads", self.float(out)?, heads * head_dim)
            }
            Op::SiluMul { a, b, out } => {
                let width = self.float(out)?;
                same("a gate and an output", self.float(a)?, width)?;
                same("a factor and an output", self.float(b)?, width)
            }
            Op::Gather { x, out } => same("an input and an output", self.float(x)?, self.float(out)?),
            Op::Add { x, b } => {
                ensure!(x != b, "adds a buffer to itself");
                same("operands", self.float(x)?, self.float(b)?)
            }
        }
    }

    /// A cache is appended to before it is read, and by every row.
    fn caches(&mut self, op: &Op) -> Result<(), String> {
        match *op {
            Op::KvStore { cache, .. } => {
                ensure!(self.stored.insert(cache), "appends to the cache {}, as an earlier step does", cache.0);
            }
            Op::Attention { cache, .. } => {
                ensure!(self.stored.contains(&cache), "reads the cache {} before anything is appended to it", cache.0);
            }
            _ => {}
        }
        Ok(())
    }
}
