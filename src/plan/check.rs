//! Which plans can run: every plan that passes runs on every path of every backend, with the same bits.

use std::collections::HashSet;

use thiserror::Error;

use super::{BufferId, CacheId, Op, Plan, Step, StepName};
use crate::ops::Gather;
use crate::ops::shapes::ensure;

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
        step.op.check(&self.plan.shapes())?;
        self.caches(&step.op)?;
        self.holds.extend(step.op.output());
        Ok(())
    }

    /// All operands have the same rows; what knows a token's id or position runs for every row.
    fn rows(&mut self, op: &Op) -> Result<(), String> {
        let wanted = |id: BufferId| self.plan.buffers[id.0].wanted;
        let all = match op {
            Op::Gather(Gather { x, out }) => {
                ensure!(!wanted(*x) && wanted(*out), "does not gather wanted rows from all rows");
                self.gathered = true;
                return Ok(());
            }
            _ if op.needs_every_row() => true,
            _ => op.output().is_some_and(|out| !wanted(out)),
        };
        for id in op.reads().chain(op.output()) {
            let (name, has) = (&self.plan.buffers[id.0].name, if all { "only the wanted rows" } else { "every row" });
            ensure!(wanted(id) != all, "uses '{name}', which has {has}, where it needs the others, too");
        }
        ensure!(!all || !self.gathered, "runs for every row, behind a step for the wanted rows alone");
        Ok(())
    }

    /// A cache is appended to before it is read, and by every row.
    fn caches(&mut self, op: &Op) -> Result<(), String> {
        if let Some(cache) = op.appends_to() {
            ensure!(self.stored.insert(cache), "appends to the cache {}, as an earlier step does", cache.0);
        }
        if let Some(cache) = op.attends_to() {
            ensure!(self.stored.contains(&cache), "reads the cache {} before anything is appended to it", cache.0);
        }
        Ok(())
    }
}
