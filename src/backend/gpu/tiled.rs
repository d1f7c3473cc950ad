//! Kernels for many rows at once, with the bits of the plain ones: matrix products and attention over tiles in workgroup
//! memory, quantisation together with the steps before it.

use super::attend::heads_kernel;
use super::device::Device;
use super::pipelines::Kernel;
use crate::numerics::Precision;
use crate::ops;
use crate::plan::{BufferId, BufferKind, Op, Plan, WeightId};
use crate::quant::{CHUNK, Decode, Format};
use crate::shaders::{Shader, TILED_ATTENTION, TILED_QUANTIZE, params};

/// Rows from which on a batch is computed in tiles.
pub(super) const MIN_ROWS: usize = 16;

/// Activation rows of a tile of a matrix product.
pub(super) const MATMUL_ROWS: u32 = 64;

/// Rows of a tile of attention.
pub(super) const ATTENTION_ROWS: u32 = 32;

/// Dimensions of a part of heads that attention does not take whole.
const ATTENTION_PART: usize = 64;

/// The kernel of a product of tiles of `tokens` activation rows, 64 or 32, with a matrix of `rows`, and how many weight rows a workgroup
/// takes; `None` where the format is plain numbers or the device has too little workgroup memory.
pub(super) fn matmul(
    device: &Device,
    shader: &'static Shader,
    tokens: u32,
    format: &'static Format,
    rows: usize,
    precise: bool,
) -> Option<(Kernel, u32)> {
    let Decode::Block { activation, sub_block, .. } = format.decode else { return None };
    // Large tiles pay where a block's float work is rare, and leave a large GPU idle where a matrix is small. Many devices have
    // memory for small ones only.
    let large = activation > CHUNK && sub_block == CHUNK && rows >= 1024 && tokens == MATMUL_ROWS;
    let kernel = |deep| {
        let kernel = Kernel::new(shader).format(format).precise(precise).with("DEEP", deep);
        if tokens == MATMUL_ROWS { kernel } else { kernel.with("THREADS", 4 * tokens) }
    };
    let fits = |deep: &u32| (large || *deep == 4) && kernel(*deep).fits(&device.limits);
    let deep = [8, 4].into_iter().find(fits)?;
    Some((kernel(deep), 16 * deep))
}

/// The kernel of a product with rows of `cols` plain numbers, and how many weight rows a workgroup takes; `None` where rows are
/// not whole chunks or the device has too little workgroup memory.
pub(super) fn floats(
    device: &Device,
    shader: &'static Shader,
    format: &'static Format,
    cols: usize,
) -> Option<(Kernel, u32)> {
    let kernel = Kernel::new(shader).format(format);
    let takes = format.activation_block().is_none() && cols.is_multiple_of(CHUNK) && kernel.fits(&device.limits);
    takes.then_some((kernel, 64))
}

/// The kernel of attention and its parameters; `None` for sizes of heads that it does not take.
pub(super) fn attention(device: &Device, plan: &Plan, op: &ops::Attention) -> Option<(Kernel, params::TiledAttention)> {
    let spec = plan.caches[op.cache.0];
    let whole = heads_kernel(&TILED_ATTENTION, spec, op.scoring);
    let parts = heads_kernel(&TILED_ATTENTION, spec, op.scoring).with("PART_QUADS", ATTENTION_PART as u32 / 4);
    // With the most dimensions of a head, and what these are multiples of.
    let kernels = [(whole, 2 * ATTENTION_PART, 32), (parts, 4 * ATTENTION_PART, ATTENTION_PART)];
    let takes = |(kernel, most, multiple): &(Kernel, usize, usize)| {
        spec.head_dim <= *most && spec.head_dim.is_multiple_of(*multiple) && kernel.fits(&device.limits)
    };
    let (kernel, ..) = kernels.into_iter().find(takes)?;
    let ops::attention::Params { heads, kv_heads, scale, cap, .. } = op.params(&plan.shapes(), 0);
    Some((kernel, params::TiledAttention { heads, kv_heads, scale, cap }))
}

/// Chunks of a row that a workgroup quantises where no norm comes before: whole blocks, two items a thread.
const SECTION: u32 = 64;

/// How quantised rows are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Layout {
    /// One row behind the other.
    InOrder,
    /// The same, and for matrix units as halves, of at most so many rows.
    Halves(usize),
    /// As `wgsl/lib/lanewise.wgsl` has it, at most so many rows.
    Lanewise(usize),
}

/// Words of so many rows of `width` elements in blocks of `block` in the layout of `wgsl/lib/lanewise.wgsl`.
pub(super) fn lanewise_words(width: usize, block: usize, precise: bool, rows: usize) -> usize {
    let (lanes, span, quads) = ((width / block).div_ceil(8), block / CHUNK, rows.div_ceil(4));
    let (each, planes) = (lanes * span, if precise { 2 } else { 1 });
    4 * quads * (each * planes * (64 + 16) + 8 * lanes)
}

/// Steps that a kernel takes together before many rows are quantised.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Quantize {
    /// How many steps of the plan these are.
    pub steps: usize,
    /// What is quantised, and where to.
    pub x: BufferId,
    pub out: BufferId,
    /// Added to `x`, which keeps the sum.
    pub residual: Option<BufferId>,
    /// A norm's weights and epsilon.
    pub norm: Option<(WeightId, f32)>,
    /// `x` is a gate for this.
    pub gate: Option<BufferId>,
}

impl Quantize {
    /// Nothing but the quantisation.
    pub fn alone(x: BufferId, out: BufferId) -> Self {
        Self { steps: 1, x, out, residual: None, norm: None, gate: None }
    }

    /// The steps from `at` on that one kernel can take: up to a quantisation whose input nothing else reads.
    pub fn find(plan: &Plan, at: usize) -> Option<Self> {
        let none = |x, out, steps| Self { steps, ..Self::alone(x, out) };
        let ops: Vec<&Op> = plan.steps[at..].iter().take(3).map(|s| &s.op).collect();
        // Whether no step behind these reads what the buffer holds now.
        let only = |buffer: BufferId, behind: usize| {
            plan.is_over(buffer, at + behind - 1, |i| plan.steps[i].op.reads().any(|b| b == buffer))
        };
        let found = match ops[..] {
            [
                Op::Add(ops::Add { x, b }),
                Op::RmsNorm(ops::RmsNorm { x: y, weight, out: n, eps }),
                Op::QuantizeActivations(ops::QuantizeActivations { x: m, out }),
            ] if x == y && n == m && only(*n, 3) => {
                Self { residual: Some(*b), norm: Some((*weight, *eps)), ..none(*x, *out, 3) }
            }
            [
                Op::RmsNorm(ops::RmsNorm { x, weight, out: n, eps }),
                Op::QuantizeActivations(ops::QuantizeActivations { x: m, out }),
                ..,
            ] if n == m && only(*n, 2) => Self { norm: Some((*weight, *eps)), ..none(*x, *out, 2) },
            [
                Op::SiluMul(ops::SiluMul { a, b, out: h }),
                Op::QuantizeActivations(ops::QuantizeActivations { x: m, out }),
                ..,
            ] if h == m && only(*h, 2) => Self { gate: Some(*b), ..none(*a, *out, 2) },
            [Op::QuantizeActivations(ops::QuantizeActivations { x, out }), ..] => none(*x, *out, 1),
            _ => return None,
        };
        let width = plan.buffers[found.x.0].width;
        // The kernel may write what it quantises.
        if found.residual.or(found.gate) == Some(found.x) {
            return None;
        }
        let whole_rows = found.norm.is_none_or(|(weight, _)| plan.weights[weight.0].cols == width);
        (whole_rows && width.is_multiple_of(CHUNK)).then_some(found)
    }

    /// Whether the device has enough workgroup memory to store halves of rows of so many chunks, whatever comes before.
    pub fn fits(device: &Device, chunks: usize) -> bool {
        let kernel = Kernel::new(&TILED_QUANTIZE).with("CHUNKS", chunks as u32).with("NORM", 1).with("HALVES", 1);
        kernel.fits(&device.limits)
    }

    /// The kernel, its parameters and the workgroups for a row; `None` where the device has too little workgroup memory.
    pub fn kernel(&self, device: &Device, plan: &Plan, layout: Layout) -> Option<(Kernel, params::TiledQuantize, u32)> {
        let BufferKind::Quantized(block) = plan.buffers[self.out.0].kind else { return None };
        let width = plan.buffers[self.x.0].width;
        let (chunks, span) = ((width / CHUNK) as u32, (block / CHUNK) as u32);
        let yes = |b: bool| u32::from(b);
        // A norm is of a whole row.
        let section = if self.norm.is_some() { chunks } else { SECTION.min(chunks) };
        let kernel = Kernel::new(&TILED_QUANTIZE)
            .precise(plan.precision == Precision::Precise)
            .with("RESIDUAL", yes(self.residual.is_some()))
            .with("NORM", yes(self.norm.is_some()))
            .with("GATE", yes(self.gate.is_some()))
            .with("THREADS", section.next_multiple_of(32).min(256))
            .with("CHUNKS", chunks)
            .with("SECTION", 2 * section)
            .with("SPAN", span)
            .with("HALVES", yes(matches!(layout, Layout::Halves(_))))
            .with("LANEWISE", yes(matches!(layout, Layout::Lanewise(_))));
        let p = params::TiledQuantize {
            stride: ops::quantize_activations::stride(width, block, plan.precision) as u32,
            eps: self.norm.map_or(0.0, |n| n.1),
            inverse_width: 1.0 / width as f32,
            steps: plan.precision.steps(),
            inverse_steps: plan.precision.inverse_steps(),
            places: match layout {
                Layout::InOrder => 0,
                Layout::Halves(rows) | Layout::Lanewise(rows) => rows as u32,
            },
        };
        kernel.fits(&device.limits).then_some((kernel, p, chunks.div_ceil(section)))
    }
}
