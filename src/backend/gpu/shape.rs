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

/// The same of a single row.
const MOST_TERMS_OF_ONE: u32 = 32 * 1024;

/// The same where the matrix has more than `MANY_ROWS`: small workgroups fill the device most evenly then.
const MOST_TERMS_OF_MANY: u32 = 8 * 1024;

/// Threads that a large GPU holds at once: 1,024 on each of 128 multiprocessors.
const HELD: u32 = 1024 * 128;

/// With more matrix rows than these, workgroups are wider, so that fewer prepare the activations.
const MANY_ROWS: u32 = 16 * 1024;

/// A router has at most so many: its workgroups should be many rather than its threads take several rows.
const FEW_ROWS: u32 = 512;

impl Shape {
    /// For `rows` rows of `cols`, of all matrices together, and so many activation rows.
    pub fn new(limits: &wgpu::Limits, format: &Format, cols: usize, rows: usize, tokens: u32) -> Self {
        let chunks = (cols / CHUNK) as u32;
        let span = (format.activation_block().unwrap_or(CHUNK) / CHUNK) as u32;
        let rows = rows as u32;
        let most = limits.max_compute_invocations_per_workgroup.min(MOST_THREADS);
        // At least one thread for every half of a chunk, so that each prepares one; and a few hundred workgroups, which fill a
        // large GPU: fewer prepare the activations less often.
        let least = if 2 * chunks <= most { 2 } else { 1 };
        // Plain numbers and few rows were measured with narrow workgroups only.
        let single = tokens == 1 && format.activation_block().is_some();
        let wide = if single && rows > MANY_ROWS { (most / chunks).min(4) } else { 0 };
        let across = (rows / 1024).clamp(least, (256 / chunks).max(least).max(wide)).min((most / chunks).max(1));
        // Where blocks span chunks, or weights are plain numbers, the code of a row is long, and all kernels of a token should fit an instruction cache.
        let long = span > 1 || format.activation_block().is_none();
        let (mut across, mut depth) =
            if long { (across.min(wide.max(2)), 2) } else { (across, if tokens > 4 { 2 } else { 4 }) };
        if tokens == 1 && format.activation_block().is_none() && rows <= FEW_ROWS {
            depth = 1;
        }
        while tokens > 2 && span == 1 && 4 * across * depth * tokens * chunks > MOST_TERMS && (across > 1 || depth > 2)
        {
            if across > 1 { across -= 1 } else { depth = 2 }
        }
        let threads = (chunks * across).next_multiple_of(32).min(most);
        let mut shape = Self { chunks, across, loops: 1, depth, threads, tokens };
        if single {
            shape.loops = if span > 1 { shape.loops_of_large_blocks(rows) } else { shape.loops_of_chunks(rows) };
            return shape;
        }
        // What a workgroup keeps for its rows takes at most 8 KiB of its memory.
        let groups = if long { 1000 } else { 400 };
        while rows / shape.slots() > groups && 2 * 4 * shape.slots() * tokens * (chunks / span) <= 8192 {
            shape.loops *= 2;
        }
        shape
    }

    /// How often threads of a workgroup take further rows, for a single activation row and blocks that span chunks: with more rows, fewer
    /// workgroups prepare the activations; but those that a device holds at once should have the same work, and all their weights are on
    /// their way early only if there is one loop. The bounds are measured (docs/lab/performance.md, "Large matrices").
    fn loops_of_large_blocks(&self, rows: u32) -> u32 {
        let groups = rows.div_ceil(self.slots());
        if groups <= 1000 && groups * self.threads <= HELD / 2 * 3 {
            return 1;
        }
        // Registers are given to a power of two of threads at a time.
        let at_once = HELD / self.threads.next_power_of_two();
        let loops = groups.div_ceil(at_once);
        // Behind long workgroups the device would wait for the last: twice as many, where they have many rows yet.
        if loops * self.slots() > 24 { groups.div_ceil(2 * at_once) } else { loops }
    }

    /// The same where blocks are chunks: a workgroup keeps a term of every chunk of its rows.
    fn loops_of_chunks(&self, rows: u32) -> u32 {
        let groups = rows.div_ceil(self.slots());
        if groups * self.threads <= HELD {
            return 1;
        }
        let most = if rows > MANY_ROWS { MOST_TERMS_OF_MANY } else { MOST_TERMS_OF_ONE };
        let fits = (most / (4 * self.slots() * self.chunks)).max(1);
        (groups * self.threads).div_ceil(HELD / 10 * 7).min(fits)
    }

    /// Rows of a workgroup.
    pub fn slots(&self) -> u32 {
        self.across * self.loops * self.depth
    }

    /// The kernel for rows of so many sections, with fewer rows in a workgroup where its memory is too large; or why there is none.
    pub fn kernel(
        &mut self,
        limits: &wgpu::Limits,
        shader: &'static Shader,
        format: &'static Format,
        precise: bool,
        norm: bool,
        sections: u32,
    ) -> Result<Kernel, String> {
        loop {
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
            let kernel = if sections > 1 { kernel.with("SECTIONS", sections) } else { kernel };
            match kernel.on(limits) {
                Err(_) if self.loops > 1 => self.loops = self.loops.div_ceil(2),
                made => return made,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::FORMATS;
    use crate::shaders::RESIDUAL;

    /// Whether every row of a workgroup has threads for all of its chunks.
    fn is_whole(shape: &Shape) -> bool {
        shape.across == 1 || shape.across * shape.chunks <= shape.threads
    }

    #[test]
    fn every_shape_takes_whole_rows_and_fits() {
        for (threads, memory) in [(128, 16 << 10), (256, 16 << 10), (1024, 32 << 10), (1024, 48 << 10)] {
            let limits = wgpu::Limits {
                max_compute_invocations_per_workgroup: threads,
                max_compute_workgroup_storage_size: memory,
                ..wgpu::Limits::default()
            };
            for format in FORMATS {
                for cols in [32, 96, 256, 576, 2048, 2560, 4096, 5632, 9728, 14336]
                    .map(|n: usize| n.next_multiple_of(format.block))
                {
                    for rows in [1, 1000, 2048, 6144, 11_264, 28_672, 128_256] {
                        for tokens in [1, 2, 4, 8] {
                            let mut shape = Shape::new(&limits, format, cols, rows, tokens);
                            let what = format!("{} {rows} x {cols}, {tokens} rows, {threads} threads", format.name);
                            assert!(is_whole(&shape), "{what}");
                            // What has no kernel at all has none with a single loop either.
                            let made = shape.kernel(&limits, &RESIDUAL, format, true, false, 1);
                            assert!(made.is_ok() || shape.loops == 1, "{what}");
                            let single = tokens == 1 && cols <= 5632 && memory >= 32 << 10;
                            assert!(!single || made.is_ok(), "{what}: {made:?}");
                        }
                    }
                }
            }
        }
    }
}
