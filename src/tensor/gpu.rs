//! Tensors on a GPU: ops are recorded, and run when somebody wants to see elements.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use bytemuck::bytes_of;

use super::graph::{Node, Pending, Place};
use super::op::{Bound, Dispatch, Fault};
use super::weight::Weight;
use super::{Dtype, TensorError};
use crate::backend::BackendError;
use crate::backend::gpu::{Device, Pipeline};
#[cfg(feature = "cli")]
use crate::backend::gpu::{Kernel, Recorded};
use crate::shaders::params::State;

/// Ops that run before somebody looks for faults.
const MOST: usize = 256;
/// Dispatches that are recorded before they are submitted.
const AT_ONCE: usize = 4;

/// A dispatch that is ready to run.
struct Ready {
    pipeline: Arc<Pipeline>,
    bindings: wgpu::BindGroup,
    groups: [u32; 3],
}

/// An operand: its buffer, and whether it holds f16, two to a word.
struct Input {
    buffer: wgpu::Buffer,
    halves: bool,
}

/// A buffer of words, which is used again once nobody has it: drivers take a millisecond for a large one. Kernels write every word that
/// they read, and run in order.
pub(super) struct Room {
    pub buffer: wgpu::Buffer,
    free: Rc<RefCell<Free>>,
}

/// Buffers that nobody has, by their size.
#[derive(Default)]
struct Free {
    buffers: HashMap<u64, Vec<wgpu::Buffer>>,
    bytes: u64,
}

/// Bytes of free buffers that are kept.
const MOST_FREE: u64 = 1 << 30;

impl Drop for Room {
    fn drop(&mut self) {
        let mut free = self.free.borrow_mut();
        let size = self.buffer.size();
        if free.bytes + size <= MOST_FREE {
            free.bytes += size;
            free.buffers.entry(size).or_default().push(self.buffer.clone());
        }
    }
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
    free: Rc<RefCell<Free>>,
    /// What each kernel read and left when it ran first, where that is wanted.
    #[cfg(feature = "cli")]
    recorded: Option<Vec<Recorded>>,
}

impl Gpu {
    pub fn new(device: Device) -> Result<Self, BackendError> {
        let faults = device.upload("faults", &[0; 4 * MOST])?;
        let (ops, ready, states, matrices) = (Vec::new(), Vec::new(), HashMap::new(), HashMap::new());
        Ok(Self {
            device,
            faults,
            ops,
            ready,
            states,
            matrices,
            free: Rc::default(),
            #[cfg(feature = "cli")]
            recorded: None,
        })
    }

    /// Keeps what each kernel reads and leaves when it runs first from now on; gives what was kept.
    #[cfg(feature = "cli")]
    pub fn record_kernels(&mut self) -> Vec<Recorded> {
        self.recorded.replace(Vec::new()).unwrap_or_default()
    }

    /// Runs the last dispatch by itself where its kernel is to be recorded, and is not yet.
    #[cfg(feature = "cli")]
    fn record_last(&mut self, kernel: &Kernel, params: Vec<u8>, buffers: &[wgpu::Buffer]) -> Result<(), TensorError> {
        let name = kernel.name();
        let unknown = |known: &&Vec<Recorded>| known.iter().all(|r| r.kernel.name() != name);
        let Some(last) = self.recorded.as_ref().filter(unknown).and_then(|_| self.ready.pop()) else {
            return Ok(());
        };
        self.submit()?;
        // Binding 1 holds the parameters.
        let storage = || buffers.iter().enumerate().filter(|(i, _)| *i != 1).map(|(_, buffer)| buffer);
        let contents = |device: &Device| {
            storage().map(|b| device.read(b, 0, (b.size() / 4) as usize)).collect::<Result<Vec<_>, _>>()
        };
        let (groups, before) = (last.groups, contents(&self.device)?);
        self.ready.push(last);
        self.submit()?;
        let after = contents(&self.device)?;
        if let Some(all) = &mut self.recorded {
            all.push(Recorded { kernel: kernel.clone(), groups, params, before, after });
        }
        Ok(())
    }

    /// Fails if a tensor is larger than what the device binds.
    pub fn check_size(&self, name: &str, shape: &[usize], words: usize) -> Result<(), TensorError> {
        let limit = self.device.largest_buffer();
        if 4 * words as u64 > limit {
            let device = &self.device.info.name;
            return Err(TensorError::TooLarge(format!(
                "{name}: {shape:?} has {} bytes; {device} binds {limit} at most",
                4 * words
            )));
        }
        Ok(())
    }

    /// Records an op; gives the buffer of its result.
    pub fn record(&mut self, node: &Node, pending: &Pending) -> Result<Room, TensorError> {
        if self.ops.len() == MOST {
            self.flush()?;
        }
        let slot = self.ops.len() as u32;
        self.ops.push((node.name, node.place));
        let out = self.room(node.name, node.dtype.words(node.len()))?;
        let inputs: Vec<_> = pending.inputs.iter().map(|t| self.input(&t.node)).collect::<Result<_, _>>()?;
        let views: Vec<_> = pending.inputs.iter().map(|t| &t.view).collect();
        let scratch = pending.op.scratch(&views, &node.shape);
        let scratch: Vec<_> = scratch.into_iter().map(|words| self.room("scratch", words)).collect::<Result<_, _>>()?;
        for dispatch in pending.op.gpu(&views, &node.shape, slot) {
            self.prepare(dispatch, &inputs, &scratch, &out)?;
        }
        // The device works while the next are recorded.
        if self.ready.len() >= AT_ONCE {
            self.submit()?;
        }
        Ok(out)
    }

    /// A buffer of at least so many words.
    fn room(&self, name: &str, words: usize) -> Result<Room, TensorError> {
        let bytes = 4 * words as u64;
        // Sizes that differ little are one.
        let size = if bytes < 1 << 16 { bytes.next_power_of_two().max(256) } else { bytes.next_multiple_of(1 << 16) };
        let size = size.min(self.device.largest_buffer()).max(bytes);
        let known = {
            let mut free = self.free.borrow_mut();
            let known = free.buffers.get_mut(&size).and_then(Vec::pop);
            free.bytes -= known.as_ref().map_or(0, wgpu::Buffer::size);
            known
        };
        let buffer = match known {
            Some(buffer) => buffer,
            None => match self.device.storage(name, size) {
                Err(BackendError::OutOfMemory { .. }) if self.free.borrow().bytes > 0 => {
                    *self.free.borrow_mut() = Free::default();
                    self.device.storage(name, bytes)?
                }
                made => made?,
            },
        };
        Ok(Room { buffer, free: Rc::clone(&self.free) })
    }

    fn prepare(
        &mut self,
        dispatch: Dispatch,
        inputs: &[Input],
        scratch: &[Room],
        out: &Room,
    ) -> Result<(), TensorError> {
        let inputs_of = |binding: &Bound| if let Bound::Input(i) = binding { Some(&inputs[*i]) } else { None };
        let halves = dispatch
            .bindings
            .iter()
            .filter_map(inputs_of)
            .zip(0..)
            .map(|(input, i)| u32::from(input.halves) << i)
            .sum();
        let kernel = if halves > 0 { dispatch.kernel.with("HALVES", halves) } else { dispatch.kernel };
        let pipeline = self.device.pipeline(&kernel)?;
        let limit = self.device.limits.max_compute_workgroups_per_dimension;
        if dispatch.groups.iter().any(|n| *n > limit) {
            let name = kernel.name();
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
                Bound::Input(i) => inputs[i].buffer.clone(),
                Bound::Scratch(i) => scratch[i].buffer.clone(),
                Bound::Matrix(weight) => self.matrix(&weight)?,
                Bound::Out => out.buffer.clone(),
            });
        }
        let bindings = self.device.bind(&pipeline, &buffers.iter().collect::<Vec<_>>());
        self.ready.push(Ready { pipeline, bindings, groups: dispatch.groups });
        #[cfg(feature = "cli")]
        self.record_last(&kernel, dispatch.params, &buffers)?;
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

    /// A computed node or a constant.
    fn input(&self, node: &Node) -> Result<Input, TensorError> {
        let halves = node.dtype == Dtype::F16;
        if let Some(room) = &node.values.borrow().buffer {
            return Ok(Input { buffer: room.buffer.clone(), halves });
        }
        let words = node.stored()?;
        // A write comes before all that is recorded, so it must not meet a buffer that was used before.
        let buffer = self.device.upload(node.name, bytemuck::cast_slice(&words))?;
        node.values.borrow_mut().buffer = Some(Room { buffer: buffer.clone(), free: Rc::clone(&self.free) });
        Ok(Input { buffer, halves })
    }

    /// Gives the device what is recorded.
    fn submit(&mut self) -> Result<(), TensorError> {
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
        Ok(())
    }

    /// Runs what is recorded, and fails if an op told a fault.
    pub fn flush(&mut self) -> Result<(), TensorError> {
        if self.ops.is_empty() {
            return Ok(());
        }
        self.submit()?;
        let faults = self.device.read(&self.faults, 0, self.ops.len())?;
        let ops = std::mem::take(&mut self.ops);
        let found = faults.into_iter().zip(ops).find_map(|(word, op)| Some((Fault::of(word)?, op)));
        let Some((fault, (op, place))) = found else { return Ok(()) };
        self.device.write(&self.faults, &[0; 4 * MOST]);
        Err(TensorError::Fault { op, fault, place })
    }

    /// The words of a buffer, after all that is recorded.
    pub fn read(&mut self, room: &Room, words: usize) -> Result<Vec<u32>, TensorError> {
        self.flush()?;
        Ok(self.device.read(&room.buffer, 0, words)?)
    }
}
