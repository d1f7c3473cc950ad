//! What ops in double precision work on: the plan as its weights mean it, with nothing rounded on the way.

use super::shapes::{BufferId, CacheId, Shapes, WeightId};

/// The operands of ops in double precision: rows of all tokens of a prompt, caches that hold these tokens alone.
pub trait Memory64: Sync {
    /// The shapes of the plan.
    fn shapes(&self) -> Shapes<'_>;

    /// The tokens' ids.
    fn ids(&self) -> &[u32];

    /// The rows of a buffer, `[rows, width]`.
    fn rows(&self, id: BufferId) -> &[f64];

    /// Keys and values of a cache, `[position, width]` each.
    fn cache(&self, id: CacheId) -> [&[f64]; 2];

    /// A dequantised row of a weight.
    fn weight(&self, id: WeightId, row: usize) -> Vec<f64>;

    /// A vector; nothing where there is none.
    fn vector(&self, id: Option<WeightId>) -> Vec<f64> {
        id.map_or_else(Vec::new, |id| self.weight(id, 0))
    }
}

/// The sum of products, as eight partial sums, so that a compiler can use vectors.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; 8];
    let (a8, a_rest) = a.as_chunks::<8>();
    let (b8, b_rest) = b.as_chunks::<8>();
    for (a, b) in a8.iter().zip(b8) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}
