//! How fast a device reads its memory, to compare decoding with.

use std::time::Duration;

use super::device::{Device, STATE_BYTES, is_software};
use super::lower::{Dispatch, Grid, dispatch};
use super::pipelines::Kernel;
use crate::backend::BackendError;
use crate::host::Instant;
use crate::ops::THREADS;
use crate::shaders::{BANDWIDTH, params};

/// Bytes to read, unless the device allows only less: more than caches hold.
const BYTES: u64 = 1 << 30;
/// The same for software, which is slow, and whose caches are small.
const BYTES_IN_SOFTWARE: u64 = 1 << 28;
/// The fewest bytes that tell anything.
const LEAST_BYTES: u64 = 1 << 26;
/// Workgroups of the loop.
const GROUPS: u32 = 8192;
/// How long a real GPU is kept busy before it counts: they idle at a fraction of their clock.
const WARM_UP: Duration = Duration::from_secs(1);
/// A run is long enough that the round trip to the device does not show, and too short for a watchdog.
const RUN: Duration = Duration::from_millis(30);

/// Bytes per second that a plain loop reads from a buffer of up to a gibibyte, whatever the device can bind: the best of
/// five runs.
///
/// # Errors
/// Out of memory, where the device has no room for 64 MiB; whatever the device reports.
pub fn read_bandwidth(device: &mut Device) -> Result<f64, BackendError> {
    let (wanted, warm_up) =
        if is_software(&device.info) { (BYTES_IN_SOFTWARE, Duration::ZERO) } else { (BYTES, WARM_UP) };
    let mut bytes = wanted.min(device.largest_buffer()) / 16 * 16;
    let data = loop {
        match device.storage("bytes to read", bytes) {
            Err(BackendError::OutOfMemory { .. }) if bytes / 2 >= LEAST_BYTES => bytes /= 2,
            result => break result?,
        }
    };
    let params = params::Bandwidth { count: (bytes / 16) as u32, threads: GROUPS * THREADS };
    let state = device.upload("state", &[0; STATE_BYTES as usize])?;
    let out = device.storage("out", 16)?;
    let grid = Grid::Fixed([GROUPS, 1]);
    let read = dispatch(device, Kernel::new(&BANDWIDTH), &state, bytemuck::bytes_of(&params), grid, &[&data, &out])?;

    let start = Instant::now();
    let mut count = 1;
    loop {
        let time = run(device, &read, count)?;
        if time < RUN {
            count = (f64::from(count) * (RUN.as_secs_f64() / time.as_secs_f64()).clamp(1.2, 8.0)).ceil() as u32;
        } else if start.elapsed() >= warm_up {
            break;
        }
    }
    let mut best = 0.0f64;
    for _ in 0..5 {
        best = best.max(f64::from(count) * bytes as f64 / run(device, &read, count)?.as_secs_f64());
    }
    Ok(best)
}

/// Reads everything `count` times in one submit.
fn run(device: &Device, read: &Dispatch, count: u32) -> Result<Duration, BackendError> {
    let mut encoder = device.device.create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        for _ in 0..count {
            read.record(&mut pass, 0, 0, 1)?;
        }
    }
    let commands = encoder.finish();
    let start = Instant::now();
    device.queue.submit([commands]);
    device.wait()?;
    Ok(start.elapsed())
}
