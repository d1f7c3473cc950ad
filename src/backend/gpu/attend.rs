//! Attention of a single token: one kernel over a short cache, two over a long one.

use bytemuck::bytes_of;

use super::fused::{Fusing, Kernels, Made, Rows};
use super::lower::{Grid, dispatch};
use super::pipelines::Kernel;
use crate::ops;
use crate::plan::{CacheSpec, Op};
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

impl Fusing<'_> {
    /// The kernels of an attention step, or why there are none.
    pub(super) fn attention(&mut self, rows: &Rows, op: &Op) -> Made<Kernels> {
        let Op::Attention { heads, cache, .. } = *op else {
            return Ok(Err("the step is no attention".to_owned()));
        };
        let CacheSpec { kv_heads, head_dim } = self.plan.caches[cache.0];
        let limits = self.device.limits.clone();
        let context = self.resources.sizes.context.next_multiple_of(32) as u32;
        let scale = ops::attention::Params::new(heads, kv_heads, head_dim, 0).scale;
        let (heads, kv_heads, head_dim) = (heads as u32, kv_heads as u32, head_dim as u32);
        let (group, items) = (heads / kv_heads, heads * head_dim / 16);
        let scores = Kernel::new(&ATTEND_SCORES).with("HEAD_DIM", head_dim).with("GROUP", group);
        let long = Values::LONG.into_iter().find(|v| v.kernel(&ATTEND_VALUES, head_dim).fits(&limits));
        if !head_dim.is_multiple_of(32) || head_dim > 256 {
            return Ok(Err(format!("the head size is {head_dim}, no multiple of 32 up to 256")));
        }
        let (Some(long), true) = (long, scores.fits(&limits)) else {
            return Ok(Err("attention needs more workgroup memory than the device has".to_owned()));
        };
        let [k, v] = &self.resources.caches[cache.0];

        let mut short = Vec::new();
        let p = params::Attend { heads, kv_heads, scale, items, blocks: head_dim / 32 };
        for values in Values::SHORT {
            let grid = Grid::Fixed([heads, head_dim / values.dimensions]);
            let buffers = [&rows.q, k, v, &rows.attention];
            let kernel = values.kernel(&ATTEND, head_dim);
            if !kernel.fits(&limits) {
                continue;
            }
            let dispatch = dispatch(self.device, kernel, self.states, bytes_of(&p), grid, &buffers)?;
            short.push((32 * values.tiles as usize, dispatch));
        }

        let p = params::AttendScores { heads, kv_heads, context, scale };
        let buffers = [&rows.q, k, &rows.scores, &rows.tops];
        let scores = dispatch(self.device, scores, self.states, bytes_of(&p), Grid::Tiles(kv_heads), &buffers)?;
        let p = params::AttendValues { heads, kv_heads, context, scale, items };
        let grid = Grid::Fixed([heads, head_dim / long.dimensions]);
        let buffers = [&rows.scores, &rows.tops, v, &rows.attention];
        let values = long.kernel(&ATTEND_VALUES, head_dim);
        let values = dispatch(self.device, values, self.states, bytes_of(&p), grid, &buffers)?;
        Ok(Ok(Kernels::Attention { short, long: [scores, values] }))
    }
}
