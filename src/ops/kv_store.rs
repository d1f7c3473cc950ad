//! Appends keys and values to the cache, rounded to f16 in integer code.

use super::examples::{Example, Floats, Scene};
use super::float64::Memory64;
use super::shapes::{BufferId, CacheId, CacheSpec, Shapes, ensure, same};
use super::{Call, Operand, Operation, Part, Whole, Words};
use crate::numerics::f16_bits;
pub use crate::shaders::{KV_STORE as SHADER, params::KvStore as Params};

/// One row of keys or values into its place in the cache.
#[inline(always)]
pub fn cpu(x: &[f32], cache: &mut [u16]) {
    for (cache, &x) in cache.iter_mut().zip(x) {
        *cache = f16_bits(x) as u16;
    }
}

/// Words of a GPU's cache for `positions` rows of `width` elements.
pub fn cache_words(positions: usize, width: usize) -> usize {
    positions.next_multiple_of(32) * width.div_ceil(8) * 4
}

/// The word of a GPU's cache that has an even element of a row and the one behind it; twin of `cache_word` in
/// `wgsl/lib/cache.wgsl`, which says how a cache is laid out.
pub fn cache_word(position: usize, element: usize, width: usize) -> usize {
    ((position / 32 * width.div_ceil(8) + element / 8) * 32 + position % 32) * 4 + element % 8 / 2
}

/// Rows of `width` elements as a GPU's cache has them.
pub fn cache_from_rows(rows: &[u16], width: usize) -> Vec<u32> {
    let mut cache = vec![0; cache_words(rows.len() / width, width)];
    for (position, row) in rows.chunks_exact(width).enumerate() {
        for (pair, halves) in row.chunks_exact(2).enumerate() {
            let [low, high] = [halves[0], halves[1]].map(u32::from);
            cache[cache_word(position, 2 * pair, width)] = low | high << 16;
        }
    }
    cache
}

/// Workgroups for `rows` rows.
pub fn workgroups(p: &Params, rows: u32) -> [u32; 3] {
    [super::groups(p.width / 2), rows, 1]
}

/// Appends `k` and `v` to a cache.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct KvStore {
    pub k: BufferId,
    pub v: BufferId,
    pub cache: CacheId,
}

impl Operation for KvStore {
    fn reads(&self) -> [Option<BufferId>; 2] {
        [Some(self.k), Some(self.v)]
    }

    fn output(&self) -> Option<BufferId> {
        None
    }

    fn words(&self) -> Words {
        Words::Halves
    }

    fn needs_every_row(&self) -> bool {
        true
    }

    fn appends_to(&self) -> Option<CacheId> {
        Some(self.cache)
    }

    fn check(&self, shapes: &Shapes<'_>) -> Result<(), String> {
        let width = shapes.cache(self.cache)?.width();
        same("keys and a cache", shapes.float(self.k)?, width)?;
        same("values and a cache", shapes.float(self.v)?, width)?;
        ensure!(width.is_multiple_of(2), "appends to a cache of odd width {width}");
        Ok(())
    }

    fn call(&self, shapes: &Shapes<'_>, _: usize, _: &Part) -> Call {
        let p = Params { width: shapes.caches[self.cache.0].width() as u32 };
        let rows = Operand::Rows;
        let operands = [rows(self.k), rows(self.v), Operand::Keys(self.cache), Operand::Values(self.cache)];
        Call::new(&SHADER, &p, workgroups(&p, 1), operands)
    }
}

impl Whole for KvStore {
    /// The keys of every row, then the values.
    fn rows64(&self, from: &dyn Memory64) -> Vec<f64> {
        [from.rows(self.k), from.rows(self.v)].concat()
    }

    /// Two rows behind others: the keys that are stored, and the values.
    fn examples(floats: Floats<'_>) -> Vec<Example> {
        let mut all = Vec::new();
        for (kv_heads, head_dim, position) in [(1, 2, 37), (3, 30, 37), (4, 64, 5), (1, 2, 2100)] {
            let (rows, spec) = (2, CacheSpec { kv_heads, head_dim, window: None, ring: None });
            let width = spec.width();
            let kinds = [Operand::Keys(CacheId(0)), Operand::Values(CacheId(0))];
            let x = kinds.map(|_| floats(rows * width));
            let empty = vec![0u32; cache_words(position + rows, width)];
            let mut scene = Scene { cache: Some((spec, [empty.clone(), empty])), ..Scene::default() };
            let [k, v] = [&x[0], &x[1]].map(|x| scene.floats(width, x));
            for (x, kind) in x.iter().zip(kinds) {
                let mut cache = vec![0u16; (position + rows) * width];
                cpu(x, &mut cache[position * width..]);
                let shape = format!("[{rows}, {width}] at position {position}");
                let result = (kind, cache_from_rows(&cache, width));
                all.extend(scene.example(&Self { k, v, cache: CacheId(0) }, [rows, position, 0], shape, result));
            }
        }
        all
    }
}
