//! How fused products of a single row (`wgsl/lib/matvec.wgsl`), and of a few, are spread over workgroups and threads.

use super::device::Device;
use super::pipelines::Kernel;
use crate::quant::{CHUNK, Format};
use crate::shaders::Shader;

/// The kernel of products of so many activation rows in a workgroup (`wgsl/lib/few.wgsl`) with `rows` rows of `cols`, and how many of those
/// a workgroup takes; or why there is none.
pub(super) fn few(
    device: &Device,
    shader: &'static Shader,
    format: &'static Format,
    cols: usize,
    of: u32,
    precise: bool,
) -> Result<(Kernel, u32, u32), String> {
    if format.activation_block().is_none() {
        return Err("few rows have kernels for formats of integers only".to_owned());
    }
    // Where a block is a chunk, a thread takes up to eight activation rows; else four, and others take the rest.
    let small = format.activation_block() == Some(CHUNK);
    let (threads, depth) = match (small, of) {
        (true, 4) => (64, 1),
        (true, 8) => (128, 1),
        (true, _) => (32, 4),
        (false, 4) => (32, 1),
        (false, 8) => (64, 1),
        (false, _) => (64, 2),
    };
    let of = if small { of.min(8) } else { of };
    let kernel = Kernel::new(shader)
        .format(format)
        .precise(precise)
        .with("THREADS", threads)
        .with("CHUNKS", (cols / CHUNK) as u32)
        .with("ROWS", of)
        .with("DEPTH", depth);
    let slots = if small { threads / 8 } else { threads / 2 / of } * depth;
    Ok((kernel.on(&device.limits)?, slots, of))
}

/// How the rows and columns of a product are spread over threads.
pub(super) struct Shape {
    chunks: u32,
    across: u32,
    loops: u32,
    /// Rows that a thread fetches together.
    depth: u32,
    threads: u32,
    /// Activation rows of a workgroup.
    tokens: u32,
}

/// Threads of a workgroup at most, where the device allows as many.
const MOST_THREADS: u32 = 512;

/// Bytes of the terms of a workgroup at most, of three rows and more: several workgroups share a multiprocessor's memory.
const MOST_TERMS: u32 = 24 * 1024;

impl Shape {
    /// For `rows` rows of `cols`, of all matrices together, and so many activation rows.
    pub fn new(device: &Device, format: &Format, cols: usize, rows: usize, tokens: u32) -> Self {
        let chunks = (cols / CHUNK) as u32;
        let span = (format.activation_block().unwrap_or(CHUNK) / CHUNK) as u32;
        let rows = rows as u32;
        let most = device.limits.max_compute_invocations_per_workgroup.min(MOST_THREADS);
        // At least one thread for every half of a chunk, so that each prepares one; and a few hundred workgroups, which fill a
        // large GPU: fewer prepare the activations less often.
        let least = if 2 * chunks <= most { 2 } else { 1 };
        let across = (rows / 1024).clamp(least, (256 / chunks).max(least));
        // Where blocks span chunks, or weights are plain numbers, the code of a row is long, and all kernels of a token should fit an instruction cache.
        let long = span > 1 || format.activation_block().is_none();
        let (mut across, mut depth, groups) =
            if long { (across.min(2), 2, 1000) } else { (across, if tokens > 4 { 2 } else { 4 }, 400) };
        while tokens > 2 && span == 1 && 4 * across * depth * tokens * chunks > MOST_TERMS && (across > 1 || depth > 2)
        {
            if across > 1 { across -= 1 } else { depth = 2 }
        }
        let threads = (chunks * across).next_multiple_of(32).min(most);
        let mut shape = Self { chunks, across, loops: 1, depth, threads, tokens };
        // What a workgroup keeps for its rows takes at most 8 KiB of its memory.
        while rows / shape.slots() > groups && 2 * 4 * shape.slots() * tokens * (chunks / span) <= 8192 {
            shape.loops *= 2;
        }
        shape
    }

    /// Rows of a workgroup.
    pub fn slots(&self) -> u32 {
        self.across * self.loops * self.depth
    }

    /// The kernel, or why there is none: its workgroup memory is too large.
    pub fn kernel(
        &self,
        device: &Device,
        shader: &'static Shader,
        format: &'static Format,
        precise: bool,
        norm: bool,
    ) -> Result<Kernel, String> {
        let kernel = Kernel::new(shader)
            .format(format)
            .precise(precise && format.activation_block().is_some())
            .with("THREADS", self.threads)
            .with("CHUNKS", self.chunks)
            .with("ACROSS", self.across)
            .with("LOOPS", self.loops)
            .with("DEPTH", self.depth)
            .with("NORM", u32::from(norm));
        let kernel = if self.tokens > 1 { kernel.with("ROWS", self.tokens) } else { kernel };
        kernel.on(&device.limits)
    }
}
