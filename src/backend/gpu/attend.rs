//! Attention of a single token: one kernel over a short cache, two over a long one.

use bytemuck::bytes_of;

use super::fused::{Fusing, Kernels, Made, Rows};
use super::lower::{Grid, dispatch};
use super::pipelines::Kernel;
use crate::ops::{self, Shader};
use crate::plan::{CacheSpec, Op};

macro_rules! attention {
    ($id:ident, $name:literal) => {
        pub(super) static $id: Shader =
            Shader { name: $name, wgsl: include_str!(concat!("../../../wgsl/fused/", $name, ".wgsl")) };
    };
}
attention!(ATTEND, "attend");
attention!(ATTEND_SCORES, "attend_scores");
attention!(ATTEND_VALUES, "attend_values");

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

    /// Whether a device has the threads, and the workgroup memory with `more` words beside these.
    fn fits(self, limits: &wgpu::Limits, more: u32) -> bool {
        let Self { tiles, dimensions } = self;
        let words = tiles * (32 + 8 * dimensions + 8 + dimensions + 1) + 8 * dimensions + 9;
        tiles * dimensions <= limits.max_compute_invocations_per_workgroup
            && 4 * (words + more) <= limits.max_compute_workgroup_storage_size
    }

    fn kernel(self, shader: &'static Shader, head_dim: u32) -> Kernel {
        let Self { tiles, dimensions } = self;
        kernel(shader, tiles * dimensions, head_dim)
            .with("TILES", tiles)
            .with("PART", dimensions)
            .with("POSITIONS", 32 * tiles)
            .with("INNER", 2 * tiles * dimensions)
            .with("INNER_WEIGHTS", 8 * tiles)
            .with("TERMS", tiles * dimensions)
            .with("OUTER", 8 * dimensions)
    }
}

fn kernel(shader: &'static Shader, threads: u32, head_dim: u32) -> Kernel {
    Kernel::new(shader).with("THREADS", threads).with("HEAD_DIM", head_dim).with("QUADS", head_dim / 4)
}

impl Fusing<'_> {
    /// The kernels of an attention step, or why there are none.
    pub(super) fn attention(&mut self, rows: &Rows, op: &Op) -> Made<Kernels> {
        let Op::Attention { heads, cache, .. } = *op else {
            return Ok(Err("the step is no attention".to_owned()));
        };
        let CacheSpec { kv_heads, head_dim } = self.plan.caches[cache.0];
        let limits = self.device.limits.clone();
        let context = self.resources.sizes.context.next_multiple_of(32) as u32;
        let scale = ops::attention::Params::new(heads, kv_heads, head_dim, 0).scale.to_bits();
        let (heads, kv_heads, head_dim) = (heads as u32, kv_heads as u32, head_dim as u32);
        let (group, items) = (heads / kv_heads, heads * head_dim / 16);
        let keys = group * head_dim + 32 * (head_dim + 4) + group;
        let long = Values::LONG.into_iter().find(|v| v.fits(&limits, 0));
        if !head_dim.is_multiple_of(32) || head_dim > 256 {
            return Ok(Err(format!("the head size is {head_dim}, no multiple of 32 up to 256")));
        }
        let (Some(long), true) = (long, 4 * keys <= limits.max_compute_workgroup_storage_size) else {
            return Ok(Err("attention needs more workgroup memory than the device has".to_owned()));
        };
        let [k, v] = &self.resources.caches[cache.0];

        let mut short = Vec::new();
        let p = [heads, kv_heads, scale, items, head_dim / 32, 0, 0, 0];
        for values in Values::SHORT.into_iter().filter(|v| v.fits(&limits, head_dim)) {
            let grid = Grid::Fixed([heads, head_dim / values.dimensions]);
            let buffers = [&rows.q, k, v, &rows.attention];
            let kernel = values.kernel(&ATTEND, head_dim);
            let dispatch = dispatch(self.device, kernel, self.states, bytes_of(&p), grid, &buffers)?;
            short.push((32 * values.tiles as usize, dispatch));
        }

        let p = [heads, kv_heads, context, scale, items, 0, 0, 0];
        let scores = kernel(&ATTEND_SCORES, 256, head_dim)
            .with("QUERIES", group * head_dim / 4)
            .with("GROUP", group)
            .with("KEYS", 32 * (head_dim / 4 + 1));
        let buffers = [&rows.q, k, &rows.scores, &rows.tops];
        let scores = dispatch(self.device, scores, self.states, bytes_of(&p), Grid::Tiles(kv_heads), &buffers)?;
        let grid = Grid::Fixed([heads, head_dim / long.dimensions]);
        let buffers = [&rows.scores, &rows.tops, v, &rows.attention];
        let values = long.kernel(&ATTEND_VALUES, head_dim);
        let values = dispatch(self.device, values, self.states, bytes_of(&p), grid, &buffers)?;
        Ok(Ok(Kernels::Attention { short, long: [scores, values] }))
    }
}
