//! Tensors on a GPU: ops are recorded, and run when somebody wants to see elements.

use std::collections::HashMap;
use std::sync::Arc;

use bytemuck::bytes_of;

use super::TensorError;
use super::graph::{Node, Pending, Place};
use super::op::{Bound, Dispatch, Fault};
use super::weight::Weight;
use crate::backend::gpu::{Device, Pipeline};
use crate::shaders::params::State;

/// Ops that are recorded before they are submitted.
const MOST: usize = 256;

/// A dispatch that is ready to run.
struct Ready {
    pipeline: Arc<Pipeline>,
    bindings: wgpu::BindGroup,
    groups: [u32; 3],
}

/// A device, and what it is to do.
pub(super) struct Gpu {
    pub device: Device,
    /// Where ops tell faults, a word each.
    faults: wgpu::Buffer,
    /// The ops recorded, by their places among the faults.
    ops: Vec<(&'static str, Option<Place>)>,
    ready: Vec<Ready>,
    /// States, by rows and position.
    states: HashMap<[u32; 2], wgpu::Buffer>,
    /// Matrices in the layout of kernels, with what keeps their addresses.
    matrices: HashMap<*const Weight, (Arc<Weight>, wgpu::Buffer)>,
}

impl Gpu {
    pub fn new(device: Device) -> Result<Self, TensorError> {
        let faults = device.upload("faults", &[0; 4 * MOST])?;
        let (ops, ready, states, matrices) = (Vec::new(), Vec::new(), HashMap::new(), HashMap::new());
        Ok(Self { device, faults, ops, ready, states, matrices })
    }

    /// Fails if a tensor is larger than what the device binds.
    pub fn check_size(&self, name: &str, shape: &[usize], elements: usize) -> Result<(), TensorError> {
        let limit = self.device.limits.max_storage_buffer_binding_size.min(self.device.limits.max_buffer_size);
        if 4 * elements as u64 > limit {
            let device = &self.device.info.name;
            return Err(TensorError::TooLarge(format!(
                "{name}: {shape:?} has {} bytes; {device} binds {limit} at most",
                4 * elements
            )));
        }
        Ok(())
    }

    /// Records an op; gives the buffer of its result.
    pub fn record(&mut self, node: &Node, pending: &Pending) -> Result<wgpu::Buffer, TensorError> {
        if self.ops.len() == MOST {
            self.flush()?;
        }
        let slot = self.ops.len() as u32;
        self.ops.push((node.name, node.place));
        let out = self.device.storage("result", 4 * node.len() as u64)?;
        let inputs: Vec<_> = pending.inputs.iter().map(|t| self.buffer(&t.node)).collect::<Result<_, _>>()?;
        let views: Vec<_> = pending.inputs.iter().map(|t| &t.view).collect();
        let scratch = pending.op.scratch(&views, &node.shape);
        let scratch = scratch.into_iter().map(|words| self.device.storage("scratch", 4 * words as u64));
        let scratch: Vec<_> = scratch.collect::<Result<_, _>>()?;
        for dispatch in pending.op.gpu(&views, &node.shape, slot) {
            self.prepare(dispatch, &inputs, &scratch, &out)?;
        }
        Ok(out)
    }

    fn prepare(
        &mut self,
        dispatch: Dispatch,
        inputs: &[wgpu::Buffer],
        scratch: &[wgpu::Buffer],
        out: &wgpu::Buffer,
    ) -> Result<(), TensorError> {
        let pipeline = self.device.pipeline(&dispatch.kernel)?;
        let limit = self.device.limits.max_compute_workgroups_per_dimension;
        if dispatch.groups.iter().any(|n| *n > limit) {
            let name = dispatch.kernel.name();
            return Err(TensorError::TooLarge(format!(
                "{name} needs {:?} workgroups, {limit} at most",
                dispatch.groups
            )));
        }
        let mut buffers =
            vec![self.state(dispatch.rows, dispatch.position)?, self.device.uniform("parameters", &dispatch.params)?];
        for binding in dispatch.bindings {
            buffers.push(match binding {
                Bound::Words(words) => self.device.upload("constants", bytemuck::cast_slice(&words))?,
                Bound::Faults => self.faults.clone(),
                Bound::Input(i) => inputs[i].clone(),
                Bound::Scratch(i) => scratch[i].clone(),
                Bound::Matrix(weight) => self.matrix(&weight)?,
                Bound::Out => out.clone(),
            });
        }
        let bindings = self.device.bind(&pipeline, &buffers.iter().collect::<Vec<_>>());
        self.ready.push(Ready { pipeline, bindings, groups: dispatch.groups });
        Ok(())
    }

    fn state(&mut self, rows: u32, position: u32) -> Result<wgpu::Buffer, TensorError> {
        if let Some(state) = self.states.get(&[rows, position]) {
            return Ok(state.clone());
        }
        let state = self.device.upload("state", bytes_of(&State { rows, position, ..State::default() }))?;
        self.states.insert([rows, position], state.clone());
        Ok(state)
    }

    fn matrix(&mut self, weight: &Arc<Weight>) -> Result<wgpu::Buffer, TensorError> {
        if let Some((_, buffer)) = self.matrices.get(&Arc::as_ptr(weight)) {
            return Ok(buffer.clone());
        }
        let buffer = self.device.upload(&weight.name, &weight.stored())?;
        self.matrices.insert(Arc::as_ptr(weight), (Arc::clone(weight), buffer.clone()));
        Ok(buffer)
    }

    /// The buffer of a computed node or of a constant.
    fn buffer(&self, node: &Node) -> Result<wgpu::Buffer, TensorError> {
        if let Some(buffer) = &node.values.borrow().buffer {
            return Ok(buffer.clone());
        }
        let words = node.words()?;
        let buffer = self.device.upload(node.name, bytemuck::cast_slice(&words))?;
        node.values.borrow_mut().buffer = Some(buffer.clone());
        Ok(buffer)
    }

    /// Runs what is recorded, and fails if an op told a fault.
    pub fn flush(&mut self) -> Result<(), TensorError> {
        if self.ops.is_empty() {
            return Ok(());
        }
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for ready in self.ready.drain(..) {
                pass.set_pipeline(ready.pipeline.code()?);
                pass.set_bind_group(0, &ready.bindings, &[0]);
                let [x, y, z] = ready.groups;
                pass.dispatch_workgroups(x, y, z);
            }
        }
        self.device.queue.submit([encoder.finish()]);
        let faults = self.device.read(&self.faults, 0, self.ops.len())?;
        let ops = std::mem::take(&mut self.ops);
        let found = faults.into_iter().zip(ops).find_map(|(word, op)| Some((Fault::of(word)?, op)));
        let Some((fault, (op, place))) = found else { return Ok(()) };
        self.device.write(&self.faults, &[0; 4 * MOST]);
        Err(TensorError::Fault { op, fault, place })
    }

    /// The words of a buffer, after all that is recorded.
    pub fn read(&mut self, buffer: &wgpu::Buffer, words: usize) -> Result<Vec<u32>, TensorError> {
        self.flush()?;
        Ok(self.device.read(buffer, 0, words)?)
    }
}
