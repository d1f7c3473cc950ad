//! Where tensors are computed: on the CPU, on a GPU, on both with their bits compared, and in double precision beside them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use sha2::{Digest, Sha256};

use super::gpu::Gpu;
use super::graph::{Node, Pending, Place, Values};
use super::op::{Domain, Fault, Input};
use super::view::count;
use super::{Dtype, MAX_AXES, Mismatch, TensorError};
use crate::backend::BackendError;
use crate::backend::cpu::{Isa, Pool, physical_cores};
use crate::backend::gpu::Device;
use crate::memory;

/// The most elements of a tensor.
const MOST: usize = 1 << 31;

/// What was computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The op.
    pub op: &'static str,
    /// The shape of its result.
    pub shape: Vec<usize>,
    /// Where it was asked for.
    pub place: Option<Place>,
    /// SHA-256 of the words of its result.
    pub hash: String,
    /// How far its elements are from those in double precision, where these were computed.
    pub error: Option<Error64>,
}

/// How far results are from double precision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Error64 {
    /// The largest difference.
    pub largest: f64,
    /// The root of the mean squared difference, divided by that of the numbers.
    pub relative: f64,
}

/// Hears what was computed.
pub type Listener = Box<dyn FnMut(&Step)>;

/// What the CPU side has.
struct Cpu {
    pool: Pool,
    isa: Isa,
}

/// Where tensors are computed.
pub(super) struct Machine {
    cpu: Option<RefCell<Cpu>>,
    pub gpu: Option<RefCell<Gpu>>,
    double: bool,
    /// The place of the op that is asked for now.
    pub place: Cell<Option<Place>>,
    pub listener: RefCell<Option<Listener>>,
}

impl Machine {
    pub fn new(on_cpu: bool, device: Option<Device>) -> Result<Self, BackendError> {
        let cpu = match on_cpu {
            true => Some(RefCell::new(Cpu { pool: Pool::new(physical_cores()), isa: Isa::from_environment()? })),
            false => None,
        };
        let gpu = device.map(Gpu::new).transpose()?.map(RefCell::new);
        Ok(Self { cpu, gpu, double: false, place: Cell::new(None), listener: RefCell::new(None) })
    }

    /// The same with double precision beside it.
    pub fn with_double(self) -> Self {
        Self { double: true, ..self }
    }

    /// Fails if a tensor of this shape is too large for here.
    pub fn check_size(&self, name: &str, dtype: Dtype, shape: &[usize]) -> Result<(), TensorError> {
        if shape.len() > MAX_AXES {
            return Err(TensorError::TooLarge(format!("{name}: {shape:?} has more than {MAX_AXES} axes")));
        }
        let elements = count(shape).filter(|n| *n <= MOST);
        let Some(elements) = elements else {
            return Err(TensorError::TooLarge(format!("{name}: {shape:?} has more than 2^31 elements")));
        };
        if let Some(gpu) = &self.gpu {
            gpu.borrow().check_size(name, shape, dtype.words(elements))?;
        }
        Ok(())
    }

    /// Room for so many numbers.
    fn room<T: Clone + Default>(name: &str, shape: &[usize], n: usize) -> Result<Vec<T>, TensorError> {
        let bytes = (n * size_of::<T>()) as u64;
        if bytes > 1 << 26 && !memory::fits(bytes) {
            let needed = memory::size(bytes);
            return Err(TensorError::TooLarge(format!(
                "{name}: {shape:?} needs {needed} of memory, which is not there"
            )));
        }
        Ok(vec![T::default(); n])
    }

    /// Runs an op whose operands are computed.
    pub fn run(&self, node: &Node, pending: &Pending) -> Result<(), TensorError> {
        let mut values = Values::default();
        if node.len() == 0 {
            values.words = Some(Rc::default());
        } else {
            if let Some(cpu) = &self.cpu {
                let mut out = Self::room(node.name, &node.shape, node.len())?;
                let operands: Vec<_> = pending.inputs.iter().map(|t| t.node.words()).collect::<Result<_, _>>()?;
                let inputs: Vec<_> = pending
                    .inputs
                    .iter()
                    .zip(&operands)
                    .map(|(t, words)| Input { view: &t.view, buffer: words.as_slice() })
                    .collect();
                let cpu = &mut *cpu.borrow_mut();
                let domain = Domain { pool: &mut cpu.pool, isa: cpu.isa };
                pending.op.cpu(&inputs, &node.shape, &mut out, domain).map_err(|fault| node.failed(fault))?;
                node.check_finite(&out)?;
                values.words = Some(Rc::new(node.dtype.packed(out)));
            }
            if let Some(gpu) = &self.gpu {
                values.buffer = Some(gpu.borrow_mut().record(node, pending)?);
            }
            if self.double {
                values.double = Some(self.doubled(node, pending)?);
            }
        }
        *node.values.borrow_mut() = values;
        self.look(node)
    }

    fn doubled(&self, node: &Node, pending: &Pending) -> Result<Rc<Vec<f64>>, TensorError> {
        let mut out = Self::room(node.name, &node.shape, node.len())?;
        let operands: Vec<_> = pending.inputs.iter().map(|t| t.node.doubles()).collect::<Result<_, _>>()?;
        let inputs = pending.inputs.iter().zip(&operands);
        let inputs: Vec<_> = inputs.map(|(t, double)| Input { view: &t.view, buffer: double.as_slice() }).collect();
        pending.op.double(&inputs, &node.shape, &mut out).map_err(|fault| node.failed(fault))?;
        Ok(Rc::new(out))
    }

    /// Compares the two sides, and tells who listens.
    fn look(&self, node: &Node) -> Result<(), TensorError> {
        let both = self.cpu.is_some() && self.gpu.is_some();
        if !both && self.listener.borrow().is_none() {
            return Ok(());
        }
        let words = node.words()?;
        if both && node.len() > 0 {
            let on_gpu = node.gpu_words()?;
            if *node.stored()? != on_gpu {
                let on_gpu = node.dtype.unpacked(&on_gpu, node.len());
                return Err(TensorError::Differs(Box::new(Mismatch::new(node, &words, &on_gpu))));
            }
        }
        if let Some(listener) = &mut *self.listener.borrow_mut() {
            let mut hash = Sha256::new();
            words.iter().for_each(|word| hash.update(word.to_le_bytes()));
            let double = node.values.borrow().double.clone();
            let error = double.map(|double| error64(node.dtype, &words, &double));
            listener(&Step {
                op: node.name,
                shape: node.shape.clone(),
                place: node.place,
                hash: format!("{:x}", hash.finalize()),
                error,
            });
        }
        Ok(())
    }
}

/// A word as a number.
pub(super) fn number(dtype: Dtype, word: u32) -> f64 {
    match dtype {
        Dtype::I32 => f64::from(word as i32),
        Dtype::F32 | Dtype::F16 => f64::from(f32::from_bits(word)),
    }
}

fn error64(dtype: Dtype, words: &[u32], double: &[f64]) -> Error64 {
    let differences = words.iter().zip(double).map(|(word, x)| number(dtype, *word) - x);
    let (mut largest, mut squares) = (0.0f64, 0.0);
    for difference in differences {
        largest = largest.max(difference.abs());
        squares += difference * difference;
    }
    let size: f64 = double.iter().map(|x| x * x).sum();
    Error64 { largest, relative: if size > 0.0 { (squares / size).sqrt() } else { squares.sqrt() } }
}

impl Node {
    /// Fails if one of these elements is infinite or not a number.
    pub fn check_finite(&self, words: &[u32]) -> Result<(), TensorError> {
        if self.dtype == Dtype::I32 || words.iter().all(|word| f32::from_bits(*word).is_finite()) {
            return Ok(());
        }
        Err(self.failed(Fault::NotFinite))
    }

    fn failed(&self, fault: Fault) -> TensorError {
        TensorError::Fault { op: self.name, fault, place: self.place }
    }

    /// The words of the elements of a computed node or of a constant.
    pub fn words(&self) -> Result<Rc<Vec<u32>>, TensorError> {
        let stored = self.stored()?;
        if self.dtype == Dtype::F16 { Ok(Rc::new(self.dtype.unpacked(&stored, self.len()))) } else { Ok(stored) }
    }

    /// The words that they are stored in, wherever they are.
    pub fn stored(&self) -> Result<Rc<Vec<u32>>, TensorError> {
        if let Some(words) = &self.values.borrow().words {
            return Ok(Rc::clone(words));
        }
        let Some(weight) = &self.weight else { return self.gpu_words().map(Rc::new) };
        let words = Rc::new((0..weight.rows).flat_map(|row| weight.dequantized(row)).collect::<Vec<_>>());
        self.values.borrow_mut().words = Some(Rc::clone(&words));
        Ok(words)
    }

    fn gpu_words(&self) -> Result<Vec<u32>, TensorError> {
        match (&self.machine.gpu, &self.values.borrow().buffer) {
            (Some(gpu), Some(buffer)) => gpu.borrow_mut().read(buffer, self.dtype.words(self.len())),
            _ => Ok(Vec::new()),
        }
    }

    /// The elements in double precision.
    pub fn doubles(&self) -> Result<Rc<Vec<f64>>, TensorError> {
        if let Some(double) = &self.values.borrow().double {
            return Ok(Rc::clone(double));
        }
        let words = self.words()?;
        let double = Rc::new(words.iter().map(|word| number(self.dtype, *word)).collect::<Vec<_>>());
        self.values.borrow_mut().double = Some(Rc::clone(&double));
        Ok(double)
    }
}
