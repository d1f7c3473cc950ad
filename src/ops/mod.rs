//! The operations a plan is made of: one Rust file and one WGSL file of the same name each.
//!
//! A file holds the op as a struct of its operands, with everything that is known of it ([`Operation`]): what it reads and writes, which shapes
//! fit, its GPU dispatch; and the CPU function, which is the definition of its bits. An op whose rows depend on nothing but the same
//! rows of its operands ([`PerRow`]) needs no more to run on both backends; the others ([`Whole`]) have a call in each backend. All have a function in double
//! precision, and examples that `samebits verify` and the tests share ([`examples`]). Parameters are made from the struct in WGSL.
//!
//! To add an op: those two files, its line in `ops!` below, and the shader's line in the table of [`crate::shaders`].

pub mod argmax;
pub mod draw;
pub mod examples;
#[cfg(feature = "faults")]
pub(crate) mod faults;
pub mod float64;
pub mod shapes;
pub mod softmax;

use crate::quant::Format;
use crate::shaders::Shader;
use shapes::{AnglesId, BufferId, CacheId, Shapes, WeightId};

/// Threads per workgroup of all kernels: the `THREADS` override.
pub const THREADS: u32 = 64;

/// Workgroups that cover `n` threads.
fn groups(n: u32) -> u32 {
    n.div_ceil(THREADS)
}

/// What an op's output words are, as a backend's listener hears them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Words {
    /// The bits of one f32 each.
    Floats,
    /// Two f16 each, the first in the low bits.
    Halves,
    /// Integers and their scales.
    Quantized,
}

/// What a plan and the backends know of an op.
pub trait Operation {
    /// The buffers it reads; attention reads a cache, too.
    fn reads(&self) -> [Option<BufferId>; 2];

    /// The buffer it writes; `None` for the cache.
    fn output(&self) -> Option<BufferId>;

    /// What the words of its output are.
    fn words(&self) -> Words {
        Words::Floats
    }

    /// Whether it changes a buffer that it reads.
    fn is_in_place(&self) -> bool {
        false
    }

    /// Whether it asks for a token's id or position, or fills a cache, so that it runs for every row.
    fn needs_every_row(&self) -> bool {
        false
    }

    /// The cache it appends to.
    fn appends_to(&self) -> Option<CacheId> {
        None
    }

    /// The cache it reads.
    fn attends_to(&self) -> Option<CacheId> {
        None
    }

    /// The matrix it reads, of which a GPU may have several parts.
    fn matrix(&self) -> Option<WeightId> {
        None
    }

    /// Fails unless the shapes of its operands fit together.
    ///
    /// # Errors
    /// What does not fit, as the end of a sentence.
    fn check(&self, shapes: &Shapes<'_>) -> Result<(), String>;

    /// Its dispatch on a GPU, whose cache has `context` positions, for a part of its matrix.
    fn call(&self, shapes: &Shapes<'_>, context: usize, part: &Part) -> Call;
}

/// An op whose rows depend on nothing but the same rows of its operands, and a vector or a position.
pub trait PerRow: Operation {
    /// The vector it reads.
    fn vector(&self) -> Option<WeightId> {
        None
    }

    /// The table of angles it reads a row of, by the position.
    fn angles(&self) -> Option<AnglesId> {
        None
    }

    /// One row, which defines the bits. `out` holds the row already where the op changes it in place.
    fn row(&self, shapes: &Shapes<'_>, from: Row<'_, f32>, out: &mut [f32]);

    /// The same in double precision, with nothing rounded on the way; the angles are given in radians.
    fn row64(&self, shapes: &Shapes<'_>, from: Row<'_, f64>, out: &mut [f64]);

    /// Ops to verify, for rows of `width`: the buffers 0 and 1 are read, 2 is written, the weight 0 is a vector of `width` elements and 1
    /// of half as many, the angles are table 0 with a quarter as many pairs as elements; in place, 0 is changed.
    fn examples(width: usize) -> Vec<Op>
    where
        Self: Sized;
}

/// An op that needs more than a row of each operand.
pub trait Whole: Operation {
    /// All rows in double precision, with nothing rounded on the way; for the cache the keys of every row, then the values.
    fn rows64(&self, from: &dyn float64::Memory64) -> Vec<f64>;

    /// Examples to verify.
    fn examples(floats: examples::Floats<'_>) -> Vec<examples::Example>
    where
        Self: Sized;
}

/// What a row is made of.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a, T> {
    /// The rows of the buffers that the op reads, but for the one that it changes in place.
    pub reads: [&'a [T]; 2],
    /// The vector.
    pub vector: &'a [T],
    /// What the table of angles has for the position: cosine and sine of each pair, or in double precision each angle.
    pub angles: &'a [T],
}

/// Rows of a matrix that lie in one buffer of a GPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct Part {
    /// The first row in the matrix.
    pub row_base: usize,
    /// Rows.
    pub rows: usize,
    /// The first of them in the buffer.
    pub first: usize,
    /// Word offset of each stream.
    pub streams: [u32; 4],
}

/// A dispatch of an op's kernel.
#[derive(Clone, Debug)]
pub struct Call {
    /// The kernel.
    pub shader: &'static Shader,
    /// The format of the weights it reads.
    pub format: Option<&'static Format>,
    /// Whether its activations have two planes.
    pub precise: bool,
    /// Values of the shader's overrides.
    pub constants: Vec<(&'static str, u32)>,
    /// The bytes of its parameters.
    pub params: Vec<u8>,
    /// Workgroups for a row.
    pub groups: u32,
    /// What is bound behind the state and the parameters.
    pub operands: Vec<Operand>,
}

impl Call {
    /// A dispatch of so many workgroups for each row, `[x, rows, 1]`.
    fn new(
        shader: &'static Shader,
        params: &impl bytemuck::NoUninit,
        groups: [u32; 3],
        operands: impl Into<Vec<Operand>>,
    ) -> Self {
        let params = bytemuck::bytes_of(params).to_vec();
        let (constants, operands) = (Vec::new(), operands.into());
        Self { shader, format: None, precise: false, constants, params, groups: groups[0], operands }
    }
}

/// What a kernel binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// The rows of a buffer.
    Rows(BufferId),
    /// A vector, or something that is not read where there is none.
    Vector(Option<WeightId>),
    /// The part of the op's matrix.
    Matrix,
    /// A table of angles.
    Angles(AnglesId),
    /// The keys of a cache.
    Keys(CacheId),
    /// The values of a cache.
    Values(CacheId),
    /// Room for attention's scores.
    Scores,
    /// The tokens' ids.
    Ids,
    /// The rows whose logits are wanted.
    Wanted,
}

/// Declares the ops: those that are computed row by row, then the others.
macro_rules! ops {
    (
        rows { $($(#[$row_doc:meta])* $row:ident in $row_module:ident;)* }
        others { $($(#[$doc:meta])* $name:ident in $module:ident;)* }
    ) => {
        $(pub mod $row_module; pub use $row_module::$row;)*
        $(pub mod $module; pub use $module::$name;)*

        /// One operation on buffers. All rows of a batch are independent but for attention, which reads the cache.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Op {
            $($(#[$row_doc])* $row($row),)*
            $($(#[$doc])* $name($name),)*
        }

        impl Op {
            fn operation(&self) -> &dyn Operation {
                match self {
                    $(Self::$row(op) => op,)*
                    $(Self::$name(op) => op,)*
                }
            }

            /// The op as one that is computed row by row; `None` for others.
            pub fn per_row(&self) -> Option<&dyn PerRow> {
                match self {
                    $(Self::$row(op) => Some(op),)*
                    _ => None,
                }
            }

            /// The op as one that needs more than a row; `None` for those that are computed row by row.
            pub fn whole(&self) -> Option<&dyn Whole> {
                match self {
                    $(Self::$name(op) => Some(op),)*
                    _ => None,
                }
            }

            /// One row of an op that is computed row by row, to be compiled for the instructions of its caller.
            #[inline(always)]
            pub fn row(&self, shapes: &Shapes<'_>, from: Row<'_, f32>, out: &mut [f32]) {
                match self {
                    $(Self::$row(op) => op.row(shapes, from, out),)*
                    _ => {}
                }
            }

            /// The op's name.
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$row(_) => stringify!($row_module),)*
                    $(Self::$name(_) => stringify!($module),)*
                }
            }

            /// Examples of every op that is computed row by row ([`PerRow::examples`]).
            pub fn examples(width: usize) -> Vec<Op> {
                [$($row::examples(width)),*].concat()
            }

            /// Examples of every other op ([`Whole::examples`]).
            pub fn whole_examples(floats: examples::Floats<'_>) -> Vec<examples::Example> {
                [$($name::examples(&mut *floats)),*].concat()
            }
        }
    };
}

ops! {
    rows {
        /// Normalises a row and scales it by a vector.
        RmsNorm in rms_norm;
        /// Rotates pairs of each head in place.
        Rope in rope;
        /// `out = silu(a) * b`.
        SiluMul in silu_mul;
        /// `out = gelu(a) * b`.
        GeluMul in gelu_mul;
        /// `x = x + b`.
        Add in add;
        /// `x = x * by`.
        Scale in scale;
        /// `x = cap * tanh(x / cap)`.
        SoftCap in soft_cap;
        /// The gate of gpt-oss.
        ClampedGate in clamped_gate;
        /// `x = x * sigmoid(h · weight)`.
        RowGate in row_gate;
        /// Columns of heads.
        Columns in columns;
        /// The best experts and what they weigh.
        Route in route;
        /// The results of the chosen experts, added up.
        Combine in combine;
    }
    others {
        /// Rows of a matrix by token id.
        Embedding in embedding;
        /// Turns a row into integers.
        QuantizeActivations in quantize_activations;
        /// Multiplies with a matrix and adds a bias.
        Matmul in matmul;
        /// Multiplies with the matrices of the chosen experts.
        ExpertMatmul in expert_matmul;
        /// Appends keys and values to a cache.
        KvStore in kv_store;
        /// Attends over a cache, which every row's keys and values were appended to.
        Attention in attention;
        /// The rows whose logits are wanted, in order.
        Gather in gather;
    }
}

impl Op {
    /// The buffers the op reads; attention reads a cache, too.
    pub fn reads(&self) -> impl Iterator<Item = BufferId> {
        self.operation().reads().into_iter().flatten()
    }

    /// The buffer the op writes; `None` for the cache.
    pub fn output(&self) -> Option<BufferId> {
        self.operation().output()
    }

    /// Whether the op reads or writes a buffer.
    pub fn touches(&self, id: BufferId) -> bool {
        self.reads().chain(self.output()).any(|b| b == id)
    }

    /// What the words of its output are.
    pub fn words(&self) -> Words {
        self.operation().words()
    }

    /// Whether the op changes a buffer that it reads.
    pub fn is_in_place(&self) -> bool {
        self.operation().is_in_place()
    }

    /// Whether it runs for every row, whatever is wanted.
    pub fn needs_every_row(&self) -> bool {
        self.operation().needs_every_row()
    }

    /// The cache it appends to.
    pub fn appends_to(&self) -> Option<CacheId> {
        self.operation().appends_to()
    }

    /// The cache it reads.
    pub fn attends_to(&self) -> Option<CacheId> {
        self.operation().attends_to()
    }

    /// The matrix it reads.
    pub fn matrix(&self) -> Option<WeightId> {
        self.operation().matrix()
    }

    /// Fails unless the shapes of its operands fit together ([`Operation::check`]).
    ///
    /// # Errors
    /// What does not fit.
    pub fn check(&self, shapes: &Shapes<'_>) -> Result<(), String> {
        self.operation().check(shapes)
    }

    /// Its dispatch on a GPU ([`Operation::call`]).
    pub fn call(&self, shapes: &Shapes<'_>, context: usize, part: &Part) -> Call {
        self.operation().call(shapes, context, part)
    }
}
