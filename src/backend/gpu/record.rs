//! What each dispatch of a batch reads and leaves: the buffers before and after, for checks of translations that have no GPU.

use super::lower::{Dispatch, ready};
use super::{Gpu, Kernel};
use crate::backend::{BackendError, Batch};

/// A dispatch and the contents of its buffers.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// The kernel.
    pub kernel: Kernel,
    /// Workgroups.
    pub groups: [u32; 3],
    /// The contents of the uniform buffer, binding 1.
    pub params: Vec<u8>,
    /// The words of the storage buffers, bindings 0, 2, 3, …, before it.
    pub before: Vec<Vec<u32>>,
    /// The same behind it.
    pub after: Vec<Vec<u32>>,
}

impl Gpu {
    /// Runs a batch dispatch by dispatch and gives each, but those of kernels that `wanted` does not want.
    ///
    /// # Errors
    /// When the device fails.
    pub fn record(
        &mut self,
        batch: Batch<'_>,
        wanted: &mut dyn FnMut(&Kernel) -> bool,
        hear: &mut dyn FnMut(Recorded),
    ) -> Result<(), BackendError> {
        batch.is_for(&self.limits)?;
        let steps = self.timed(&batch);
        ready(steps.iter().flat_map(|s| s.dispatches))?;
        for (step, dispatch) in steps.iter().flat_map(|s| s.dispatches.iter().map(move |d| (s, d))) {
            let kernel = dispatch.pipeline.kernel();
            let before = if wanted(kernel) { self.contents(dispatch)? } else { Vec::new() };
            let mut encoder = self.device.device.create_command_encoder(&Default::default());
            dispatch.record(&mut encoder.begin_compute_pass(&Default::default()), 0, step.position, step.rows)?;
            self.device.queue.submit([encoder.finish()]);
            if !before.is_empty() {
                let groups = dispatch.grid.groups(step.position, step.rows);
                let (kernel, params) = (kernel.clone(), dispatch.params.clone());
                hear(Recorded { kernel, groups, params, before, after: self.contents(dispatch)? });
            }
        }
        self.device.check()
    }

    /// The words of a dispatch's storage buffers.
    fn contents(&self, dispatch: &Dispatch) -> Result<Vec<Vec<u32>>, BackendError> {
        dispatch.buffers.iter().map(|b| self.device.read(b, 0, (b.size() / 4) as usize)).collect()
    }
}
