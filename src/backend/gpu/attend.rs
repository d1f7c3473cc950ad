//! Attention of a single token: one kernel over a short cache, two over a long one.

use bytemuck::bytes_of;

use super::device::Device;
use super::fused::Fusing;
use super::group::Kernels;
use super::lower::{Dispatch, Grid, Lowering, dispatch, vector};
use super::piece::AttentionSteps;
use super::pipelines::Kernel;
use crate::backend::BackendError;
use crate::ops;
use crate::ops::attention::Scoring;
use crate::plan::{CacheSpec, Op, Plan};
use crate::shaders::{ATTEND, ATTEND_SCORES, ATTEND_VALUES, Shader, params};

/// How `wgsl/lib/values.wgsl` spreads the values of a head: a workgroup takes so many dimensions, and so many tiles of 32
/// positions at a time.
#[derive(Clone, Copy)]
struct Values {
    tiles: u32,
    dimensions: u32,
}

impl Values {
    /// Over a short cache: all its tiles at once, so more of them as the cache grows.
    const SHORT: [Self; 4] = [
        Self { tiles: 8, dimensions: 32 },
        Self { tiles: 16, dimensions: 32 },
        Self { tiles: 32, dimensions: 32 },
        Self { tiles: 64, dimensions: 16 },
    ];

    /// Over a long one: the first that the device has room for.
    const LONG: [Self; 3] =
        [Self { tiles: 32, dimensions: 16 }, Self { tiles: 16, dimensions: 16 }, Self { tiles: 8, dimensions: 16 }];

    fn kernel(self, shader: &'static Shader, spec: CacheSpec, scoring: Scoring) -> Kernel {
        heads_kernel(shader, spec, scoring).with("TILES", self.tiles).with("PART", self.dimensions)
    }
}

/// The tiles of a cache that take turns, as `wgsl/lib/cache.wgsl` has them: 0 where none do.
pub(super) fn ring(spec: CacheSpec) -> u32 {
    spec.ring.map_or(0, |tiles| tiles as u32)
}

/// A kernel over heads of a cache (`wgsl/lib/heads.wgsl`).
pub(super) fn heads_kernel(shader: &'static Shader, spec: CacheSpec, scoring: Scoring) -> Kernel {
    Kernel::new(shader)
        .with("HEAD_DIM", spec.head_dim as u32)
        .with("RING", ring(spec))
        .with("WINDOW", spec.window.map_or(0, |window| u32::try_from(window).unwrap_or(0)))
        .with("CAPPED", u32::from(scoring.cap.is_some()))
        .with("SINKS", u32::from(scoring.sinks.is_some()))
}

/// What attention over a long cache keeps between its dispatches: scores `[head][position]` and their largest `[head][tile]`.
pub(super) struct Scratch {
    scores: wgpu::Buffer,
    tops: wgpu::Buffer,
}

impl Scratch {
    /// For every attention of a plan.
    fn new(device: &Device, plan: &Plan, context: usize) -> Result<Self, BackendError> {
        let heads =
            plan.steps.iter().map(|s| if let Op::Attention(ops::Attention { heads, .. }) = s.op { heads } else { 0 });
        let (heads, tiles) = (heads.max().unwrap_or(0), context.div_ceil(32));
        let scores = device.storage("token scores", (4 * heads * tiles * 32) as u64)?;
        Ok(Self { scores, tops: device.storage("token tops", (4 * heads * tiles) as u64)? })
    }
}

/// The kernels over a long cache, where the device has room for them, and the query heads of a workgroup of the first.
fn long(device: &Device, plan: &Plan, op: &ops::Attention) -> Option<(Kernel, u32, Values)> {
    let (limits, spec) = (&device.limits, plan.caches[op.cache.0]);
    let scores = heads_kernel(&ATTEND_SCORES, spec, op.scoring);
    let shared = (op.heads / spec.kv_heads) as u32;
    let groups = (1..=shared).rev().filter(|group| shared.is_multiple_of(*group));
    let mut ways = groups.flat_map(|group| [0, 1].map(|halves| (group, halves)));
    let (scores, group) = ways.find_map(|(group, halves)| {
        let kernel = scores.clone().with("GROUP", group).with("HALVES", halves);
        kernel.fits(limits).then_some((kernel, group))
    })?;
    let values = Values::LONG.into_iter().find(|v| v.kernel(&ATTEND_VALUES, spec, op.scoring).fits(limits))?;
    Some((scores, group, values))
}

/// Whether a device has the kernels of an attention step, or why not. The shapes fit.
pub(super) fn fits(device: &Device, plan: &Plan, op: &ops::Attention) -> Result<(), String> {
    match long(device, plan, op) {
        Some(_) => Ok(()),
        None => Err("attention needs more workgroup memory than the device has".to_owned()),
    }
}

/// The kernels of attention of a few rows: one over a short cache, `long` over a longer one.
pub(super) fn few(l: &mut Lowering<'_>, steps: &AttentionSteps, long: Vec<Dispatch>) -> Result<Kernels, BackendError> {
    let (op, r, spec) = (&steps.op, l.resources, l.plan.caches[steps.op.cache.0]);
    let [k, v] = &r.caches[op.cache.0];
    let sinks = op.scoring.sinks.map_or(&r.none, |id| vector(r, id));
    let buffers = [&l.rows[op.q.0], k, v, sinks, &l.rows[steps.out.0]];
    let limits = l.device.limits.clone();
    let short = short(&limits, l.plan, steps, |kernel, p, groups| {
        let kernel = kernel.with("IN_ORDER", 1);
        dispatch(l.device, kernel, l.states[0], bytes_of(&p), Grid::Each(groups), &buffers)
    })?;
    Ok(Kernels::Attention { spec, short, long })
}

/// The kernels over a short cache that the device takes, with the most positions of each; `make` dispatches them in so many workgroups.
fn short(
    limits: &wgpu::Limits,
    plan: &Plan,
    steps: &AttentionSteps,
    mut make: impl FnMut(Kernel, params::Attend, [u32; 2]) -> Result<Dispatch, BackendError>,
) -> Result<Vec<(usize, Dispatch)>, BackendError> {
    let op = &steps.op;
    let ops::attention::Params { heads, kv_heads, head_dim, scale, cap, .. } = op.params(&plan.shapes(), 0);
    let left = steps.values as u32;
    let p = params::Attend { heads, kv_heads, scale, cap, items: heads * left / 16, blocks: head_dim / 32 };
    let mut short = Vec::new();
    for values in Values::SHORT {
        let kernel = values.kernel(&ATTEND, plan.caches[op.cache.0], op.scoring).with("VALUES", left);
        if kernel.fits(limits) {
            short.push((32 * values.tiles as usize, make(kernel, p, [heads, left / values.dimensions])?));
        }
    }
    Ok(short)
}

/// The kernels of an attention step, which reads a row `q` in order and writes `out` in the layout of items.
pub(super) fn kernels(
    f: &mut Fusing<'_>,
    scratch: &mut Option<Scratch>,
    steps: &AttentionSteps,
    [q, out]: [&wgpu::Buffer; 2],
) -> Result<Kernels, BackendError> {
    let (op, left) = (&steps.op, steps.values as u32);
    let (plan, resources, spec, scoring) = (f.plan, f.resources, f.plan.caches[op.cache.0], op.scoring);
    let Some((scores, group, long)) = long(f.device, plan, op) else {
        return Err(BackendError::Unsupported {
            device: f.device.info.name.clone(),
            what: "fused attention".to_owned(),
        });
    };
    let Scratch { scores: kept, tops } = match scratch {
        Some(scratch) => scratch,
        None => scratch.insert(Scratch::new(f.device, plan, resources.sizes.context)?),
    };
    let context = resources.sizes.context.next_multiple_of(32) as u32;
    let ops::attention::Params { heads, kv_heads, scale, cap, .. } = op.params(&plan.shapes(), 0);
    let items = heads * left / 16;
    let [k, v] = &resources.caches[op.cache.0];
    let sinks = scoring.sinks.map_or(&resources.none, |id| vector(resources, id));

    let limits = f.device.limits.clone();
    let short = short(&limits, plan, steps, |kernel, p, groups| {
        f.dispatch(kernel, bytes_of(&p), Grid::Fixed(groups), &[q, k, v, sinks, out])
    })?;
    let p = params::AttendScores { heads, kv_heads, context, scale, cap };
    let scores = f.dispatch(scores, bytes_of(&p), Grid::Tiles { spec, y: heads / group }, &[q, k, kept, tops])?;
    let p = params::AttendValues { heads, kv_heads, context, items };
    let grid = Grid::Fixed([heads, left / long.dimensions]);
    let kernel = long.kernel(&ATTEND_VALUES, spec, scoring).with("VALUES", left);
    let values = f.dispatch(kernel, bytes_of(&p), grid, &[kept, tops, v, sinks, out])?;
    Ok(Kernels::Attention { spec, short, long: vec![scores, values] })
}
