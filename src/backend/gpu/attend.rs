//! Attention of a single token: one kernel over a short cache, two over a long one.

use bytemuck::bytes_of;

use super::device::Device;
use super::fused::Fusing;
use super::group::Kernels;
use super::lower::Grid;
use super::pipelines::Kernel;
use crate::backend::BackendError;
use crate::ops;
use crate::plan::{CacheId, CacheSpec, Op, Plan};
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

    fn kernel(self, shader: &'static Shader, head_dim: u32) -> Kernel {
        Kernel::new(shader).with("HEAD_DIM", head_dim).with("TILES", self.tiles).with("PART", self.dimensions)
    }
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

/// The kernels over a long cache, where the device has room for them.
fn long(device: &Device, heads: usize, CacheSpec { kv_heads, head_dim }: CacheSpec) -> Option<(Kernel, Values)> {
    let (limits, head_dim) = (&device.limits, head_dim as u32);
    let scores = Kernel::new(&ATTEND_SCORES).with("HEAD_DIM", head_dim).with("GROUP", (heads / kv_heads) as u32);
    let values = Values::LONG.into_iter().find(|v| v.kernel(&ATTEND_VALUES, head_dim).fits(limits))?;
    scores.fits(limits).then_some((scores, values))
}

/// Whether a device has the kernels of an attention step, or why not. The shapes fit.
pub(super) fn fits(device: &Device, heads: usize, spec: CacheSpec) -> Result<(), String> {
    match long(device, heads, spec) {
        Some(_) => Ok(()),
        None => Err("attention needs more workgroup memory than the device has".to_owned()),
    }
}

/// The kernels of an attention step, which reads a row `q` in order and writes `out` in the layout of items.
pub(super) fn kernels(
    f: &mut Fusing<'_>,
    scratch: &mut Option<Scratch>,
    heads: usize,
    cache: CacheId,
    [q, out]: [&wgpu::Buffer; 2],
) -> Result<Kernels, BackendError> {
    let (plan, resources, spec) = (f.plan, f.resources, f.plan.caches[cache.0]);
    let Some((scores, long)) = long(f.device, heads, spec) else {
        return Err(BackendError::Unsupported {
            device: f.device.info.name.clone(),
            what: "fused attention".to_owned(),
        });
    };
    let Scratch { scores: kept, tops } = match scratch {
        Some(scratch) => scratch,
        None => scratch.insert(Scratch::new(f.device, plan, resources.sizes.context)?),
    };
    let CacheSpec { kv_heads, head_dim } = spec;
    let context = resources.sizes.context.next_multiple_of(32) as u32;
    let scale = ops::attention::Params::new(heads, kv_heads, head_dim, 0).scale;
    let (heads, kv_heads, head_dim) = (heads as u32, kv_heads as u32, head_dim as u32);
    let items = heads * head_dim / 16;
    let [k, v] = &resources.caches[cache.0];

    let mut short = Vec::new();
    let p = params::Attend { heads, kv_heads, scale, items, blocks: head_dim / 32 };
    for values in Values::SHORT {
        let grid = Grid::Fixed([heads, head_dim / values.dimensions]);
        let kernel = values.kernel(&ATTEND, head_dim);
        if kernel.fits(&f.device.limits) {
            short.push((32 * values.tiles as usize, f.dispatch(kernel, bytes_of(&p), grid, &[q, k, v, out])?));
        }
    }

    let p = params::AttendScores { heads, kv_heads, context, scale };
    let scores = f.dispatch(scores, bytes_of(&p), Grid::Tiles(kv_heads), &[q, k, kept, tops])?;
    let p = params::AttendValues { heads, kv_heads, context, scale, items };
    let grid = Grid::Fixed([heads, head_dim / long.dimensions]);
    let values = f.dispatch(long.kernel(&ATTEND_VALUES, head_dim), bytes_of(&p), grid, &[kept, tops, v, out])?;
    Ok(Kernels::Attention { short, long: vec![scores, values] })
}
