//! The pieces that a plan is cut into, for single tokens and for a few rows: what they compute, and by which kernels.

use std::ops::Range;

use crate::ops;
use crate::plan::{AnglesId, BufferId, CacheId, Plan, WeightId};
use crate::quant::CHUNK;
use crate::shaders::{self, Shader};

/// A product with a matrix, and its bias.
#[derive(Clone, Debug)]
pub(super) struct Product {
    pub step: usize,
    pub weight: WeightId,
    pub bias: Option<WeightId>,
    pub out: BufferId,
    /// Whose matrices these are, where a row chooses them.
    pub experts: Option<Experts>,
}

/// Matrices of experts that a row chooses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Experts {
    /// The choice; without one, a slot's expert is that of its number.
    pub routes: Option<BufferId>,
    /// Experts in a tensor.
    pub count: usize,
    /// Experts that are used: slots of a row.
    pub used: usize,
    /// Whether the input has elements for each slot.
    pub slotted: bool,
}

/// A norm: its weights and epsilon.
#[derive(Clone, Copy, Debug)]
pub(super) struct Norm {
    pub weight: WeightId,
    pub eps: f32,
}

/// What happens to products before they are stored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    /// Nothing.
    Rows,
    /// They are queries, keys and values: the first two are rotated, the last two go to a cache.
    Heads { angles: AnglesId, cache: CacheId, neox: bool },
    /// The first is a gate for the second.
    Gate { out: BufferId, gate: Gate },
    /// `x = x + product`.
    Residual { x: BufferId },
    /// The results of the chosen experts, weighted and added up: `out = sum`, or `out = out + sum`.
    Sum { out: BufferId, residual: bool },
}

/// A gate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Gate {
    Silu,
    Gelu,
    Clamped,
}

/// Queries, keys and values between their products and attention.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeadSteps {
    pub q: BufferId,
    pub k: BufferId,
    pub v: BufferId,
    /// The queries that attention reads.
    pub out: BufferId,
    /// Of queries and of keys.
    pub norms: Option<[Norm; 2]>,
    /// The table of angles, and whether pairs are of halves.
    pub rope: Option<(AnglesId, bool)>,
    pub cache: CacheId,
}

/// A branch on its way back to the stream: `x = x + scale * norm(branch)`.
#[derive(Clone, Copy, Debug)]
pub(super) struct JoinSteps {
    pub x: BufferId,
    pub branch: BufferId,
    pub norm: Option<Norm>,
    pub scale: Option<f32>,
}

/// What comes before products, in their kernel.
#[derive(Clone, Copy, Debug)]
pub(super) struct Before {
    /// A branch joins the row; then there is a norm.
    pub join: Option<JoinSteps>,
    pub norm: Option<Norm>,
}

/// Attention, of whose heads the first elements are left.
#[derive(Clone, Debug)]
pub(super) struct AttentionSteps {
    pub op: ops::Attention,
    pub out: BufferId,
    /// Elements of a head in `out`.
    pub values: usize,
}

/// What a piece computes.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// A quantisation whose readers make it themselves.
    Nothing,
    /// A row of a matrix by the token's id.
    Embedding { weight: WeightId, out: BufferId },
    /// Products of one row.
    Products { x: BufferId, before: Before, products: Vec<Product>, end: End },
    /// Heads on their way to attention.
    Heads(HeadSteps),
    /// A branch that joins the stream.
    Join(JoinSteps),
    /// Attention.
    Attention(AttentionSteps),
    /// The only row is the wanted one: `out` is another name for `x`.
    Same { x: BufferId, out: BufferId },
    /// A step by its plain kernel.
    Plain,
}

/// Steps that are computed at once.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub steps: Range<usize>,
    /// Those of them whose outputs it leaves.
    pub leaves: Vec<usize>,
    pub work: Work,
}

/// Whether the fused kernels are made for the shapes of some work, on any device.
///
/// # Errors
/// Why not.
pub(super) fn shapes(plan: &Plan, work: &Work) -> Result<(), String> {
    let whole = |name: &str, elements: usize| match elements % CHUNK {
        0 => Ok(()),
        _ => Err(format!("'{name}' has rows of {elements} elements, no multiple of {CHUNK}")),
    };
    match work {
        Work::Products { end: End::Heads { angles, cache, neox: true }, .. }
            if !plan.angles[angles.0].frequencies.len().is_multiple_of(2)
                || !plan.caches[cache.0].head_dim.is_multiple_of(4) =>
        {
            Err("pairs of halves are taken two at a time".to_owned())
        }
        Work::Products { products, end, .. } => products.iter().try_for_each(|p| {
            let w = &plan.weights[p.weight.0];
            whole(&w.name, w.cols)?;
            let rows = w.rows / p.experts.map_or(1, |e| e.count);
            match end {
                End::Gate { .. } | End::Residual { .. } | End::Sum { residual: true, .. } => whole("the result", rows),
                _ => Ok(()),
            }
        }),
        Work::Heads(h) => match plan.caches[h.cache.0].head_dim {
            d if d <= 256 => Ok(()),
            d => Err(format!("the head size is {d}, more than 256")),
        },
        Work::Join(j) => whole(&plan.buffers[j.x.0].name, plan.buffers[j.x.0].width),
        Work::Attention(AttentionSteps { op, values, .. }) => match plan.caches[op.cache.0].head_dim {
            _ if !values.is_multiple_of(CHUNK) => {
                Err(format!("{values} values of a head are left, no multiple of {CHUNK}"))
            }
            d if d.is_multiple_of(CHUNK) && d <= 1024 => Ok(()),
            d => Err(format!("the head size is {d}, no multiple of {CHUNK} up to 1,024")),
        },
        _ => Ok(()),
    }
}

impl Piece {
    /// The kernel that computes it; none where there is nothing to do.
    pub fn kernel(&self, plan: &Plan) -> Option<&'static str> {
        match self.work {
            Work::Nothing | Work::Same { .. } => None,
            _ => Some(self.work.kernel().unwrap_or(plan.steps[self.steps.start].op.name())),
        }
    }
}

impl Work {
    /// The fused kernel that computes it.
    fn kernel(&self) -> Option<&'static str> {
        Some(match self {
            Self::Products { before, products, end, .. } => end.shader(*before, products)?.name,
            Self::Attention(_) => shaders::ATTEND.name,
            Self::Heads(_) => shaders::HEADS.name,
            Self::Join(_) => shaders::JOIN.name,
            Self::Embedding { .. } | Self::Nothing | Self::Same { .. } | Self::Plain => return None,
        })
    }
}

impl End {
    /// The kernel of products with this end; `None` if there is none.
    pub fn shader(self, before: Before, products: &[Product]) -> Option<&'static Shader> {
        use shaders::*;
        let joined = before.join.is_some();
        Some(match (self, joined) {
            _ if products.iter().any(|p| p.experts.is_some()) => match (self, products.len()) {
                _ if joined => return None,
                (Self::Gate { .. }, 2) => &EXPERT_GATE,
                (Self::Rows, 1) => &EXPERT_ROWS,
                (Self::Sum { .. }, 1) => &EXPERT_SUM,
                _ => return None,
            },
            (Self::Rows, false) if products.len() == 1 => &PRODUCTS,
            (Self::Rows, false) => &SIBLINGS,
            (Self::Rows, true) => &SIBLINGS_JOINED,
            (Self::Heads { .. }, false) => &QKV,
            (Self::Heads { .. }, true) => &QKV_JOINED,
            (Self::Gate { .. }, false) => &GATE_UP,
            (Self::Gate { .. }, true) => &GATE_UP_JOINED,
            (Self::Residual { .. }, false) => &RESIDUAL,
            (Self::Residual { .. }, true) | (Self::Sum { .. }, _) => return None,
        })
    }

    /// The same for a few rows, spread as a single one or with a thread for a lane of S8.
    pub fn few_shader(self, products: &[Product], as_one: bool) -> Option<&'static Shader> {
        use shaders::*;
        let [spread, lanes] = match self {
            _ if products.iter().any(|p| p.experts.is_some()) => return None,
            Self::Sum { .. } => return None,
            Self::Rows if products.len() == 1 => [&GIVEN_PRODUCTS, &FEW_PRODUCTS],
            Self::Rows => [&GIVEN_SIBLINGS, &FEW_SIBLINGS],
            Self::Heads { .. } => [&GIVEN_QKV, &FEW_QKV],
            Self::Gate { .. } => [&GIVEN_GATE_UP, &FEW_GATE_UP],
            Self::Residual { .. } => [&GIVEN_RESIDUAL, &FEW_RESIDUAL],
        };
        Some(if as_one { spread } else { lanes })
    }
}
