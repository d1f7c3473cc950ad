//! How long kernels take: all dispatches of one kernel, one after the other, many times, by the host's clock.

use super::device::Device;
use super::lower::Dispatch;
use crate::backend::BackendError;
use crate::host::Instant;

/// What a kernel takes in one token or batch.
#[derive(Clone, Debug)]
pub struct KernelTime {
    /// The kernel and its format.
    pub name: String,
    /// How often it is dispatched.
    pub dispatches: usize,
    /// Seconds for all of them.
    pub seconds: f64,
}

/// Times the kernels of `dispatches` for `rows` rows from `position` on.
pub(super) fn times<'a>(
    device: &Device,
    dispatches: impl Iterator<Item = &'a Dispatch>,
    position: usize,
    rows: usize,
    repetitions: usize,
) -> Result<Vec<KernelTime>, BackendError> {
    let mut kernels: Vec<(&str, Vec<&Dispatch>)> = Vec::new();
    let everything: Vec<&Dispatch> = dispatches.collect();
    for dispatch in everything.iter().copied() {
        match kernels.iter_mut().find(|k| k.0 == dispatch.name) {
            Some(kernel) => kernel.1.push(dispatch),
            None => kernels.push((&dispatch.name, vec![dispatch])),
        }
    }
    let mut times = Vec::new();
    // In their order kernels meet cold instruction caches; alone they do not.
    let mut sets = vec![("all in order".to_owned(), everything)];
    sets.extend(kernels.into_iter().map(|(n, d)| (n.to_owned(), d)));
    for (name, dispatches) in sets {
        let run = |repetitions: usize| -> Result<f64, BackendError> {
            let mut encoder = device.device.create_command_encoder(&Default::default());
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                for dispatch in (0..repetitions).flat_map(|_| &dispatches) {
                    dispatch.record(&mut pass, 0, position, rows)?;
                }
            }
            let commands = encoder.finish();
            let start = Instant::now();
            device.queue.submit([commands]);
            device
                .device
                .poll(wgpu::PollType::Wait { submission_index: None, timeout: None })
                .map_err(|e| device.error(e.to_string()))?;
            Ok(start.elapsed().as_secs_f64())
        };
        run(repetitions)?;
        let (once, more) = (run(1)?, run(1 + repetitions)?);
        let seconds = (more - once).max(0.0) / repetitions as f64;
        times.push(KernelTime { name, dispatches: dispatches.len(), seconds });
    }
    Ok(times)
}
