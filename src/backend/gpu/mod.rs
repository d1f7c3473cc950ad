//! The GPU backend: wgpu on Vulkan, Metal or DX12.

pub mod device;
mod lower;
pub mod weights;

pub use device::{Api, Choice, Device, Kernel, adapters, api_name, is_software};

use lower::{Lowered, Lowering, Resident, Resources};

use super::{Backend, BackendError, Batch, Listener, Sizes};
use crate::model::Model;
use crate::ops;
use crate::plan::{BufferId, BufferKind, Op, Plan, Step};

/// What every kernel reads first; the twin of `State` in `wgsl/lib/numerics.wgsl`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, bytemuck::Pod, bytemuck::Zeroable)]
struct State {
    zero: u32,
    position: u32,
    row0: u32,
    rows: u32,
}

/// Runs plans on a GPU.
pub struct Gpu {
    device: Device,
    plan: Plan,
    resources: Resources,
    body: Vec<Lowered>,
    head: Vec<Lowered>,
    staging: wgpu::Buffer,
    logits: Vec<f32>,
}

impl Gpu {
    /// Uploads the model and compiles the plan; `progress` hears bytes of the file as they are uploaded.
    ///
    /// The batch of `sizes` is reduced where the device cannot bind the attention scores of so many rows.
    pub fn new(
        mut device: Device,
        model: &Model,
        plan: Plan,
        mut sizes: Sizes,
        progress: &mut dyn FnMut(u64),
    ) -> Result<Self, BackendError> {
        let heads = plan.steps().map(|s| if let Op::Attention { heads, .. } = s.op { heads } else { 1 }).max();
        let scores_per_row = heads.unwrap_or(1) * sizes.context * 4;
        let limit = device.limits.max_storage_buffer_binding_size as usize;
        sizes.batch = sizes.batch.min(limit / scores_per_row).max(1);
        sizes.logits_rows = sizes.logits_rows.min(sizes.batch);
        let resources = allocate(&device, model, &plan, sizes, progress)?;
        let lower = |device: &mut Device, steps: &[Step], head| {
            let mut lowering = Lowering { device, plan: &plan, resources: &resources };
            steps.iter().map(|s| lowering.lower(s, head)).collect::<Result<Vec<_>, _>>()
        };
        let body = lower(&mut device, &plan.body, false)?;
        let head = lower(&mut device, &plan.head, true)?;
        let logits = vec![0.0; sizes.logits_rows * plan.vocabulary()];
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        let staging = device.buffer("logits staging", logits.len() as u64 * 4, usage)?;
        device.check()?;
        Ok(Self { device, plan, resources, body, head, staging, logits })
    }

    /// Kernel launches for one token.
    pub fn dispatches_per_token(&self) -> usize {
        self.body.iter().chain(&self.head).map(|l| l.dispatches.len()).sum()
    }

    fn encode(&self, encoder: &mut wgpu::CommandEncoder, steps: &[Lowered], rows: usize) {
        if rows == 0 {
            return;
        }
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for dispatch in steps.iter().flat_map(|l| &l.dispatches) {
            pass.set_pipeline(&dispatch.pipeline.pipeline);
            pass.set_bind_group(0, &dispatch.bindings, &[]);
            pass.dispatch_workgroups(dispatch.groups_x, rows as u32, 1);
        }
    }

    /// Runs each step alone and tells the listener its output.
    fn run_listened(&self, batch: &Batch<'_>, listener: Listener<'_>) -> Result<(), BackendError> {
        let n = batch.ids.len();
        let (row0, rows) = batch.logits.range(n);
        for (steps, first, rows) in [(&self.body, 0, n), (&self.head, row0, rows)] {
            if rows == 0 {
                continue;
            }
            for lowered in steps {
                let mut encoder = self.device.device.create_command_encoder(&Default::default());
                self.encode(&mut encoder, std::slice::from_ref(lowered), rows);
                self.device.queue.submit([encoder.finish()]);
                listener(&lowered.step, &self.output(&lowered.step, batch.position, first, rows)?);
            }
        }
        Ok(())
    }

    fn output(&self, step: &Step, position: usize, first: usize, rows: usize) -> Result<Vec<u32>, BackendError> {
        if let Op::KvStore { layer, .. } = step.op {
            let words = self.plan.kv_width / 2;
            let mut out = Vec::new();
            for cache in &self.resources.caches[layer] {
                out.extend(self.device.read(cache, ((position + first) * words * 4) as u64, rows * words)?);
            }
            return Ok(out);
        }
        let Some(out) = step.op.output() else { return Ok(Vec::new()) };
        let words = row_words(&self.plan, out);
        let first = if out == self.plan.logits { 0 } else { first };
        self.device.read(&self.resources.buffers[out.0], (first * words * 4) as u64, rows * words)
    }
}

/// Words per row of a buffer.
fn row_words(plan: &Plan, id: BufferId) -> usize {
    let buffer = &plan.buffers[id.0];
    match buffer.kind {
        BufferKind::Float => buffer.width,
        BufferKind::Quantized(block) => ops::quantize_activations::stride(buffer.width, block, plan.precision),
    }
}

fn allocate(
    device: &Device,
    model: &Model,
    plan: &Plan,
    sizes: Sizes,
    progress: &mut dyn FnMut(u64),
) -> Result<Resources, BackendError> {
    let words = |name: &str, n: usize| device.storage(name, n as u64 * 4);
    let mut buffers = Vec::new();
    for (i, buffer) in plan.buffers.iter().enumerate() {
        let id = BufferId(i);
        let rows = if id == plan.logits { sizes.logits_rows } else { sizes.batch };
        buffers.push(words(&buffer.name, rows * row_words(plan, id))?);
    }
    let mut caches = Vec::new();
    for layer in 0..plan.layers {
        let n = (sizes.context * plan.kv_width).div_ceil(2);
        caches.push([words(&format!("keys of layer {layer}"), n)?, words(&format!("values of layer {layer}"), n)?]);
    }
    let mut weights = Vec::new();
    for w in &plan.weights {
        let raw = model.data(w);
        weights.push(if w.rows == 1 {
            let mut values = vec![0.0f32; w.cols];
            w.format.dequantize(raw, &mut values);
            Resident::Vector(device.upload(&w.name, bytemuck::cast_slice(&values))?)
        } else {
            Resident::Matrix(weights::upload(device, &w.name, w.format, raw, w.rows, w.cols, progress)?)
        });
    }
    let heads = plan.steps().map(|s| if let Op::Attention { heads, .. } = s.op { heads } else { 1 }).max();
    let table = ops::rope::table(sizes.context, &plan.rope_frequencies);
    Ok(Resources {
        sizes,
        body_state: words("state", 4)?,
        head_state: words("head state", 4)?,
        ids: words("ids", sizes.batch)?,
        buffers,
        caches,
        rope: device.upload("rope table", bytemuck::cast_slice(&table))?,
        scores: words("attention scores", sizes.batch * heads.unwrap_or(1) * sizes.context)?,
        weights,
    })
}

impl Backend for Gpu {
    fn forward(&mut self, batch: Batch<'_>, listener: Option<Listener<'_>>) -> Result<&[f32], BackendError> {
        super::check_ids(batch.ids, self.plan.vocabulary())?;
        let n = batch.ids.len();
        let (row0, rows) = batch.logits.range(n);
        let write = |buffer: &wgpu::Buffer, row0: usize, rows: usize| {
            let state = State { zero: 0, position: batch.position as u32, row0: row0 as u32, rows: rows as u32 };
            self.device.write(buffer, bytemuck::bytes_of(&state));
        };
        write(&self.resources.body_state, 0, n);
        write(&self.resources.head_state, row0, rows);
        self.device.write(&self.resources.ids, bytemuck::cast_slice(batch.ids));
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        match listener {
            Some(listener) => self.run_listened(&batch, listener)?,
            None => {
                self.encode(&mut encoder, &self.body, n);
                self.encode(&mut encoder, &self.head, rows);
            }
        }
        let wanted = rows * self.plan.vocabulary();
        if wanted > 0 {
            let logits = &self.resources.buffers[self.plan.logits.0];
            encoder.copy_buffer_to_buffer(logits, 0, &self.staging, 0, wanted as u64 * 4);
        }
        self.device.queue.submit([encoder.finish()]);
        if wanted > 0 {
            let mut logits = std::mem::take(&mut self.logits);
            let result = self.device.map(&self.staging, &mut logits[..wanted]);
            self.logits = logits;
            result?;
        }
        self.device.check()?;
        Ok(&self.logits[..wanted])
    }

    fn batch_size(&self) -> usize {
        self.resources.sizes.batch
    }

    fn context(&self) -> usize {
        self.resources.sizes.context
    }

    fn name(&self) -> &'static str {
        api_name(&self.device.info)
    }

    fn device(&self) -> String {
        self.device.info.name.clone()
    }
}
