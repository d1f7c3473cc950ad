//! Which positions the caches still have. A layer with a window needs no others than those that the next batch sees: its cache has tiles
//! for them, which take turns, and a new one replaces the oldest.

use super::{BatchError, Sizes};
use crate::plan::{CacheSpec, Plan, TILE};

/// Positions behind the last one wanted that a backend may write when it works ahead.
pub(super) const AHEAD: usize = 32;

impl Sizes {
    /// Gives caches as many tiles as their windows need, where that is less than the context has: those that the rows of a batch see
    /// before it, those of the batch or of what is computed ahead, and one, as both may begin within a tile.
    pub(crate) fn fit(&self, plan: &mut Plan) {
        plan.caches.iter_mut().for_each(|cache| *cache = self.fitted(*cache));
    }

    fn fitted(&self, cache: CacheSpec) -> CacheSpec {
        let needed = |window: usize| window.saturating_add(self.batch.max(AHEAD) - 1).div_ceil(TILE).saturating_add(1);
        CacheSpec { ring: cache.window.map(needed).filter(|tiles| *tiles < self.context.div_ceil(TILE)), ..cache }
    }
}

/// How far the caches were written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Kept {
    end: usize,
}

impl Kept {
    /// The first position that a cache still has.
    pub fn first(self, cache: &CacheSpec) -> usize {
        cache.ring.map_or(0, |tiles| self.end.div_ceil(TILE).saturating_sub(tiles) * TILE)
    }

    /// Whether the caches have what a row at `position` sees of the positions before it.
    pub fn resumes(self, caches: &[CacheSpec], position: usize) -> bool {
        position == 0 || caches.iter().all(|cache| self.first(cache) <= cache.first_seen(position))
    }

    /// Fails unless a batch can begin at `position`.
    ///
    /// # Errors
    /// [`BatchError::Replaced`].
    pub fn check(self, caches: &[CacheSpec], position: usize) -> Result<(), BatchError> {
        if self.resumes(caches, position) { Ok(()) } else { Err(BatchError::Replaced { position, end: self.end }) }
    }

    /// The caches hold no sequence any more: only 0 can be next.
    pub fn lose(&mut self) {
        self.end = usize::MAX;
    }

    /// Positions from `position` to before `end` are written. From 0 on a sequence begins anew.
    pub fn write(&mut self, position: usize, end: usize) {
        self.end = if position == 0 { end } else { self.end.max(end) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lost_caches_of_windows_begin_again_at_0() {
        let all = CacheSpec { kv_heads: 1, head_dim: 2, window: Some(8), ring: None };
        let (newest, mut kept) = (CacheSpec { ring: Some(3), ..all }, Kept::default());
        kept.write(0, 10);
        assert!(kept.resumes(&[newest], 10));
        kept.lose();
        assert!(kept.resumes(&[all], 10) && kept.resumes(&[newest], 0));
        assert!(kept.check(&[newest], 10).is_err());
        kept.write(0, 4);
        assert!(kept.resumes(&[newest], 4));
    }

    proptest! {
        /// What a row sees is in the cache while a sequence grows by batches, also where the backend worked ahead, and each of those
        /// positions has a place of its own.
        #[test]
        fn a_ring_has_what_is_seen(
            window in 1usize..200, batch in 1usize..100, ahead in 0..=AHEAD, steps in proptest::collection::vec(1usize..100, 1..30),
        ) {
            let (sizes, spec) = (Sizes { context: 1 << 20, batch, logits_rows: 1 }, CacheSpec { kv_heads: 1, head_dim: 2, window: Some(window), ring: None });
            let spec = sizes.fitted(spec);
            let (mut kept, mut position) = (Kept::default(), 0);
            for rows in steps {
                let rows = rows.min(batch);
                prop_assert!(kept.resumes(&[spec], position));
                kept.write(position, position + rows);
                let seen = spec.first_seen(position)..position + rows;
                prop_assert!(kept.first(&spec) <= seen.start);
                let places: std::collections::HashSet<_> = seen.clone().map(|p| spec.place(p)).collect();
                prop_assert_eq!(places.len(), seen.len());
                position += rows;
                kept.write(position, position + ahead);
            }
        }
    }
}
