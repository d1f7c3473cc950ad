//! Causal attention, as models compute it: keys and values as halves, in the layout of a cache.

use super::op::{Bound, Dispatch, Domain, Fault, Input, Primitive};
use super::view::View;
use crate::backend::gpu::Kernel;
use crate::ops::attention::{Params, Scoring, cpu};
use crate::ops::shapes::{Buffer, BufferId, BufferKind, CacheId, CacheSpec, Shapes};
use crate::ops::{self, Operand, Operation, Part, kv_store};

/// Queries `[rows, heads * dim]` over keys and values `[positions, kv_heads * dim]`; the queries are those of the last positions, and each
/// sees the positions up to its own ([`crate::ops::Attention`]).
#[derive(Debug)]
pub(super) struct Attention {
    pub heads: usize,
    pub kv_heads: usize,
    pub dim: usize,
}

/// The operands and the result.
const Q: BufferId = BufferId(0);
const K: BufferId = BufferId(1);
const V: BufferId = BufferId(2);
const OUT: BufferId = BufferId(3);

impl Attention {
    fn spec(&self) -> CacheSpec {
        CacheSpec { kv_heads: self.kv_heads, head_dim: self.dim, window: None, ring: None }
    }

    fn op(&self) -> ops::Attention {
        let scoring = Scoring::usual(self.dim);
        ops::Attention { q: Q, out: OUT, cache: CacheId(0), heads: self.heads, scoring }
    }

    /// Rows of queries, and positions.
    fn sizes(&self, q: &View, k: &View) -> [usize; 2] {
        [q.len() / (self.heads * self.dim), k.len() / self.spec().width()]
    }
}

impl Primitive for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu(&self, inputs: &[Input<'_, u32>], _: &[usize], out: &mut [u32], _: Domain<'_>) -> Result<(), Fault> {
        let [rows, positions] = self.sizes(inputs[0].view, inputs[1].view);
        let numbers = |i: usize| inputs[i].elements().map(f32::from_bits).collect::<Vec<_>>();
        let halves = |i: usize| {
            let mut halves = vec![0; inputs[i].view.len()];
            kv_store::cpu(&numbers(i), &mut halves);
            halves
        };
        let (q, k, v) = (numbers(0), halves(1), halves(2));
        let p = Params::new(self.heads, self.spec(), Scoring::usual(self.dim), positions);
        let (mut scores, mut result) = (vec![0.0; positions], vec![0.0; self.dim]);
        for (i, (q, out)) in q.chunks_exact(self.dim).zip(out.chunks_exact_mut(self.dim)).enumerate() {
            let count = positions - rows + i / self.heads + 1;
            cpu(&p, i % self.heads, count, q, &k, &v, &[], &mut scores, &mut result);
            out.iter_mut().zip(&result).for_each(|(out, x)| *out = x.to_bits());
        }
        Ok(())
    }

    fn double(&self, inputs: &[Input<'_, f64>], _: &[usize], out: &mut [f64]) -> Result<(), Fault> {
        let [rows, positions] = self.sizes(inputs[0].view, inputs[1].view);
        let [q, k, v] = [0, 1, 2].map(|i| inputs[i].elements().collect::<Vec<f64>>());
        let (op, width) = (self.op(), self.spec().width());
        for (i, out) in out.chunks_exact_mut(self.dim).enumerate() {
            let (row, head) = (i / self.heads, i % self.heads);
            let q = &q[row * self.heads * self.dim..][..self.heads * self.dim];
            let weights = op.weights64(self.spec(), [head, positions - rows + row], q, &k, &[]);
            let at = head / (self.heads / self.kv_heads) * self.dim;
            for (d, out) in out.iter_mut().enumerate() {
                *out = weights.iter().enumerate().map(|(p, w)| w * v[p * width + at + d]).sum();
            }
        }
        Ok(())
    }

    /// Keys, values, and scores.
    fn scratch(&self, inputs: &[&View], _: &[usize]) -> Vec<usize> {
        let [rows, positions] = self.sizes(inputs[0], inputs[1]);
        let cache = kv_store::cache_words(positions, self.spec().width());
        vec![cache, cache, rows * self.heads * positions]
    }

    fn gpu(&self, inputs: &[&View], _: &[usize], _: u32) -> Vec<Dispatch> {
        let [rows, positions] = self.sizes(inputs[0], inputs[1]);
        let buffer = |width| Buffer { name: String::new(), width, kind: BufferKind::Float, wanted: false };
        let [wide, narrow] = [self.heads * self.dim, self.spec().width()];
        let buffers = [wide, narrow, narrow, wide].map(buffer);
        let shapes = Shapes {
            precision: Default::default(),
            buffers: &buffers,
            weights: &[],
            caches: &[self.spec()],
            angles: &[],
        };
        let call = |op: &dyn Operation, rows: usize, position: usize| {
            let call = op.call(&shapes, positions, &Part::default());
            let bound = |operand: &Operand| match operand {
                Operand::Rows(OUT) => Bound::Out,
                Operand::Rows(BufferId(i)) => Bound::Input(*i),
                Operand::Keys(_) => Bound::Scratch(0),
                Operand::Values(_) => Bound::Scratch(1),
                Operand::Scores => Bound::Scratch(2),
                _ => Bound::Words(vec![0; 4]),
            };
            Dispatch {
                kernel: Kernel::new(call.shader),
                bindings: call.operands.iter().map(bound).collect(),
                params: call.params,
                groups: [call.groups, rows as u32, 1],
                rows: rows as u32,
                position: position as u32,
            }
        };
        let store = ops::KvStore { k: K, v: V, cache: CacheId(0) };
        vec![call(&store, positions, 0), call(&self.op(), rows, positions - rows)]
    }
}
