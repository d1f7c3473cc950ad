//! Steps that run as one: their dispatches, and where their outputs are. Plans become lists of groups, for a few rows, for many and
//! for single tokens; running, listening to and timing them is the same for all.

use super::device::Device;
use super::lower::{Dispatch, Resources};
use crate::backend::BackendError;
use crate::plan::{CacheId, CacheSpec, Plan, Step};

/// Steps that run as one.
#[derive(Clone)]
pub(super) struct Group {
    /// Places of the steps in the plan.
    pub steps: Vec<usize>,
    pub kernels: Kernels,
    pub outputs: Vec<Output>,
}

/// What a group leaves behind: the output of a step.
#[derive(Clone)]
pub(super) struct Output {
    /// The step's place in the plan.
    pub step: usize,
    pub place: Place,
}

/// Where an output is.
#[derive(Clone)]
pub(super) enum Place {
    /// Rows of so many words in order.
    Rows(wgpu::Buffer, usize),
    /// A row of so many elements in the layout of items.
    Items(wgpu::Buffer, usize),
    /// The newest positions of a cache.
    Cache(CacheId),
}

/// The dispatches of a group.
#[derive(Clone)]
pub(super) enum Kernels {
    /// The same at every position.
    Fixed(Vec<Dispatch>),
    /// With the most rows each takes; the last takes any number.
    Few(Vec<(usize, Vec<Dispatch>)>),
    /// Attention, by the length of the cache.
    Attention {
        /// The cache.
        spec: CacheSpec,
        /// With the most positions each takes: a workgroup for a head and some dimensions.
        short: Vec<(usize, Dispatch)>,
        /// Of a single token a workgroup a tile for the scores, then one for a head and some dimensions.
        long: Vec<Dispatch>,
    },
}

impl Group {
    /// The dispatches for `rows` rows from a position on.
    pub fn at(&self, position: usize, rows: usize) -> &[Dispatch] {
        match &self.kernels {
            Kernels::Fixed(dispatches) => dispatches,
            Kernels::Few(all) => all.iter().find(|(most, _)| rows <= *most).or(all.last()).map_or(&[], |few| &few.1),
            Kernels::Attention { spec, short, long } => {
                // The kernels begin with the first eight tiles that are seen.
                let span = |p: usize| p - spec.first_seen(p) / 256 * 256;
                let most = (position..position + rows).map(span).max().unwrap_or(0);
                short.iter().find(|s| most < s.0).map_or(long, |s| std::slice::from_ref(&s.1))
            }
        }
    }

    /// The positions from which on there are other dispatches.
    fn changes(&self) -> Vec<usize> {
        match &self.kernels {
            Kernels::Fixed(_) | Kernels::Few(_) => vec![0],
            Kernels::Attention { short, .. } => [0].into_iter().chain(short.iter().map(|s| s.0)).collect(),
        }
    }

    /// All dispatches at positions below `context`.
    pub fn below(&self, context: usize) -> impl Iterator<Item = &Dispatch> {
        self.changes().into_iter().filter(move |c| *c < context).flat_map(|c| self.at(c, 1))
    }

    /// Runs it alone for `rows` rows from `position` on, and tells the outputs it leaves.
    pub fn listen(
        &self,
        device: &Device,
        resources: &Resources,
        plan: &Plan,
        position: usize,
        rows: usize,
        hear: &mut dyn FnMut(&Step, &[u32]),
    ) -> Result<(), BackendError> {
        let mut encoder = device.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            self.at(position, rows).iter().try_for_each(|d| d.record(&mut pass, 0, position, rows))?;
        }
        device.queue.submit([encoder.finish()]);
        for output in &self.outputs {
            let words = match &output.place {
                Place::Rows(buffer, words) => device.read(buffer, 0, rows * words)?,
                Place::Items(buffer, width) => {
                    let placed = device.read(buffer, 0, *width)?;
                    (0..*width).map(|i| placed[item_word(i, width / 16)]).collect()
                }
                Place::Cache(cache) => resources.cached(device, plan, *cache, position, rows)?,
            };
            hear(&plan.steps[output.step], &words);
        }
        Ok(())
    }
}

/// The word of element `i` of a row in the layout of items (`item_word` in `wgsl/lib/layout.wgsl`).
pub(super) fn item_word(i: usize, items: usize) -> usize {
    let quad = i / 4 % 8;
    (quad / 2 * items + 2 * (i / 32) + quad % 2) * 4 + i % 4
}
