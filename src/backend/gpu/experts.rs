//! Products of many rows with the matrices of the experts that they chose. Rows are put into tiles by expert
//! (`wgsl/tiled/expert_tiles.wgsl`), so that a weight is read and unpacked once for all rows of a tile.

use std::collections::HashMap;

use bytemuck::bytes_of;

use super::device::Device;
use super::group::Kernels;
use super::lower::{Dispatch, Grid, Lowering, dispatch, part, shards};
use super::pipelines::Kernel;
use super::tiled;
use crate::backend::BackendError;
use crate::ops;
use crate::plan::{BufferId, Op};
use crate::quant::Format;
use crate::shaders::{EXPERT_TILES, TILED_EXPERT_FLOATS, TILED_EXPERTS, params};

/// Slots of a tile, and how many an expert has on average from which on they are used: fewer rows run one by one.
const SIZES: [(u32, usize); 2] = [(32, 4), (64, 64)];

/// Slots of a tile of plain numbers.
const PLAIN_SIZE: u32 = tiled::MATMUL_ROWS;

/// Most experts that rows are sorted by.
const EXPERTS: usize = 1024;

/// How the slots of a batch become tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tiling {
    pub experts: u32,
    /// Slots of a row.
    pub used: u32,
    /// Most slots of a tile.
    pub size: u32,
}

impl Tiling {
    /// Tiles of so many rows at most, as `most_tiles` in `wgsl/tiled/expert_tiles.wgsl`.
    pub fn most(self, rows: usize) -> u32 {
        let slots = rows as u32 * self.used;
        let chosen = slots.min(self.experts);
        chosen + (slots - chosen) / self.size
    }

    /// Words of these tiles.
    fn words(self, rows: usize) -> u64 {
        u64::from(self.most(rows)) * u64::from(self.size + 2)
    }
}

/// What tiles are made of: the routes, or none where all experts are used; and whether the rows are those whose logits are wanted.
type Source = (Option<BufferId>, bool);

/// The tiles of a plan's steps: steps with the same routes share them.
#[derive(Default)]
pub(super) struct Tiles {
    buffers: HashMap<(Source, Tiling), wgpu::Buffer>,
    /// Those that a step before has made, from routes that were not written since, with the average from which on it does.
    made: Vec<(Source, Tiling, usize)>,
}

impl Tiles {
    /// Behind a step that writes `out`.
    pub fn written(&mut self, out: Option<BufferId>) {
        self.made.retain(|((routes, _), ..)| routes.is_none() || *routes != out);
    }
}

/// The kernel of a product by tiles of so many slots, and how many weight rows a workgroup takes; `None` where a device or a shape has none.
fn kernel(
    device: &Device,
    format: &'static Format,
    shape: [usize; 2],
    precise: bool,
    size: u32,
) -> Option<(Kernel, u32)> {
    let [rows, cols] = shape;
    match format.activation_block() {
        Some(_) => tiled::matmul(device, &TILED_EXPERTS, size, format, rows, precise),
        None => tiled::floats(device, &TILED_EXPERT_FLOATS, format, cols),
    }
}

impl Lowering<'_> {
    /// The kernels of a product with experts for many rows, one by one (`alone`) and in tiles, by how many rows they are for.
    pub fn by_expert(
        &mut self,
        op: &ops::ExpertMatmul,
        alone: &[Dispatch],
        tiles: &mut Tiles,
    ) -> Result<Kernels, BackendError> {
        let (used, experts) = (op.used(&self.plan.shapes()), op.experts);
        let plain = self.plan.weights[op.weight.0].format.activation_block().is_none();
        let first = |each: usize| (each * experts).div_ceil(used);
        let mut all = vec![(first(SIZES[0].1) - 1, alone.to_vec())];
        for (i, (size, each)) in SIZES.into_iter().enumerate() {
            // Steps that share tiles have the same ranges of rows, whatever sizes fit the device.
            let most = SIZES.get(i + 1).map_or(usize::MAX, |next| first(next.1) - 1);
            let mut made = None;
            for size in if plain { [PLAIN_SIZE; 2] } else { [size, SIZES[0].0] } {
                if made.is_none() {
                    let tiling = Tiling { experts: experts as u32, used: used as u32, size };
                    made = self.in_tiles(op, tiling, each, tiles)?;
                }
            }
            all.push((most, made.unwrap_or_else(|| alone.to_vec())));
        }
        Ok(Kernels::Few(all))
    }

    /// The dispatches of a product in tiles where experts have `each` slots and more, the first of which makes the tiles where no step before
    /// did; `None` where there is no kernel.
    fn in_tiles(
        &mut self,
        op: &ops::ExpertMatmul,
        tiling: Tiling,
        each: usize,
        tiles: &mut Tiles,
    ) -> Result<Option<Vec<Dispatch>>, BackendError> {
        let (plan, r) = (self.plan, self.resources);
        let shapes = plan.shapes();
        let w = &plan.weights[op.weight.0];
        let (rows, most) = (op.rows(&shapes), tiling.most(r.sizes.batch));
        let limits = &self.device.limits;
        let precise = op.is_precise(&shapes);
        let Some((kernel, width)) = kernel(self.device, w.format, [rows, w.cols], precise, tiling.size) else {
            return Ok(None);
        };
        if op.experts > EXPERTS
            || most > limits.max_compute_workgroups_per_dimension
            || 4 * tiling.words(r.sizes.batch) > limits.max_storage_buffer_binding_size
            || !Kernel::new(&EXPERT_TILES).fits(limits)
        {
            return Ok(None);
        }
        let (list, make) = self.tiles(op, tiling, each, tiles)?;
        let mut all: Vec<_> = make.into_iter().collect();
        let (weight, op) = (op.weight, Op::ExpertMatmul(op.clone()));
        for shard in shards(r, weight) {
            let call = op.call(&shapes, r.sizes.context, &part(shard));
            let mut buffers = self.bound(&call, &shard.buffer);
            buffers[5] = &list;
            let grid = Grid::Chosen { x: (rows as u32).div_ceil(width), tiling };
            all.push(dispatch(self.device, kernel.clone(), self.state(&op), &call.params, grid, &buffers)?);
        }
        Ok(Some(all))
    }

    /// The buffer of the tiles that a product reads, and the dispatch that makes them where no step before did.
    fn tiles(
        &mut self,
        op: &ops::ExpertMatmul,
        tiling: Tiling,
        each: usize,
        tiles: &mut Tiles,
    ) -> Result<(wgpu::Buffer, Option<Dispatch>), BackendError> {
        let wanted = self.plan.buffers[op.out.0].wanted;
        let source = (op.routes, wanted);
        let list = match tiles.buffers.get(&(source, tiling)) {
            Some(list) => list.clone(),
            None => {
                let list = self.device.storage("tiles of experts", 4 * tiling.words(self.resources.sizes.batch))?;
                tiles.buffers.insert((source, tiling), list.clone());
                list
            }
        };
        if tiles.made.contains(&(source, tiling, each)) {
            return Ok((list, None));
        }
        tiles.made.push((source, tiling, each));
        let Tiling { experts, used, size } = tiling;
        let p = params::ExpertTiles { experts, used, size, all: u32::from(op.routes.is_none()) };
        let routes = op.routes.map_or(&self.resources.none, |routes| &self.rows[routes.0]);
        let (kernel, state) = (Kernel::new(&EXPERT_TILES), self.states[usize::from(wanted)]);
        let make = dispatch(self.device, kernel, state, bytes_of(&p), Grid::Fixed([experts, 1]), &[routes, &list])?;
        Ok((list, Some(make)))
    }
}
