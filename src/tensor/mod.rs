//! Tensors of any number of axes on the CPU and on a GPU, with the same bits.
//!
//! ```
//! use samebits::tensor::Space;
//! # fn main() -> Result<(), samebits::tensor::TensorError> {
//! let space = Space::cpu()?;
//! let q = space.random(&[4, 2, 8], 1)?; // [tokens, heads, dimensions]
//! let k = space.random(&[4, 2, 8], 2)?;
//! let scores = space.einsum("ihd,jhd->ihj", &[&q, &k])?.mul(&space.scalar(0.25))?;
//! let weights = scores.softmax(-1)?;
//! assert_eq!(weights.shape(), [4, 2, 4]);
//! println!("{:?}", weights.to_vec()?);
//! # Ok(())
//! # }
//! ```
//!
//! Ops make a graph and check shapes at once; they run when somebody asks for elements ([`Tensor::to_vec`]). Views (`reshape`, `permute`,
//! `slice`, `broadcast_to`) copy nothing. A [`Space`] says where ops run: on the CPU, on a GPU, or on both, where the first op whose bits
//! differ is an error that names it. `docs/tensors.md` is for readers who know NumPy; the order of float operations of each op is part
//! of the contract (`docs/numerics.md`).

mod attention;
mod contract;
mod create;
mod einsum;
mod gather;
mod gpu;
mod graph;
mod half;
mod layers;
mod linear;
mod machine;
mod map;
mod math;
pub mod npy;
mod op;
mod rank;
mod reduce;
mod rows;
mod scan;
mod view;
mod weight;

use std::fmt;
use std::rc::Rc;

use thiserror::Error;

use crate::backend::BackendError;
use crate::backend::gpu::{AdapterOptions, Device};
use crate::gguf::GgufError;
use graph::Node;
use machine::Machine;

pub use graph::Place;
pub use machine::{Error64, Listener, Step};
pub use map::Function;
pub use op::Fault;
pub use view::{MAX_AXES, View};

/// What the elements of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// f32.
    F32,
    /// f16: stored in two bytes, computed with as f32.
    F16,
    /// i32; comparisons give 0 and 1.
    I32,
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::I32 => "i32",
        })
    }
}

/// Why there is no tensor.
#[derive(Debug, Error)]
pub enum TensorError {
    /// Shapes, axes or types do not fit.
    #[error("{0}")]
    Shape(String),
    /// More than the device or the memory holds.
    #[error("{0}")]
    TooLarge(String),
    /// Elements have no value.
    #[error("{op}: {}", match fault {
        Fault::NotFinite => "a result is infinite or not a number",
        Fault::OutOfRange => "an index is beyond its axis, or a number beyond i32",
    })]
    Fault {
        /// The op.
        op: &'static str,
        /// What is wrong.
        fault: Fault,
        /// Where it was asked for.
        place: Option<Place>,
    },
    /// The CPU and the GPU have other bits.
    #[error("{0}")]
    Differs(Box<Mismatch>),
    /// A file has no tensor of this name.
    #[error("no tensor '{name}' in the file; it has {first}, …")]
    NoTensor {
        /// The name.
        name: String,
        /// Some that there are.
        first: String,
    },
    /// A tensor's format is none that kernels read.
    #[error("tensor '{name}' is {format}, which is not supported")]
    Format {
        /// The tensor.
        name: String,
        /// Its format.
        format: String,
    },
    /// A file in NumPy's format cannot be read or written.
    #[error("{path}: {message}")]
    Npy {
        /// The file.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// The model's file.
    #[error(transparent)]
    Gguf(#[from] GgufError),
    /// The device.
    #[error(transparent)]
    Backend(#[from] BackendError),
}

impl TensorError {
    fn shape(message: impl Into<String>) -> Self {
        Self::Shape(message.into())
    }

    /// Where the op was asked for that failed while it ran.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::Fault { place, .. } => *place,
            Self::Differs(mismatch) => mismatch.place,
            _ => None,
        }
    }
}

/// An op whose result on the GPU has other bits than on the CPU.
#[derive(Clone, Debug, PartialEq)]
pub struct Mismatch {
    /// The op.
    pub op: &'static str,
    /// The shape of its result.
    pub shape: Vec<usize>,
    /// Where it was asked for.
    pub place: Option<Place>,
    /// How many elements differ.
    pub differ: usize,
    /// The place of the worst, and what it is on the CPU and on the GPU.
    pub worst: (Vec<usize>, [f64; 2]),
}

impl Mismatch {
    fn new(node: &Node, cpu: &[u32], gpu: &[u32]) -> Self {
        let pairs = || cpu.iter().zip(gpu).enumerate().filter(|(_, (a, b))| a != b);
        let numbers = |(a, b): (&u32, &u32)| [*a, *b].map(|word| machine::number(node.dtype, word));
        let distance = |pair| {
            let [a, b] = numbers(pair);
            if (a - b).is_nan() { f64::INFINITY } else { (a - b).abs() }
        };
        let worst = pairs().max_by(|a, b| distance(a.1).total_cmp(&distance(b.1)));
        let (mut place, values) = worst.map_or((0, [0.0; 2]), |(i, pair)| (i, numbers(pair)));
        let mut index = vec![0; node.shape.len()];
        for (index, n) in index.iter_mut().zip(&node.shape).rev() {
            (*index, place) = (place % n, place / n);
        }
        let shape = node.shape.clone();
        Self { op: node.name, shape, place: node.place, differ: pairs().count(), worst: (index, values) }
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { op, shape, differ, worst: (index, [cpu, gpu]), .. } = self;
        let all: usize = shape.iter().product();
        write!(f, "{op} {shape:?}: {differ} of {all} elements differ between the CPU and the GPU")?;
        write!(f, "; the worst is {index:?}: {cpu:e} and {gpu:e}")
    }
}

/// Where tensors live and ops run. Clones are the same space.
#[derive(Clone)]
pub struct Space(Rc<Machine>);

impl Space {
    /// Ops run on the CPU.
    ///
    /// # Errors
    /// If `SAMEBITS_CPU` asks for instructions that this processor does not have.
    pub fn cpu() -> Result<Self, TensorError> {
        Ok(Self(Rc::new(Machine::new(true, None)?)))
    }

    /// Ops run on a GPU.
    ///
    /// # Errors
    /// If there is none, or it does not open.
    pub fn gpu(options: &AdapterOptions) -> Result<Self, TensorError> {
        Ok(Self::on(Device::open(options)?, false)?)
    }

    /// Ops run on the CPU and on a GPU, one by one, and fail where their bits differ.
    ///
    /// # Errors
    /// As [`Self::cpu`] and [`Self::gpu`].
    pub fn both(options: &AdapterOptions) -> Result<Self, TensorError> {
        Ok(Self::on(Device::open(options)?, true)?)
    }

    /// Ops run on an opened device, and beside it on the CPU if `both` is set, as [`Self::both`] has it.
    ///
    /// # Errors
    /// As [`Self::cpu`]; if the device has no memory left.
    pub fn on(device: Device, both: bool) -> Result<Self, BackendError> {
        Ok(Self(Rc::new(Machine::new(both, Some(device))?)))
    }

    /// The same with every op in double precision beside it, on results in double precision. Only tensors made afterwards belong to it.
    ///
    /// # Errors
    /// If the space has tensors already.
    pub fn with_reference(self) -> Result<Self, TensorError> {
        let machine = Rc::try_unwrap(self.0);
        let machine = machine.map_err(|_| TensorError::shape("a space that has tensors cannot change"))?;
        Ok(Self(Rc::new(machine.with_double())))
    }

    /// Calls `listener` behind every op, in order.
    pub fn listen(&self, listener: Option<Listener>) {
        *self.0.listener.borrow_mut() = listener;
    }

    /// Says where in a program the following ops are asked for.
    pub fn at(&self, place: Option<Place>) {
        self.0.place.set(place);
    }

    /// Waits for what a GPU was given to compute.
    ///
    /// # Errors
    /// What went wrong with an op.
    pub fn wait(&self) -> Result<(), TensorError> {
        self.0.gpu.as_ref().map_or(Ok(()), |gpu| gpu.borrow_mut().flush())
    }

    /// The kernels that a GPU has run.
    #[cfg(feature = "cli")]
    pub(crate) fn kernels(&self) -> Vec<crate::backend::gpu::Kernel> {
        self.0.gpu.as_ref().map_or_else(Vec::new, |gpu| gpu.borrow().device.kernels())
    }

    /// Records from now on what each kernel of the GPU reads and leaves when it runs first; gives what was recorded before.
    #[cfg(feature = "cli")]
    pub(crate) fn record_kernels(&self) -> Vec<crate::backend::gpu::Recorded> {
        self.0.gpu.as_ref().map_or_else(Vec::new, |gpu| gpu.borrow_mut().record_kernels())
    }

    /// The GPU's name, if there is one.
    pub fn device(&self) -> Option<String> {
        self.0.gpu.as_ref().map(|gpu| gpu.borrow().device.info.name.clone())
    }
}

/// A tensor: elements, or what they will be computed from, and a view of them. Clones share the elements.
#[derive(Clone)]
pub struct Tensor {
    node: Rc<Node>,
    view: View,
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?} of {}", self.dtype(), self.shape(), self.node.name)
    }
}

impl Tensor {
    /// Elements along each axis.
    pub fn shape(&self) -> &[usize] {
        &self.view.shape
    }

    /// What the elements are.
    pub fn dtype(&self) -> Dtype {
        self.node.dtype
    }

    /// The space it lives in.
    pub fn space(&self) -> Space {
        Space(Rc::clone(&self.node.machine))
    }

    /// The elements in row-major order, as words: the bits of f32, also of an f16, or i32.
    ///
    /// # Errors
    /// What went wrong with an op that had to run for it.
    pub fn words(&self) -> Result<Vec<u32>, TensorError> {
        self.node.compute()?;
        let words = self.node.words()?;
        self.node.check_finite(&words)?;
        Ok(op::Input { view: &self.view, buffer: &words }.elements().collect())
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    /// As [`Self::words`].
    pub fn to_vec(&self) -> Result<Vec<f32>, TensorError> {
        let integer = self.dtype() == Dtype::I32;
        let number = |word: u32| if integer { word as i32 as f32 } else { f32::from_bits(word) };
        Ok(self.words()?.into_iter().map(number).collect())
    }

    /// The elements in row-major order, in double precision: those of [`Space::with_reference`], otherwise the same as the others.
    ///
    /// # Errors
    /// As [`Self::words`].
    pub fn to_f64(&self) -> Result<Vec<f64>, TensorError> {
        self.node.compute()?;
        let numbers = self.node.doubles()?;
        Ok(op::Input { view: &self.view, buffer: &numbers }.elements().collect())
    }

    /// The only element.
    ///
    /// # Errors
    /// If there are more or none; otherwise as [`Self::words`].
    pub fn item(&self) -> Result<f64, TensorError> {
        if self.view.len() != 1 {
            return Err(TensorError::shape(format!("item: {:?} has not one element", self.shape())));
        }
        let word = self.words()?.first().copied().unwrap_or_default();
        Ok(machine::number(self.dtype(), word))
    }

    /// Starts to compute it, if that was not done yet; [`Space::wait`] waits for a GPU.
    ///
    /// # Errors
    /// As [`Self::words`].
    pub fn compute(&self) -> Result<(), TensorError> {
        self.node.compute()
    }
}
