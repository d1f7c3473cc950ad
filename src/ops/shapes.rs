//! What ops work on: buffers, weights, caches and tables of angles by number, and their shapes.

use crate::numerics::Precision;
use crate::quant::Format;

/// Index of a buffer in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BufferId(pub usize);

/// Index of a weight in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WeightId(pub usize);

/// Index of a cache in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheId(pub usize);

/// Index of a table of angles in its plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AnglesId(pub usize);

/// Keys and values of a layer, `[position, kv_heads * head_dim]` each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheSpec {
    /// Key and value heads.
    pub kv_heads: usize,
    /// Elements per head.
    pub head_dim: usize,
    /// How many positions a row sees, its own among them; `None` for all.
    pub window: Option<usize>,
    /// Tiles of [`TILE`] positions that the cache has, where fewer than a context has take turns: a new tile replaces the oldest. `None`
    /// where each has its own place, which is how a model makes a plan; a backend says otherwise once its sizes are known.
    pub ring: Option<usize>,
}

/// Positions that a GPU's cache has together, and that sums of attention take at once.
pub const TILE: usize = 32;

/// A table of RoPE angles.
#[derive(Clone, Debug, PartialEq)]
pub struct Angles {
    /// Radians per position, one per pair.
    pub frequencies: Vec<f64>,
    /// What cosines and sines are multiplied by.
    pub magnitude: f64,
}

impl Angles {
    /// A table of these frequencies that keeps lengths.
    pub fn new(frequencies: Vec<f64>) -> Self {
        Self { frequencies, magnitude: 1.0 }
    }

    /// The table of a base for heads of `dims` elements: `base^(-2i / dims)` for pair `i`.
    pub fn of(base: f64, dims: usize) -> Self {
        Self::new((0..dims / 2).map(|i| libm::pow(base, -2.0 * i as f64 / dims as f64)).collect())
    }
}

impl CacheSpec {
    /// The first position that is seen from another.
    pub fn first_seen(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Where a cache keeps a position.
    pub fn place(&self, position: usize) -> usize {
        self.ring.map_or(position, |tiles| position % (TILE * tiles))
    }

    /// Positions that a cache keeps of a context.
    pub fn kept(&self, context: usize) -> usize {
        self.ring.map_or(context, |tiles| TILE * tiles)
    }

    /// Elements per position of the keys, and of the values.
    pub fn width(&self) -> usize {
        self.kv_heads * self.head_dim
    }
}

/// A buffer with one row per token.
#[derive(Clone, Debug, PartialEq)]
pub struct Buffer {
    /// Name for reports.
    pub name: String,
    /// Elements per row.
    pub width: usize,
    /// What the elements are.
    pub kind: BufferKind,
    /// Whether it has rows for those tokens only whose logits are wanted; else it has one for every token of a batch.
    pub wanted: bool,
}

/// What a buffer holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BufferKind {
    /// f32.
    Float,
    /// Integers with one scale per block of so many elements.
    Quantized(usize),
}

/// A tensor of the model file.
#[derive(Clone, Debug)]
pub struct Weight {
    /// Its name in the file.
    pub name: String,
    /// How its bytes are read.
    pub format: &'static Format,
    /// The first of its rows in the tensor.
    pub first: usize,
    /// Rows; 1 for a vector.
    pub rows: usize,
    /// Elements per row.
    pub cols: usize,
}

impl Weight {
    /// Bytes of its rows.
    pub fn bytes(&self) -> usize {
        self.rows * self.format.row_bytes(self.cols)
    }
}

/// The shapes of a plan.
#[derive(Clone, Copy, Debug)]
pub struct Shapes<'a> {
    /// How activations are rounded.
    pub precision: Precision,
    /// The buffers.
    pub buffers: &'a [Buffer],
    /// The weights.
    pub weights: &'a [Weight],
    /// The caches.
    pub caches: &'a [CacheSpec],
    /// Tables of RoPE angles.
    pub angles: &'a [Angles],
}

/// Fails with a reason unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($reason:tt)*) => {
        if !$condition {
            return Err(format!($($reason)*));
        }
    };
}
pub(crate) use ensure;

/// Fails unless two widths are the same.
pub(super) fn same(what: &str, a: usize, b: usize) -> Result<(), String> {
    if a == b { Ok(()) } else { Err(format!("has {what} of different widths, {a} and {b}")) }
}

impl<'a> Shapes<'a> {
    /// Elements per row of a buffer.
    pub fn width(&self, id: BufferId) -> usize {
        self.buffers[id.0].width
    }

    /// The width of a buffer of f32.
    pub(super) fn float(&self, id: BufferId) -> Result<usize, String> {
        let buffer = &self.buffers[id.0];
        ensure!(buffer.kind == BufferKind::Float, "uses '{}' as f32, but it holds integers", buffer.name);
        ensure!(buffer.width > 0, "uses '{}', which has no elements", buffer.name);
        Ok(buffer.width)
    }

    pub(super) fn weight(&self, id: WeightId) -> Result<&'a Weight, String> {
        self.weights.get(id.0).ok_or_else(|| format!("uses weight {}, which the plan does not have", id.0))
    }

    pub(super) fn cache(&self, id: CacheId) -> Result<CacheSpec, String> {
        let caches = self.caches;
        caches.get(id.0).copied().ok_or_else(|| format!("uses the cache {} of {}", id.0, caches.len()))
    }

    /// Fails unless a weight is a vector of so many elements.
    pub(super) fn vector(&self, id: WeightId, elements: usize) -> Result<(), String> {
        let w = self.weight(id)?;
        ensure!(
            w.rows == 1 && w.cols == elements,
            "needs a vector of {elements}, but '{}' is [{}, {}]",
            w.name,
            w.rows,
            w.cols
        );
        Ok(())
    }
}
