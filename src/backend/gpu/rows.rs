//! Kernels of single tokens that are no products: heads on their way to attention, and branches on their way back to the stream.

use bytemuck::bytes_of;

use super::attend::ring;
use super::device::Device;
use super::fused::Making;
use super::group::Kernels;
use super::lower::{Grid, vector};
use super::piece::{HeadSteps, JoinSteps, Piece};
use super::pipelines::Kernel;
use crate::backend::BackendError;
use crate::plan::Plan;
use crate::shaders::{HEADS, JOIN, params};

/// Buffers that the kernel of heads binds, the state among them.
const HEADS_BUFFERS: u32 = 9;

/// The kernel of heads, or why a device has none.
pub(super) fn heads_kernel(device: &Device, plan: &Plan, h: &HeadSteps) -> Result<Kernel, String> {
    let has = device.limits.max_storage_buffers_per_shader_stage;
    if has < HEADS_BUFFERS {
        return Err(format!("heads binds {HEADS_BUFFERS} buffers, the device allows {has}"));
    }
    let spec = plan.caches[h.cache.0];
    let threads = (spec.head_dim as u32).next_multiple_of(32).max(64);
    let kernel = Kernel::new(&HEADS)
        .with("THREADS", threads)
        .with("NORM", u32::from(h.norms.is_some()))
        .with("RING", ring(spec));
    kernel.on(&device.limits)
}

/// The kernel that brings a branch back to the stream, or why a device has none.
pub(super) fn join_kernel(device: &Device, plan: &Plan, join: &JoinSteps) -> Result<Kernel, String> {
    let kernel = Kernel::new(&JOIN)
        .with("WIDTH", plan.buffers[join.x.0].width as u32)
        .with("NORM", u32::from(join.norm.is_some()))
        .with("SCALED", u32::from(join.scale.is_some()));
    match kernel.fits(&device.limits) {
        true => Ok(kernel),
        false => Err("join needs more workgroup memory than the device has".to_owned()),
    }
}

impl Making<'_, '_> {
    pub(super) fn heads(&mut self, piece: &Piece, h: &HeadSteps) -> Result<(), BackendError> {
        let [q, k, v] = [self.read_row(h.q)?, self.read_row(h.k)?, self.read_row(h.v)?];
        let (plan, r) = (self.fusing.plan, self.fusing.resources);
        let spec = plan.caches[h.cache.0];
        let norms = match h.norms {
            None => r.none.clone(),
            Some(norms) => {
                let values = |id: usize| r.vectors.get(&id).cloned().unwrap_or_default();
                let all: Vec<f32> = norms.iter().flat_map(|norm| values(norm.weight.0)).collect();
                self.fusing.device.upload("norms of heads", bytemuck::cast_slice(&all))?
            }
        };
        let eps = |i: usize| h.norms.map_or(0.0, |norms| norms[i].eps);
        let table = h.rope.map_or(&r.none, |(angles, _)| &r.angles[angles.0]);
        let p = params::Heads {
            heads: (self.width(h.q) / spec.head_dim) as u32,
            kv_heads: spec.kv_heads as u32,
            head_dim: spec.head_dim as u32,
            pairs: h.rope.map_or(0, |(angles, _)| plan.angles[angles.0].frequencies.len() as u32),
            neox: h.rope.map_or(0, |(_, neox)| u32::from(neox)),
            q_eps: eps(0),
            k_eps: eps(1),
            inverse_width: 1.0 / spec.head_dim as f32,
        };
        // The queries go to another row, as they are read here.
        let name = format!("token {}", plan.buffers[h.out.0].name);
        let out = self.fusing.device.storage(&name, 4 * self.width(h.out) as u64)?;
        self.replace_row(h.out, out.clone());
        let kernel = self.made(heads_kernel(self.fusing.device, plan, h))?;
        let [k_cache, v_cache] = &r.caches[h.cache.0];
        let grid = Grid::Fixed([p.heads + 2 * p.kv_heads, 1]);
        let buffers = [&q, &k, &v, &norms, table, &out, k_cache, v_cache];
        let dispatch = self.fusing.dispatch(kernel, bytes_of(&p), grid, &buffers)?;
        self.push(piece, Kernels::Fixed(vec![dispatch]));
        Ok(())
    }

    pub(super) fn join(&mut self, piece: &Piece, j: &JoinSteps) -> Result<(), BackendError> {
        let branch = self.read_row(j.branch)?;
        self.read_items(j.x)?;
        let x = self.write_items(j.x)?;
        let (plan, r) = (self.fusing.plan, self.fusing.resources);
        let kernel = self.made(join_kernel(self.fusing.device, plan, j))?;
        let width = self.width(j.x);
        let p = params::Join {
            width: width as u32,
            eps: j.norm.map_or(0.0, |n| n.eps),
            inverse_width: 1.0 / width as f32,
            scale: j.scale.unwrap_or(1.0),
        };
        let weight = j.norm.map_or(&r.none, |n| vector(r, n.weight));
        let dispatch = self.fusing.dispatch(kernel, bytes_of(&p), Grid::Fixed([1, 1]), &[&branch, weight, &x])?;
        self.push(piece, Kernels::Fixed(vec![dispatch]));
        Ok(())
    }
}
