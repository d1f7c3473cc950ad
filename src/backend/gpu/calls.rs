//! Dispatches of products of a single row: which kernel, how it is spread, with which parameters; all but their buffers.

use std::ops::Range;

use super::attend::ring;
use super::device::Device;
use super::lower::{Resources, shards};
use super::piece::{Before, End, Experts, Gate, Product};
use super::pipelines::Kernel;
use super::shape::{Shape, few};
use super::weights::Shard;
use crate::numerics::Precision;
use crate::plan::Plan;
use crate::quant::Format;
use crate::shaders::params::Call as Params;

/// How products are spread over threads.
#[derive(Clone, Copy)]
pub(super) enum Spread {
    /// For so many rows, which each workgroup prepares.
    Prepared(u32),
    /// For rows that were quantised before, so many in a workgroup, with a thread for a chunk.
    Given(u32),
    /// The same with a thread for a lane of S8.
    Quantised(u32),
}

/// Some rows of one matrix or of several that lie behind each other.
pub(super) struct Run<'a> {
    pub format: &'static Format,
    pub shard: &'a Shard,
    pub cols: usize,
    pub rows: Vec<usize>,
}

/// One dispatch of a kernel made of the matvec core, but for its buffers.
pub(super) struct Call<'a> {
    pub kernel: Kernel,
    pub params: Params,
    pub groups: u32,
    /// Workgroups in the second dimension.
    pub slices: u32,
    /// Rows of the product that a workgroup takes.
    pub slots: u32,
    /// Activation rows that a workgroup takes.
    pub tokens: u32,
    pub run: Run<'a>,
    /// Which products it makes.
    pub products: Range<usize>,
}

/// Whether a step is the last, which makes the logits.
pub(super) fn is_last(plan: &Plan, step: usize) -> bool {
    step + 1 == plan.steps.len()
}

/// The dispatches of products, or why there are none.
pub(super) fn calls<'a>(
    device: &Device,
    plan: &Plan,
    resources: &'a Resources,
    before: Before,
    products: &[Product],
    end: End,
    spread: Spread,
) -> Result<Vec<Call<'a>>, String> {
    let calling = Calling { device, plan, before, end, spread };
    if let Some(experts) = products.iter().find_map(|p| p.experts) {
        return Ok(vec![calling.experts(resources, products, experts)?]);
    }
    let makes_logits = |some: &[Product]| some.iter().any(|p| is_last(plan, p.step));
    let weight = |p: &Product| &plan.weights[p.weight.0];
    let mut calls = Vec::new();
    let runs = match runs(plan, resources, products) {
        Ok(runs) => runs,
        Err(_) if end == End::Rows && before.join.is_none() => {
            return calling.singles(resources, products, 0..products.len());
        }
        Err(why) => return Err(why),
    };
    if runs.len() > 1 && matches!(end, End::Gate { .. }) {
        return Err(format!("'{}' and its partner have different formats", weight(&products[0]).name));
    }
    let mut first = 0;
    for run in runs {
        let range = first..first + run.rows.len();
        first = range.end;
        let some = &products[range.clone()];
        calls.push(match end {
            End::Gate { gate, .. } => {
                let second = (run.shard.first + run.rows[0]) as u32;
                let params = Params { rows: run.rows[0] as u32, second, ..calling.params(&run) };
                let mut call = calling.call(params, run, 2, some, range, 1)?;
                call.kernel = gated(call.kernel, gate);
                call
            }
            End::Heads { angles, cache, neox } => {
                let count = |i: usize| if range.contains(&i) { weight(&products[i]).rows as u32 } else { 0 };
                let spec = plan.caches[cache.0];
                let params = Params {
                    second: count(0),
                    third: count(1),
                    head_dim: spec.head_dim as u32,
                    pairs: plan.angles[angles.0].frequencies.len() as u32,
                    kv_width: spec.width() as u32,
                    ..calling.params(&run)
                };
                let rotates = u32::from(range.start < 2);
                let mut call = calling.call(params, run, 1, some, range, 5)?;
                if neox && !call.slots.is_multiple_of(4) {
                    return Err("a workgroup takes no whole pairs of halves".to_owned());
                }
                call.kernel =
                    call.kernel.with("ROTATES", rotates).with("NEOX", u32::from(neox)).with("RING", ring(spec));
                call
            }
            End::Residual { .. } => {
                let params = calling.params(&run);
                calling.call(params, run, 1, some, range, 2)?
            }
            End::Sum { .. } => return Err("only results of experts are added up".to_owned()),
            End::Rows if before.join.is_none() && (!(2..=3).contains(&some.len()) || makes_logits(some)) => {
                calls.extend(calling.singles(resources, products, range)?);
                continue;
            }
            End::Rows if makes_logits(some) => return Err("the logits have a kernel of their own".to_owned()),
            End::Rows => {
                let count = |i: usize| run.rows.get(i).map_or(0, |rows| *rows as u32);
                let params = Params { second: count(0), third: count(1), ..calling.params(&run) };
                calling.call(params, run, 1, some, range, 4)?
            }
        });
    }
    Ok(calls)
}

/// A kernel with this gate.
fn gated(kernel: Kernel, gate: Gate) -> Kernel {
    match gate {
        Gate::Silu => kernel,
        Gate::Gelu => kernel.with("GELU", 1),
        Gate::Clamped => kernel.with("CLAMPED", 1),
    }
}

/// What the calls of a piece share.
struct Calling<'a> {
    device: &'a Device,
    plan: &'a Plan,
    before: Before,
    end: End,
    spread: Spread,
}

impl Calling<'_> {
    fn params(&self, run: &Run<'_>) -> Params {
        Params {
            streams: run.shard.streams,
            rows: run.rows.iter().sum::<usize>() as u32,
            first: run.shard.first as u32,
            eps: self.before.norm.map_or(0.0, |n| n.eps),
            branch_eps: self.before.join.and_then(|j| j.norm).map_or(0.0, |n| n.eps),
            branch_scale: self.before.join.and_then(|j| j.scale).unwrap_or(1.0),
            inverse_width: 1.0 / run.cols as f32,
            steps: self.plan.precision.steps(),
            inverse_steps: self.plan.precision.inverse_steps(),
            ..Params::default()
        }
    }

    /// The calls that make each product by itself, of every shard of its matrix.
    fn singles<'r>(
        &self,
        resources: &'r Resources,
        products: &[Product],
        range: Range<usize>,
    ) -> Result<Vec<Call<'r>>, String> {
        let mut calls = Vec::new();
        for i in range {
            let (p, weight) = (&products[i], &self.plan.weights[products[i].weight.0]);
            let stride = if is_last(self.plan, p.step) { self.plan.vocabulary() as u32 } else { 0 };
            for shard in shards(resources, p.weight) {
                let run = Run { format: weight.format, shard, cols: weight.cols, rows: vec![shard.rows] };
                let params = Params { out_first: shard.row_base as u32, stride, ..self.params(&run) };
                calls.push(self.call(params, run, 1, &products[i..=i], i..i + 1, 2)?);
            }
        }
        Ok(calls)
    }

    /// The call that multiplies with matrices of the experts that a row chooses: one product, or a gate and what it is for.
    fn experts<'r>(
        &self,
        resources: &'r Resources,
        products: &[Product],
        experts: Experts,
    ) -> Result<Call<'r>, String> {
        let mut all = runs(self.plan, resources, products)?;
        let (Some(mut run), true) = (all.pop(), all.is_empty()) else {
            return Err("gate and up of experts have different formats".to_owned());
        };
        let tensor = run.rows[0];
        let rows = tensor / experts.count;
        let items = |width: usize| (width / 16) as u32;
        let params = Params {
            rows: rows as u32,
            second: (run.shard.first + tensor) as u32,
            third: tensor as u32,
            x_items: items(run.cols * if experts.slotted { experts.used } else { 1 }),
            out_items: items(rows * experts.used),
            ..self.params(&run)
        };
        if let End::Sum { residual, .. } = self.end {
            // A workgroup takes all slots, as the sections of one row.
            (run.cols, run.rows) = (run.cols * experts.used, vec![rows]);
            let mut call = self.call(params, run, 1, products, 0..1, 3)?;
            call.kernel = call.kernel.with("RESIDUAL", u32::from(residual));
            return Ok(call);
        }
        // The kernel is spread as one for the rows of all slots.
        run.rows = vec![rows * experts.used * products.len()];
        let mut call = self.call(params, run, products.len() as u32, products, 0..products.len(), 3)?;
        let [slotted, all] = [experts.slotted, experts.routes.is_none()].map(u32::from);
        call.kernel = call.kernel.with("SLOTTED", slotted).with("ALL", all);
        if let End::Gate { gate, .. } = self.end {
            call.kernel = gated(call.kernel, gate);
        }
        call.slices = experts.used as u32;
        Ok(call)
    }

    /// A call of a kernel for rows of `matrices` matrices, which binds so many buffers behind the weights, the row and the norm.
    fn call<'r>(
        &self,
        params: Params,
        run: Run<'r>,
        matrices: u32,
        some: &[Product],
        products: Range<usize>,
        buffers: u32,
    ) -> Result<Call<'r>, String> {
        let Before { join, norm } = self.before;
        let precise = self.plan.precision == Precision::Precise;
        let rows = run.rows.iter().sum();
        let (mut kernel, slots, tokens) = match self.spread {
            Spread::Prepared(of) => {
                let shader = self.end.shader(self.before, some).ok_or("no kernel has this end behind a branch")?;
                let sections = match (self.end, some[0].experts) {
                    (End::Sum { .. }, Some(experts)) => experts.used as u32,
                    _ => 1,
                };
                let mut shape = Shape::new(&self.device.limits, run.format, run.cols, rows, of);
                let kernel =
                    shape.kernel(&self.device.limits, shader, run.format, precise, norm.is_some(), sections)?;
                (kernel, shape.slots(), of)
            }
            Spread::Given(of) => {
                let shader = self.end.few_shader(some, true).ok_or("no kernel for few rows has this end")?;
                let mut shape = Shape::new(&self.device.limits, run.format, run.cols, rows, of);
                (shape.kernel(&self.device.limits, shader, run.format, precise, false, 1)?, shape.slots(), of)
            }
            Spread::Quantised(of) => {
                let shader = self.end.few_shader(some, false).ok_or("no kernel for few rows has this end")?;
                few(self.device, shader, run.format, run.cols, of, precise)?
            }
        };
        if let Some(join) = join {
            let branch = [("BRANCH_NORM", join.norm.is_some()), ("BRANCH_SCALED", join.scale.is_some())];
            kernel = branch.into_iter().fold(kernel, |kernel, (name, on)| kernel.with(name, u32::from(on)));
        }
        let kernel = match some.iter().any(|p| p.bias.is_some()) {
            true => kernel.with("HAS_BIAS", 1),
            false => kernel,
        };
        let groups = params.rows.div_ceil(slots / matrices);
        let limits = &self.device.limits;
        // The state, two views of the weights, the row and the norm come first; the branch and the sum last.
        let bindings = buffers + 5 + if join.is_some() { 2 } else { 0 };
        let has = limits.max_storage_buffers_per_shader_stage;
        if bindings > has {
            return Err(format!("{} binds {bindings} buffers, the device allows {has}", kernel.shader.name));
        }
        if groups > limits.max_compute_workgroups_per_dimension {
            return Err(format!("{} needs {groups} workgroups, more than the device allows", kernel.shader.name));
        }
        Ok(Call { kernel, params, groups, slices: 1, slots, tokens, run, products })
    }
}

/// The matrices of products as runs that are stored behind each other, in order.
fn runs<'a>(plan: &Plan, resources: &'a Resources, products: &[Product]) -> Result<Vec<Run<'a>>, String> {
    let mut runs: Vec<Run<'a>> = Vec::new();
    for product in products {
        let weight = &plan.weights[product.weight.0];
        let [shard] = shards(resources, product.weight) else {
            return Err(format!("'{}' does not fit one binding of the device", weight.name));
        };
        match runs.last_mut() {
            Some(run)
                if run.shard.buffer == shard.buffer
                    && run.shard.first + run.rows.iter().sum::<usize>() == shard.first =>
            {
                run.rows.push(weight.rows);
            }
            _ => runs.push(Run { format: weight.format, shard, cols: weight.cols, rows: vec![weight.rows] }),
        }
    }
    Ok(runs)
}
