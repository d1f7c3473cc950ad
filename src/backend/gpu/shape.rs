//! How the fused products of a single row (`wgsl/lib/matvec.wgsl`) are spread over workgroups and threads.

use super::device::Device;
use super::pipelines::Kernel;
use crate::ops::Shader;
use crate::quant::{CHUNK, Decode, Format};

/// How the rows and columns of a product are spread over threads.
pub(super) struct Shape {
    chunks: u32,
    span: u32,
    across: u32,
    loops: u32,
    /// Rows that a thread fetches together.
    depth: u32,
    threads: u32,
}

/// Threads of a workgroup at most, where the device allows as many.
const MOST_THREADS: u32 = 512;

impl Shape {
    /// For `rows` rows of `cols` from each of `matrices` matrices.
    pub fn new(device: &Device, format: &Format, cols: usize, rows: usize, matrices: u32) -> Self {
        let chunks = (cols / CHUNK) as u32;
        let span = (format.activation_block().unwrap_or(CHUNK) / CHUNK) as u32;
        let rows = rows as u32 * matrices;
        let most = device.limits.max_compute_invocations_per_workgroup.min(MOST_THREADS);
        // At least one thread for every half of a chunk, so that each prepares one; and a few hundred workgroups, which fill a
        // large GPU: fewer prepare the activations less often.
        let least = if 2 * chunks <= most { 2 } else { 1 };
        let across = (rows / 1024).clamp(least, (256 / chunks).max(least));
        // Where blocks span chunks, or weights are plain numbers, the code of a row is long, and all kernels of a token should fit an instruction cache.
        let long = span > 1 || format.activation_block().is_none();
        let (across, depth, groups) = if long { (across.min(2), 2, 1000) } else { (across, 4, 400) };
        let threads = (chunks * across).next_multiple_of(32).min(most);
        let mut shape = Self { chunks, span, across, loops: 1, depth, threads };
        // What a workgroup keeps for its rows takes at most 8 KiB of its memory.
        while rows / shape.slots() > groups && 2 * 4 * shape.slots() * (chunks / span) <= 8192 {
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
    ) -> Result<Kernel, String> {
        let Decode::Block { has_min, .. } = format.decode else { return self.plain(device, shader, format) };
        let planes = 2 * self.chunks * if precise { 2 } else { 1 };
        let blocks = self.chunks / self.span;
        let terms = if self.span > 1 { 1 } else { self.slots() * self.chunks };
        let spanned = |yes: bool| if self.span > 1 && yes { self.slots() * blocks } else { 1 };
        let (sums, mins) = (spanned(true), spanned(has_min));
        let (lows, low_mins) = (spanned(precise), spanned(precise && has_min));
        let kernel =
            self.common(device, shader, format, terms, 4 * planes + 2 * blocks + sums + mins + lows + low_mins)?;
        let kernel = kernel
            .precise(precise)
            .with("BLOCKS", blocks)
            .with("PLANES", planes)
            .with("SUMS", sums)
            .with("MINS", mins)
            .with("LOWS", lows)
            .with("LOW_MINS", low_mins);
        Ok(kernel)
    }

    /// For weights that are plain numbers.
    fn plain(&self, device: &Device, shader: &'static Shader, format: &'static Format) -> Result<Kernel, String> {
        let floats = 8 * self.chunks;
        let kernel = self.common(device, shader, format, self.slots() * self.chunks, 4 * floats)?;
        Ok(kernel.with("FLOATS", floats))
    }

    /// What `wgsl/lib/matvec.wgsl` declares; the rest of the kernel takes `more` words of workgroup memory.
    fn common(
        &self,
        device: &Device,
        shader: &'static Shader,
        format: &'static Format,
        terms: u32,
        more: u32,
    ) -> Result<Kernel, String> {
        let norm_items = if shader.wgsl.contains("const NORM = true") { 2 * self.chunks } else { 1 };
        let words = 5 * norm_items + 8 + terms + 8 * self.slots() + more;
        let has = device.limits.max_compute_workgroup_storage_size;
        if 4 * words > has {
            let name = shader.name;
            return Err(format!("{name} needs {} bytes of workgroup memory, the device has {has}", 4 * words));
        }
        let kernel = Kernel::new(shader)
            .format(format)
            .with("THREADS", self.threads)
            .with("CHUNKS", self.chunks)
            .with("SPAN", self.span)
            .with("ACROSS", self.across)
            .with("LOOPS", self.loops)
            .with("DEPTH", self.depth)
            .with("NORM_ITEMS", norm_items)
            .with("SLOTS8", 8 * self.slots())
            .with("TERMS", terms);
        Ok(kernel)
    }
}
