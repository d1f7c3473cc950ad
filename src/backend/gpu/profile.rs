//! How long each group of steps takes: timestamps at the boundaries of passes, one pass per group; where the adapter has none, the
//! clock of the host with a wait per group. The groups of single tokens go by their kernels' names.

use std::time::Duration;

use super::Gpu;
use super::group::Group;
use super::lower::{Dispatch, ready};
use crate::backend::{BackendError, Batch, Launch, StepTime};
use crate::host::Instant;
use crate::plan::StepName;

/// Steps whose two timestamps fit a query set.
const STEPS_PER_SET: usize = wgpu::QUERY_SET_MAX_QUERIES as usize / 2;

/// What is timed together.
pub(super) struct Timed<'a> {
    op: &'a str,
    steps: Vec<&'a StepName>,
    pub dispatches: &'a [Dispatch],
    pub position: usize,
    pub rows: usize,
}

impl Timed<'_> {
    fn record(&self, pass: &mut wgpu::ComputePass<'_>) -> Result<(), BackendError> {
        self.dispatches.iter().try_for_each(|d| d.record(pass, 0, self.position, self.rows))
    }

    fn launches(&self) -> Vec<Launch> {
        let launch = |d: &Dispatch| Launch {
            kernel: d.pipeline.kernel().name(),
            groups: d.grid.groups(self.position, self.rows),
        };
        self.dispatches.iter().map(launch).collect()
    }
}

impl Gpu {
    /// Runs a batch one pass per step and times each.
    pub(super) fn time_steps(&mut self, batch: Batch<'_>) -> Result<Vec<StepTime>, BackendError> {
        self.begin(&batch)?;
        let steps = self.timed(&batch);
        ready(steps.iter().flat_map(|s| s.dispatches))?;
        let mut times = Vec::with_capacity(steps.len());
        if self.device.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            for some in steps.chunks(STEPS_PER_SET) {
                self.interrupt.check()?;
                times.extend(self.by_timestamps(some)?);
            }
        } else {
            for step in &steps {
                self.interrupt.check()?;
                times.push(self.by_waiting(step)?);
            }
        }
        let named = |(s, time): (&Timed<'_>, Duration)| {
            let steps = s.steps.iter().map(|s| (*s).clone()).collect();
            StepTime { op: s.op.to_owned(), steps, time, launches: s.launches() }
        };
        Ok(steps.iter().zip(times).map(named).collect())
    }

    /// The dispatches that run a batch, with everything written that they read.
    pub(super) fn timed(&self, batch: &Batch<'_>) -> Vec<Timed<'_>> {
        let (position, rows, wanted) = (batch.position(), batch.rows(), batch.wanted().len());
        let token = match (&self.decoder, batch.ids()) {
            (Some(decoder), &[token]) if wanted == 1 => Some(decoder.prepare(&self.device, token, position)),
            _ => None,
        };
        let groups: Vec<(&Group, usize)> = match token {
            Some(groups) => groups.iter().map(|group| (group, 1)).collect(),
            None => {
                self.prepare(batch);
                self.groups(rows, wanted).collect()
            }
        };
        let mut timed = Vec::new();
        for (group, rows) in groups {
            let (dispatches, steps) = (group.at(position, rows), &group.steps[..]);
            let op = match (token, steps) {
                (None, &[step]) => self.plan.steps[step].op.name(),
                _ => dispatches.first().map_or("", |d| &d.name),
            };
            let steps = steps.iter().map(|&step| &self.plan.steps[step].name).collect();
            timed.push(Timed { op, steps, dispatches, position, rows });
        }
        timed
    }

    /// The device's own clock before and after each step.
    fn by_timestamps(&self, steps: &[Timed<'_>]) -> Result<Vec<Duration>, BackendError> {
        let device = &self.device;
        let count = 2 * steps.len();
        let set = device.device.create_query_set(&wgpu::QuerySetDescriptor {
            label: Some("timestamps"),
            ty: wgpu::QueryType::Timestamp,
            count: count as u32,
        });
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let ticks = device.buffer("timestamps", count as u64 * 8, usage)?;
        let mut encoder = device.device.create_command_encoder(&Default::default());
        for (i, step) in (0u32..).zip(steps) {
            let timestamp_writes = Some(wgpu::ComputePassTimestampWrites {
                query_set: &set,
                beginning_of_pass_write_index: Some(2 * i),
                end_of_pass_write_index: Some(2 * i + 1),
            });
            let pass = wgpu::ComputePassDescriptor { label: None, timestamp_writes };
            step.record(&mut encoder.begin_compute_pass(&pass))?;
        }
        encoder.resolve_query_set(&set, 0..count as u32, &ticks, 0);
        device.queue.submit([encoder.finish()]);
        let words = device.read(&ticks, 0, 2 * count)?;
        let period = f64::from(device.queue.get_timestamp_period());
        let tick = |i: usize| u64::from(words[2 * i]) | (u64::from(words[2 * i + 1]) << 32);
        // Some drivers let the clock step back between passes.
        let nanoseconds = |i: usize| tick(2 * i + 1).saturating_sub(tick(2 * i)) as f64 * period;
        Ok((0..steps.len()).map(|i| Duration::from_nanos(nanoseconds(i) as u64)).collect())
    }

    /// The host's clock around a submit of its own.
    fn by_waiting(&self, step: &Timed<'_>) -> Result<Duration, BackendError> {
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        step.record(&mut encoder.begin_compute_pass(&Default::default()))?;
        let commands = encoder.finish();
        self.device.wait()?;
        let start = Instant::now();
        self.device.queue.submit([commands]);
        self.device.wait()?;
        Ok(start.elapsed())
    }
}

#[cfg(all(test, builtin_model))]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::backend::gpu::{AdapterOptions, Device};
    use crate::backend::{Rows, Sizes};
    use crate::model::Model;
    use crate::numerics::Precision;

    #[test]
    fn both_clocks_time_every_group() {
        let model = Model::stories().unwrap();
        let sizes = Sizes { context: 8, batch: 4, logits_rows: 1 };
        let plan = model.plan(Precision::Fast).unwrap();
        let gpu =
            Gpu::new(Device::open(&AdapterOptions::default()).unwrap(), &model, plan, sizes, &mut |_| {}).unwrap();
        let batch = Batch::checked(&[1, 2, 3], 0, Rows::Last, &gpu.limits).unwrap();
        let steps = gpu.timed(&batch);
        let count = gpu.groups(3, 1).count();
        assert_eq!(steps.len(), count);
        for step in &steps {
            assert!(gpu.by_waiting(step).unwrap() > Duration::ZERO, "{:?}", step.steps);
        }
        if gpu.device.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            let times = gpu.by_timestamps(&steps).unwrap();
            assert!(times.len() == count && times.iter().sum::<Duration>() > Duration::ZERO);
        }
    }
}
