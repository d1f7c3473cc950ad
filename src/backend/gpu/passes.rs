//! Passes of a batch: recorded in parts, so that the device works while the host still records, and that an interrupt does not wait for
//! more than the parts in flight. Of a few rows the host takes as long as the device; so where two passes were alike, the next is
//! recorded while the device works on the second.

use std::collections::VecDeque;

use super::Gpu;
use super::group::Group;
use super::lower::{Dispatch, ready};
use super::tiled;
use crate::backend::{BackendError, Listener};
use crate::host::Instant;

/// Groups of a batch that are submitted together: a part stays far below the time after which a system kills a GPU's work.
const PART: usize = 24;

/// The first part is short, so that the device begins soon.
const FIRST_PART: usize = 8;

/// Parts of a batch in flight: one is under way while the host encodes the next.
const PARTS_IN_FLIGHT: usize = 2;

/// A pass, but for what its kernels read in buffers.
#[derive(Clone, Copy)]
pub(super) struct Pass {
    pub position: usize,
    pub rows: usize,
    /// Rows whose logits are wanted.
    pub wanted: usize,
}

impl Pass {
    /// Whether both have as many rows.
    fn is_as_large_as(self, other: Self) -> bool {
        (self.rows, self.wanted) == (other.rows, other.wanted)
    }
}

/// The pass before, and what was recorded for the next one.
#[derive(Default)]
pub(super) struct Ahead {
    last: Option<Pass>,
    next: Option<(Pass, wgpu::CommandBuffer)>,
}

impl Gpu {
    /// Submits a pass, whose input was written.
    pub(super) fn submit(&mut self, pass: Pass) -> Result<(), BackendError> {
        let start = Instant::now();
        let ahead = std::mem::take(&mut self.ahead);
        let groups: Vec<_> = self.groups(pass.rows, pass.wanted).collect();
        let dispatches = || groups.iter().flat_map(|(group, rows)| group.at(pass.position, *rows));
        let count = dispatches().count();
        match ahead.next {
            Some((recorded, commands)) if same(&groups, recorded, pass) => {
                self.device.queue.submit([commands]);
            }
            _ => {
                ready(dispatches())?;
                self.submit_parts(&groups, pass)?;
            }
        }
        let next = Pass { position: pass.position + pass.rows, ..pass };
        let repeats = ahead.last.is_some_and(|last| last.is_as_large_as(pass));
        let next = match repeats && pass.rows <= self.most_few && same(&groups, pass, next) {
            true => Some((next, self.record_part(&groups, next, true)?)),
            false => None,
        };
        self.ahead = Ahead { last: Some(pass), next };
        self.counters.add(count, start.elapsed(), pass.rows);
        Ok(())
    }

    /// Runs a pass step by step, and tells the listener what each leaves.
    pub(super) fn tell(&mut self, pass: Pass, listener: Listener<'_>) -> Result<(), BackendError> {
        let start = Instant::now();
        // Every step's output is there only where each runs by itself.
        let alone = [&self.alone[..], &self.many_alone[..]];
        let groups: Vec<_> = self.groups_of(alone, tiled::MIN_ROWS, pass.rows, pass.wanted).collect();
        let dispatches = || groups.iter().flat_map(|(group, rows)| group.at(pass.position, *rows));
        let count = dispatches().count();
        ready(dispatches())?;
        self.hear(groups.iter().copied(), pass.position, listener)?;
        self.device.queue.submit([self.record_part(&[], pass, true)?]);
        self.counters.add(count, start.elapsed(), pass.rows);
        Ok(())
    }

    fn submit_parts(&self, groups: &[(&Group, usize)], pass: Pass) -> Result<(), BackendError> {
        let mut in_flight = VecDeque::new();
        // The work of a part depends on its rows, too.
        let most = PART * (512 / pass.rows).max(1);
        let (mut rest, mut size) = (groups, FIRST_PART);
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(size.min(rest.len()));
            (rest, size) = (behind, (4 * size).min(most));
            if in_flight.len() == PARTS_IN_FLIGHT {
                self.device.wait_for(in_flight.pop_front())?;
            }
            self.interrupt.check()?;
            let commands = self.record_part(part, pass, rest.is_empty())?;
            in_flight.push_back(self.device.queue.submit([commands]));
        }
        Ok(())
    }

    /// Records some groups of a pass, at its end also the copy of the logits for the host.
    fn record_part(
        &self,
        groups: &[(&Group, usize)],
        pass: Pass,
        is_last: bool,
    ) -> Result<wgpu::CommandBuffer, BackendError> {
        let mut encoder = self.device.device.create_command_encoder(&Default::default());
        {
            let mut compute = encoder.begin_compute_pass(&Default::default());
            for (group, rows) in groups {
                group
                    .at(pass.position, *rows)
                    .iter()
                    .try_for_each(|d| d.record(&mut compute, 0, pass.position, *rows))?;
            }
        }
        if is_last && pass.wanted > 0 {
            let logits = &self.resources.buffers[self.plan.logits.0];
            let bytes = 4 * (pass.wanted * self.plan.vocabulary()) as u64;
            encoder.copy_buffer_to_buffer(logits, 0, &self.staging, 0, bytes);
        }
        Ok(encoder.finish())
    }
}

/// Whether two passes consist of the same dispatches in as many workgroups; `groups` are those of the second.
fn same(groups: &[(&Group, usize)], a: Pass, b: Pass) -> bool {
    let grids = |group: &Group, rows: usize| {
        let [first, second] = [a.position, b.position].map(|p| group.at(p, rows));
        let grid = |position| move |d: &Dispatch| d.grid.groups(position, rows);
        std::ptr::eq(first, second) && first.iter().map(grid(a.position)).eq(second.iter().map(grid(b.position)))
    };
    a.is_as_large_as(b) && groups.iter().all(|(group, rows)| grids(group, *rows))
}
