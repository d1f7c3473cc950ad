//! Matrices repacked into panels of 16 rows, so that one vector holds the same four weights of 16 rows.
//!
//! A panel holds its blocks one after the other: first the integers of all blocks, then their scales. The integers of a
//! chunk of 32 weights are lines of 64 bytes: line `j` has weights `4j..4j + 4` of each of the 16 rows. With 4 bits,
//! line `j` has words `j` in the low and `j + 4` in the high nibbles; the bits above follow, of five bits those of eight
//! words in a line, of six those of four. Integers are stored without sign, as the distance from the format's lowest.

use std::io;
use std::sync::Arc;

use super::pool::{Disjoint, Pool};
use crate::host::{self, Memory};
use crate::numerics::{WEIGHT_FLOOR, f16_bits, flush};
use crate::quant::{CHUNK, Decode, Format, Levels};

/// Rows of a panel.
pub const ROWS: usize = 16;

/// How the weights of a panel are stored.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Integers with scales.
    Blocks(Blocks),
    /// Plain numbers, `[column][row]`, columns padded to a multiple of 32.
    Float {
        /// Bytes per number: 2 or 4.
        bytes: usize,
        /// f16 (or, with two bytes, bf16).
        half: bool,
    },
}

/// Storage of a block of integers.
#[derive(Clone, Copy, Debug)]
pub struct Blocks {
    /// 4, 5, 6 or 8.
    pub bits: usize,
    /// What the stored integers stand for, plus `offset`, where they are indices.
    pub table: Option<[u8; 16]>,
    /// Subtracted from the stored integers.
    pub offset: i32,
    /// Weights per integer scale (16 or 32); 0 without.
    pub sub: usize,
    /// Whether there is a minimum.
    pub min: bool,
    /// Whether the scale is the upper half of an f32 instead of an f16.
    pub wide_scale: bool,
    /// Chunks of 32 per block.
    pub chunks: usize,
    /// Bytes of integers per block.
    pub integers: usize,
    /// Bytes of scales per block: `d` and the minimum `m` as 16-bit floats for each row, then for each sub-block its
    /// scale for each row (i8), then for each pair of sub-blocks their minima for each row (two i8).
    pub scales: usize,
}

impl Blocks {
    fn new(format: &Format, activation: usize, levels: Levels, sub_block: usize, min: bool) -> Self {
        let (bits, offset, table) = match levels {
            Levels::Bits { low, bits } => (usize::from(bits), -i32::from(low), None),
            Levels::Table(values) => (4, 128, Some(values.map(|v| (i32::from(v) + 128) as u8))),
        };
        let sub = if activation == CHUNK { 0 } else { sub_block };
        let subs = format.block.checked_div(sub).unwrap_or(0);
        let chunks = format.block / CHUNK;
        let floats = if min { 4 * ROWS } else { 2 * ROWS };
        Self {
            bits,
            table,
            offset,
            sub,
            min,
            wide_scale: format.bytes % 2 == 1,
            chunks,
            integers: chunks * bits * CHUNK * ROWS / 8,
            scales: floats + subs * ROWS * if min { 2 } else { 1 },
        }
    }
}

/// A matrix to repack.
pub struct Matrix<'a> {
    /// Its format.
    pub format: &'a Format,
    /// Its rows, as the file has them.
    pub raw: &'a [u8],
    /// How many rows.
    pub rows: usize,
    /// Weights per row.
    pub cols: usize,
}

/// A matrix in panels.
pub struct Panels {
    /// How the weights are stored.
    pub kind: Kind,
    /// Blocks per row; of plain numbers, blocks of 32.
    pub blocks: usize,
    /// Rows of the matrix; the last panel may have fewer than 16.
    pub rows: usize,
    /// Bytes from a panel to the next.
    pub stride: usize,
    /// The memory of all matrices, and where this one begins.
    memory: Arc<Memory>,
    start: usize,
}

/// A large page of memory.
const HUGE: usize = 1 << 21;

/// Repacks matrices into one piece of memory, so that large pages hold all of it; `done` hears of each as it is.
///
/// # Errors
/// When there is no memory for them.
pub fn repack(matrices: &[Matrix<'_>], pool: &mut Pool, mut done: impl FnMut(usize)) -> io::Result<Vec<Panels>> {
    let layouts: Vec<_> = matrices.iter().map(Matrix::layout).collect();
    let total: usize = matrices.iter().zip(&layouts).map(|(m, (_, _, stride))| m.rows.div_ceil(ROWS) * stride).sum();
    let mut memory = host::zeroed(total + HUGE)?;
    let mut start = memory.as_ptr().align_offset(HUGE).min(HUGE);
    let mut starts = Vec::with_capacity(matrices.len());
    for (i, (m, (kind, blocks, stride))) in matrices.iter().zip(&layouts).enumerate() {
        let bytes = m.rows.div_ceil(ROWS) * stride;
        m.pack(kind, *blocks, *stride, &mut memory[start..start + bytes], pool);
        starts.push(start);
        start += bytes;
        done(i);
    }
    let memory = Arc::new(memory);
    let panels = matrices.iter().zip(layouts).zip(starts).map(|((m, (kind, blocks, stride)), start)| Panels {
        kind,
        blocks,
        rows: m.rows,
        stride,
        memory: Arc::clone(&memory),
        start,
    });
    Ok(panels.collect())
}

impl Matrix<'_> {
    /// How it is stored, its blocks per row, and the bytes of a panel.
    fn layout(&self) -> (Kind, usize, usize) {
        let (kind, blocks, bytes) = match self.format.decode {
            Decode::Block { activation, has_min, levels, sub_block, .. } => {
                let kind = Blocks::new(self.format, activation, levels, sub_block, has_min);
                let blocks = self.cols / self.format.block;
                (Kind::Blocks(kind), blocks, blocks * (kind.integers + kind.scales))
            }
            Decode::Float(_) => {
                let blocks = self.cols.div_ceil(CHUNK);
                let kind = Kind::Float { bytes: self.format.bytes, half: self.format.name == "F16" };
                (kind, blocks, blocks * CHUNK * ROWS * self.format.bytes)
            }
        };
        (kind, blocks, bytes.next_multiple_of(64))
    }

    /// Packs the panels into `memory`, which is zero.
    fn pack(&self, kind: &Kind, blocks: usize, stride: usize, memory: &mut [u8], pool: &mut Pool) {
        let out = Disjoint::new(memory);
        let row_bytes = self.format.row_bytes(self.cols);
        pool.run(self.rows.div_ceil(ROWS), |panel| {
            // SAFETY: each panel has its own bytes.
            let panel_bytes = unsafe { out.slice(panel * stride..(panel + 1) * stride) };
            let rows = &self.raw[panel * ROWS * row_bytes..((panel + 1) * ROWS).min(self.rows) * row_bytes];
            for (r, row) in rows.chunks_exact(row_bytes).enumerate() {
                match kind {
                    Kind::Blocks(kind) => pack_blocks(self.format, kind, row, r, blocks, panel_bytes),
                    Kind::Float { bytes, .. } => pack_floats(self.format, row, r, *bytes, panel_bytes),
                }
            }
        });
    }
}

impl Panels {
    /// Panels of the matrix.
    pub fn count(&self) -> usize {
        self.rows.div_ceil(ROWS)
    }

    /// The bytes of a panel, aligned to 64.
    pub fn panel(&self, panel: usize) -> &[u8] {
        &self.memory[self.start..][panel * self.stride..(panel + 1) * self.stride]
    }
}

fn pack_floats(format: &Format, row: &[u8], r: usize, bytes: usize, panel: &mut [u8]) {
    let Decode::Float(load) = format.decode else { return };
    for (k, raw) in row.chunks_exact(bytes).enumerate() {
        let at = (k * ROWS + r) * bytes;
        // Small weights count as 0 (rule 4); NaN stays.
        if flush(load(raw), WEIGHT_FLOOR) != 0.0 {
            panel[at..at + bytes].copy_from_slice(raw);
        }
    }
}

fn pack_blocks(format: &Format, kind: &Blocks, row: &[u8], r: usize, blocks: usize, panel: &mut [u8]) {
    let Decode::Block { scales, unpack, levels, .. } = format.decode else { return };
    let (integers, metas) = panel.split_at_mut(blocks * kind.integers);
    let mut index = [0u8; 256];
    if let Levels::Table(values) = levels {
        for (i, v) in values.iter().enumerate().rev() {
            index[usize::from(*v as u8)] = i as u8;
        }
    }
    let mut q = [0i8; CHUNK];
    let bytes = kind.integers / kind.chunks;
    for (b, raw) in row.chunks_exact(format.bytes).enumerate() {
        let meta = &mut metas[b * kind.scales..][..kind.scales];
        let [d, m] = scales(raw);
        let d = flush(d, WEIGHT_FLOOR);
        let half = |x: f32| if kind.wide_scale { (x.to_bits() >> 16) as u16 } else { f16_bits(x) as u16 };
        meta[2 * r..2 * r + 2].copy_from_slice(&half(d).to_le_bytes());
        if kind.min {
            meta[2 * (ROWS + r)..][..2].copy_from_slice(&half(m).to_le_bytes());
        }
        for c in 0..kind.chunks {
            let sub = unpack(raw, c, &mut q);
            if kind.sub != 0 {
                pack_sub_scales(kind, meta, r, c, sub);
            }
            let words: [u32; 8] = match levels {
                Levels::Bits { .. } => bytemuck::cast::<_, [u32; 8]>(q).map(|w| add_bytes(w, kind.offset as u8)),
                Levels::Table(_) => bytemuck::cast(q.map(|q| index[usize::from(q as u8)])),
            };
            pack_chunk(kind.bits, &words, r, &mut integers[b * kind.integers + c * bytes..][..bytes]);
        }
    }
}

fn pack_sub_scales(kind: &Blocks, meta: &mut [u8], r: usize, c: usize, sub: crate::quant::SubScales) {
    let subs = kind.chunks * CHUNK / kind.sub;
    let first = if kind.min { 4 * ROWS } else { 2 * ROWS };
    for half in 0..CHUNK / kind.sub {
        let j = c * CHUNK / kind.sub + half;
        meta[first + j * ROWS + r] = sub.s[half] as u8;
        if kind.min {
            meta[first + subs * ROWS + (j / 2 * ROWS + r) * 2 + j % 2] = sub.m[half] as u8;
        }
    }
}

/// Adds `n` to each byte of a word, without carries from one to the next.
fn add_bytes(word: u32, n: u8) -> u32 {
    const TOP: u32 = 0x8080_8080;
    let n = u32::from(n) * 0x0101_0101;
    ((word & !TOP) + (n & !TOP)) ^ ((word ^ n) & TOP)
}

fn pack_chunk(bits: usize, words: &[u32; 8], r: usize, out: &mut [u8]) {
    let lines: &mut [[u32; ROWS]] = bytemuck::cast_slice_mut(out);
    if bits == 8 {
        for (line, word) in lines.iter_mut().zip(words) {
            line[r] = *word;
        }
        return;
    }
    let (nibbles, above) = lines.split_at_mut(4);
    for (j, line) in nibbles.iter_mut().enumerate() {
        line[r] = (words[j] & 0x0f0f_0f0f) | (words[j + 4] & 0x0f0f_0f0f) << 4;
    }
    // The bits above: a fifth of eight words to a line, or two more of four.
    let more = bits - 4;
    for (i, line) in above.iter_mut().enumerate() {
        let words = if more == 1 { &words[..] } else { &words[4 * i..][..4] };
        let mask = ((1 << more) - 1) * 0x0101_0101;
        line[r] = words.iter().rev().fold(0, |fields, word| fields << more | word >> 4 & mask);
    }
}
