//! Products of some rows, more than a few and fewer than many, with large matrices on the device's matrix units. Unpacking such a matrix
//! before it is multiplied would take longer than the product, so workgroups unpack what they multiply.

use bytemuck::bytes_of;

use super::device::{Device, MatrixUnits};
use super::lower::{Dispatch, Grid, Lowering, dispatch, part, shards, vector};
use super::matrix::Units;
use super::pipelines::Kernel;
use crate::backend::BackendError;
use crate::numerics::Precision;
use crate::ops::Matmul;
use crate::plan::{Op, Plan};
use crate::shaders::{TILED_LANES, params};

/// Numbers of activation rows up to which products are spread alike. More are multiplied by other kernels (docs/lab/performance.md).
const MOST: [usize; 3] = [64, 128, 256];

/// Columns from which on a matrix is large: for smaller ones other kernels are faster (docs/lab/performance.md).
const MIN_COLS: usize = 4096;

/// Threads that a product should have on a large GPU: where its tiles have fewer, the lanes of S8 are dealt to several workgroups.
const FILL: usize = 96 << 10;

/// The units that multiply some rows with the matrix of a product.
pub(super) fn units(device: &Device, plan: &Plan, op: &Matmul) -> Option<(MatrixUnits, Units)> {
    let (units, weight) = (device.matrix_units?, &plan.weights[op.weight.0]);
    let how = Units::new(weight.format)?;
    let fits = Kernel::new(units.unpacking().0).fits(&device.limits) && weight.rows.is_multiple_of(4);
    (plan.precision == Precision::Fast && weight.cols >= MIN_COLS && fits).then_some((units, how))
}

/// Workgroups that share the lanes of a tile: 1, 2, 4 or 8.
fn parts(units: MatrixUnits, tokens: usize, rows: usize) -> usize {
    let (_, [tile_tokens, tile_rows]) = units.unpacking();
    let threads = tokens.div_ceil(tile_tokens) * rows.div_ceil(tile_rows) * tile_tokens * tile_rows / 32;
    [1, 2, 4].into_iter().find(|parts| threads * parts >= FILL).unwrap_or(8)
}

/// Those of [`MOST`] that batches reach.
fn steps(batch: usize) -> impl Iterator<Item = usize> {
    MOST.into_iter().filter(move |most| most / 2 < batch)
}

/// Words for the sums of lanes of any product of a plan.
pub(super) fn lane_words(device: &Device, plan: &Plan, batch: usize) -> usize {
    let words = |op: &Matmul| {
        let (units, _) = units(device, plan, op)?;
        let rows = plan.weights[op.weight.0].rows;
        steps(batch).map(|most| parts(units, most, rows) * most.min(batch.next_multiple_of(64)) * rows).max()
    };
    let all = plan.steps.iter().filter_map(|step| if let Op::Matmul(op) = &step.op { words(op) } else { None });
    all.max().unwrap_or(0).max(4)
}

impl Lowering<'_> {
    /// The dispatches of a product of some rows on matrix units, with the most rows that each takes; none where it is not made there.
    pub fn on_units(&mut self, op: &Op) -> Result<Vec<(usize, Vec<Dispatch>)>, BackendError> {
        let Op::Matmul(product) = op else { return Ok(Vec::new()) };
        let (plan, r, shapes) = (self.plan, self.resources, self.plan.shapes());
        let (Some((units, how)), Some((x, places))) =
            (units(self.device, plan, product), r.halves.activations(product.x))
        else {
            return Ok(Vec::new());
        };
        let (state, out) = (self.state(op), &self.rows[product.out.0]);
        let bias = product.bias.map_or(&r.none, |b| vector(r, b));
        let (shader, [tile_tokens, tile_rows]) = units.unpacking();
        let width = plan.weights[product.weight.0].rows;
        let mut all = Vec::new();
        for most in steps(r.sizes.batch) {
            let parts = parts(units, most, width);
            let to = if parts == 1 { out } else { &r.lanes };
            let kernel = Kernel::new(shader)
                .format(plan.weights[product.weight.0].format)
                .with("LANES", 8 / parts as u32)
                .with("PLANES", how.planes as u32)
                .with("SUMS", if how.twice { 2 } else { how.planes as u32 });
            let part_places = most.min(places) as u32;
            let mut dispatches = Vec::new();
            for shard in shards(r, product.weight) {
                let p = product.params(&shapes, &part(shard));
                if !p.row_base.is_multiple_of(4) || !p.rows.is_multiple_of(4) {
                    return Ok(Vec::new());
                }
                let grid = Grid::Rows { x: p.rows.div_ceil(tile_rows as u32) * parts as u32, each: tile_tokens as u32 };
                let p = params::Units {
                    streams: p.streams,
                    first: p.first,
                    blocks: p.blocks,
                    rows: p.rows,
                    x_places: places as u32,
                    part_places,
                    row_base: p.row_base,
                    out_width: p.out_width,
                    has_bias: p.has_bias,
                };
                let buffers = [&shard.buffer, &shard.buffer, x, x, bias, to];
                dispatches.push(dispatch(self.device, kernel.clone(), state, bytes_of(&p), grid, &buffers)?);
            }
            if parts > 1 {
                let has_bias = u32::from(product.bias.is_some());
                let p = params::TiledLanes { parts: parts as u32, places: part_places, width: width as u32, has_bias };
                let grid = Grid::Rows { x: width.div_ceil(256) as u32, each: 1 };
                let buffers = [to, bias, out];
                dispatches.push(dispatch(self.device, Kernel::new(&TILED_LANES), state, bytes_of(&p), grid, &buffers)?);
            }
            all.push((most, dispatches));
        }
        Ok(all)
    }
}
