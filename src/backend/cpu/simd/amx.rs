//! AMX: products of 16 rows of weights with 16 rows of activations at once, as tiles.
//!
//! A tile product gives the integer sums of a block; the terms are made of them in AVX-512, a lane of a vector being a
//! row of weights as in the other kernels. Sums of one lane of S8 stay in registers: 16 vectors, one per row of
//! activations. The weights of a panel are unpacked once for all tiles of activations.
//!
//! Blocks of 256 weights have integer scales. Those are multiplied into the weights, whose 16 bits are then the bytes
//! of two operands, so that a whole block is one sum: `256 * high + low`.

use core::arch::asm;
use core::arch::x86_64::*;
use std::cell::RefCell;

use super::super::isa::Isa;
use super::super::panels::{Blocks, Kind, Panels, ROWS};
use super::TOKENS;
use super::avx512;
use super::tiles::{Large, Small, Tiles, place, steps};

type I = __m512i;
type F = __m512;

/// 64 bytes in a line of the cache, a row of a tile.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u8; 64]);

const ZERO: Line = Line([0; 64]);

/// A block of 32 weights of 16 rows.
#[derive(Clone, Copy)]
#[repr(C)]
struct SmallWeights {
    /// Line `j` has weights `4j..4j + 4` of each row.
    q: [Line; 8],
    d: Line,
    m: Line,
}

/// A block of 256 weights of 16 rows.
#[derive(Clone, Copy)]
#[repr(C)]
struct LargeWeights {
    /// Four tiles of 64 weights times their scales: their high and their low bytes.
    q: [[[Line; 16]; 2]; 4],
    d: Line,
    m: Line,
    /// Minima of pairs of sub-blocks.
    minima: [Line; 8],
}

/// Memory of a thread's products.
#[derive(Default)]
struct Scratch {
    /// Unpacked weights of a panel.
    small: Vec<SmallWeights>,
    large: Vec<LargeWeights>,
    /// The sums of each tile of activations.
    lanes: Lanes,
}

/// The eight lanes of S8 for each row of each tile.
type Lanes = Vec<[[Line; 8]; TOKENS]>;

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// See `tiles::product`.
pub fn product(p: &Panels, panel: usize, xs: &Tiles, mut store: impl FnMut(usize, &[[f32; ROWS]])) {
    let Kind::Blocks(kind) = &p.kind else { return };
    let tiles = xs.count.div_ceil(TOKENS);
    assert!(Isa::Amx.is_available() && xs.blocks == p.blocks && panel < p.count());
    assert!(tiles * p.blocks == if kind.chunks == 1 { xs.small.len() } else { xs.large.len() });
    let store = |tile: usize, y: &[[f32; ROWS]; TOKENS]| {
        let first = tile * TOKENS;
        store(first, &y[..TOKENS.min(xs.count - first)]);
    };
    SCRATCH.with_borrow_mut(|Scratch { small, large, lanes }| {
        // SAFETY: the instructions exist; a panel holds `p.blocks` blocks of the layout `kind`, and every tile of
        // activations as many, as checked above.
        unsafe {
            if kind.chunks == 1 {
                unpack_small(p, kind, panel, small);
                if kind.min {
                    multiply_small::<true>(small, xs, lanes, store)
                } else {
                    multiply_small::<false>(small, xs, lanes, store)
                }
            } else {
                unpack_large(p, kind, panel, large);
                match (kind.min, kind.sub) {
                    (false, _) => multiply_large::<false, 0>(large, xs, lanes, store),
                    (true, 16) => multiply_large::<true, 8>(large, xs, lanes, store),
                    _ => multiply_large::<true, 4>(large, xs, lanes, store),
                }
            }
        }
    });
}

/// The eight vectors of a chunk, as signed bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn unpack(kind: &Blocks, q: *const u8) -> [I; 8] {
    // SAFETY: the caller's: a chunk of the layout.
    let w = unsafe {
        match (kind.bits, &kind.table) {
            (4, Some(table)) => avx512::unpack::<4, true, TOKENS>(q, avx512::load_table(table)),
            (4, None) => avx512::unpack::<4, false, TOKENS>(q, _mm512_setzero_si512()),
            (5, _) => avx512::unpack::<5, false, TOKENS>(q, _mm512_setzero_si512()),
            (6, _) => avx512::unpack::<6, false, TOKENS>(q, _mm512_setzero_si512()),
            _ => avx512::unpack::<8, false, TOKENS>(q, _mm512_setzero_si512()),
        }
    };
    let offset = _mm512_set1_epi8(kind.offset as u8 as i8);
    w.map(|w| _mm512_sub_epi8(w, offset))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn line(v: I) -> Line {
    // SAFETY: 64 bytes either way.
    unsafe { core::mem::transmute(v) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn integers(line: &Line) -> I {
    // SAFETY: as above.
    unsafe { core::mem::transmute(*line) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn floats(line: &Line) -> F {
    _mm512_castsi512_ps(integers(line))
}

/// The scales and minima of a block's rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn scales(kind: &Blocks, meta: *const u8) -> [Line; 2] {
    // SAFETY: every block of scales begins with these.
    unsafe {
        let d = if kind.wide_scale { avx512::load_upper_half(meta) } else { avx512::load_half(meta) };
        let m = if kind.min { avx512::load_half(meta.add(2 * ROWS)) } else { _mm512_setzero_ps() };
        [d, m].map(|v| line(_mm512_castps_si512(v)))
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn unpack_small(p: &Panels, kind: &Blocks, panel: usize, out: &mut Vec<SmallWeights>) {
    out.resize(p.blocks, SmallWeights { q: [ZERO; 8], d: ZERO, m: ZERO });
    let start = p.panel(panel).as_ptr();
    for b in 0..p.blocks {
        let out = &mut out[place(b, p.blocks, (0, 1))];
        // SAFETY: block `b` lies in the panel: its integers, then, after those of all blocks, its scales.
        unsafe {
            let q = unpack(kind, start.add(b * kind.integers));
            [out.d, out.m] = scales(kind, start.add(p.blocks * kind.integers + b * kind.scales));
            for (out, q) in out.q.iter_mut().zip(q) {
                *out = line(q);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn unpack_large(p: &Panels, kind: &Blocks, panel: usize, out: &mut Vec<LargeWeights>) {
    out.resize(p.blocks, LargeWeights { q: [[[ZERO; 16]; 2]; 4], d: ZERO, m: ZERO, minima: [ZERO; 8] });
    let start = p.panel(panel).as_ptr();
    let subs = 256 / kind.sub;
    for b in 0..p.blocks {
        let out = &mut out[place(b, p.blocks, (0, 1))];
        // SAFETY: as in `unpack_small`; a block has eight chunks and `subs` scales for each row.
        unsafe {
            let q = start.add(b * kind.integers);
            let meta = start.add(p.blocks * kind.integers + b * kind.scales);
            [out.d, out.m] = scales(kind, meta);
            let factors = meta.add(if kind.min { 4 } else { 2 } * ROWS);
            for c in 0..8 {
                let w = unpack(kind, q.add(c * kind.integers / 8));
                for (j, w) in w.into_iter().enumerate() {
                    let sub = (32 * c + 4 * j) / kind.sub;
                    let [high, low] = scaled(w, avx512::load_scale(factors.add(sub * ROWS)));
                    let at = 8 * (c % 2) + j;
                    (out.q[c / 2][0][at], out.q[c / 2][1][at]) = (line(high), line(low));
                }
            }
            if kind.min {
                let minima = factors.add(subs * ROWS);
                for (pair, out) in out.minima.iter_mut().enumerate().take(subs / 2) {
                    *out = line(avx512::load_pairs(minima.add(2 * pair * ROWS)));
                }
            }
        }
    }
}

/// Four signed weights per row times the row's scale, as high and low bytes of 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn scaled(w: I, scale: I) -> [I; 2] {
    let scale = _mm512_or_si512(_mm512_slli_epi32::<16>(scale), _mm512_and_si512(scale, _mm512_set1_epi32(0xffff)));
    let even = _mm512_mullo_epi16(_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(w)), scale);
    let odd = _mm512_mullo_epi16(_mm512_srai_epi16::<8>(w), scale);
    const ODD: u64 = 0xaaaa_aaaa_aaaa_aaaa;
    [
        _mm512_mask_blend_epi8(ODD, _mm512_srli_epi16::<8>(even), odd),
        _mm512_mask_blend_epi8(ODD, even, _mm512_slli_epi16::<8>(odd)),
    ]
}

/// The tiles' shapes: 0 and 1 are sums; 4 and 5 activations, 16 rows of `k` bytes; 2, 3, 6 and 7 weights, `k / 4` rows.
const fn shapes(k: u8) -> [u8; 64] {
    let mut shapes = [0; 64];
    shapes[0] = 1;
    let mut tile = 0;
    while tile < 8 {
        let (rows, bytes) = match tile {
            0 | 1 => (16, 64),
            4 | 5 => (16, k),
            _ => (k / 4, 64),
        };
        (shapes[16 + 2 * tile], shapes[48 + tile]) = (bytes, rows);
        tile += 1;
    }
    shapes
}

/// Sums of a block as the tile unit stores them: one tile, or two for high and low bytes.
type Sums = [[Line; TOKENS]; 2];

/// Blocks that the tile unit is ahead of the vectors.
const AHEAD: usize = 2;

/// Multiplies tiles of activations with a panel of `blocks` blocks, with the tiles' `shapes`. `multiply(i, w, out)` begins the product of block `i`
/// of the activations with block `w` of the weights, both as `place` counts, and stores the one that was begun
/// before; `add(i, w, sums, lane)` adds its terms.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
fn walk(
    shapes: &[u8; 64],
    (tiles, blocks): (usize, usize),
    lanes: &mut Lanes,
    multiply: impl Fn(usize, usize, &mut Sums),
    add: impl Fn(usize, usize, &Sums, &mut [F; TOKENS]),
    mut store: impl FnMut(usize, &[[f32; ROWS]; TOKENS]),
) {
    const RING: usize = AHEAD + 2;
    // SAFETY: tiles belong to this function until it releases them; nothing else in this program uses any.
    unsafe { asm!("ldtilecfg [{}]", in(reg) shapes.as_ptr(), options(nostack)) };
    let mut ring = [[[ZERO; TOKENS]; 2]; RING];
    lanes.resize(tiles, [[ZERO; 8]; TOKENS]);
    // Block `i + AHEAD`: its lane, the lane's first block of the weights, its tile, its step. The last blocks are begun
    // more than once, so that all are stored.
    let (mut lane, mut first, mut tile, mut step) = (0, 0, 0, 0);
    let mut begin = |i: usize, ring: &mut [Sums; RING]| {
        multiply(i.min(tiles * blocks - 1), (first + step).min(blocks - 1), &mut ring[(i + RING - 1) % RING]);
        step += 1;
        if step == steps(lane, blocks) {
            (tile, step) = (tile + 1, 0);
            if tile == tiles {
                (lane, first, tile) = (lane + 1, first + steps(lane, blocks), 0);
            }
        }
    };
    for i in 0..AHEAD {
        begin(i, &mut ring);
    }
    let (mut i, mut first) = (0, 0);
    for lane in 0..8 {
        let steps = steps(lane, blocks);
        for tile in lanes.iter_mut() {
            let mut sum = [_mm512_setzero_ps(); TOKENS];
            for step in 0..steps {
                begin(i + AHEAD, &mut ring);
                add(i, first + step, &ring[i % RING], &mut sum);
                i += 1;
            }
            for (lanes, sum) in tile.iter_mut().zip(sum) {
                lanes[lane] = line(_mm512_castps_si512(sum));
            }
        }
        first += steps;
    }
    // SAFETY: as above.
    unsafe { asm!("tilerelease", options(nostack, nomem)) };
    for (tile, lanes) in lanes.iter().enumerate() {
        let mut y = [[0.0; ROWS]; TOKENS];
        for (lanes, y) in lanes.iter().zip(&mut y) {
            let tree = avx512::tree(&core::array::from_fn(|lane| floats(&lanes[lane])));
            // SAFETY: 16 results.
            unsafe { _mm512_storeu_ps(y.as_mut_ptr(), tree) };
        }
        store(tile, &y);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn multiply_small<const MIN: bool>(
    weights: &[SmallWeights],
    xs: &Tiles,
    lanes: &mut Lanes,
    store: impl FnMut(usize, &[[f32; ROWS]; TOKENS]),
) {
    const SHAPES: [u8; 64] = shapes(32);
    let multiply = |i: usize, step: usize, out: &mut Sums| {
        let (x, w): (&Small, &SmallWeights) = (&xs.small[i], &weights[step]);
        // SAFETY: reads the tiles of one block, writes one of sums.
        unsafe {
            asm!(
                "tilestored [{out} + {line}], tmm0",
                "tilezero tmm0",
                "tileloadd tmm4, [{x} + {half}]",
                "tileloadd tmm6, [{w} + {line}]",
                "tdpbssd tmm0, tmm4, tmm6",
                out = in(reg) out, x = in(reg) &x.q, w = in(reg) &w.q, line = in(reg) 64usize, half = in(reg) 32usize,
                options(nostack),
            );
        }
    };
    let add = |i: usize, step: usize, sums: &Sums, lane: &mut [F; TOKENS]| {
        let (x, w): (&Small, &SmallWeights) = (&xs.small[i], &weights[step]);
        let (d, m) = (floats(&w.d), floats(&w.m));
        for (t, lane) in lane.iter_mut().enumerate() {
            let mut term = _mm512_mul_ps(d, avx512::to_float(integers(&sums[0][t])));
            if MIN {
                term = _mm512_add_ps(term, _mm512_mul_ps(m, _mm512_set1_ps(x.totals[t])));
            }
            *lane = _mm512_add_ps(*lane, _mm512_mul_ps(_mm512_set1_ps(x.scale[t]), term));
        }
    };
    walk(&SHAPES, (xs.count.div_ceil(TOKENS), weights.len()), lanes, multiply, add, store);
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn multiply_large<const MIN: bool, const PAIRS: usize>(
    weights: &[LargeWeights],
    xs: &Tiles,
    lanes: &mut Lanes,
    store: impl FnMut(usize, &[[f32; ROWS]; TOKENS]),
) {
    const SHAPES: [u8; 64] = shapes(64);
    let multiply = |i: usize, step: usize, out: &mut Sums| {
        let (x, w): (&Large, &LargeWeights) = (&xs.large[i], &weights[step]);
        // SAFETY: reads the tiles of one block, writes two of sums.
        unsafe {
            asm!(
                "tilestored [{out} + {line}], tmm0",
                "tilestored [{out} + {line} + 1024], tmm1",
                "tilezero tmm0",
                "tilezero tmm1",
                "tileloadd tmm4, [{x} + {line}]",
                "tileloadd tmm6, [{w} + {line}]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w} + {line} + 1024]",
                "tdpbsud tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{x} + {line} + 1024]",
                "tileloadd tmm2, [{w} + {line} + 2048]",
                "tdpbssd tmm0, tmm5, tmm2",
                "tileloadd tmm3, [{w} + {line} + 3072]",
                "tdpbsud tmm1, tmm5, tmm3",
                "tileloadd tmm4, [{x} + {line} + 2048]",
                "tileloadd tmm6, [{w} + {line} + 4096]",
                "tdpbssd tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{w} + {line} + 5120]",
                "tdpbsud tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{x} + {line} + 3072]",
                "tileloadd tmm2, [{w} + {line} + 6144]",
                "tdpbssd tmm0, tmm5, tmm2",
                "tileloadd tmm3, [{w} + {line} + 7168]",
                "tdpbsud tmm1, tmm5, tmm3",
                out = in(reg) out, x = in(reg) &x.q, w = in(reg) &w.q, line = in(reg) 64usize,
                options(nostack),
            );
        }
    };
    let add = |i: usize, step: usize, sums: &Sums, lane: &mut [F; TOKENS]| {
        let (x, w): (&Large, &LargeWeights) = (&xs.large[i], &weights[step]);
        let (d, m) = (floats(&w.d), floats(&w.m));
        let totals = if PAIRS == 8 { &x.totals16[..] } else { &x.totals32[..] };
        for (t, lane) in lane.iter_mut().enumerate() {
            let high = _mm512_slli_epi32::<8>(integers(&sums[0][t]));
            let sum = _mm512_add_epi32(high, integers(&sums[1][t]));
            let mut term = _mm512_mul_ps(d, avx512::to_float(sum));
            if MIN {
                let mut minimum = _mm512_setzero_si512();
                for (totals, minima) in totals.iter().zip(&w.minima).take(PAIRS) {
                    let pair = _mm512_set1_epi32(bytemuck::cast(totals[t]));
                    minimum = _mm512_dpwssd_epi32(minimum, integers(minima), pair);
                }
                term = _mm512_add_ps(term, _mm512_mul_ps(m, avx512::to_float(minimum)));
            }
            *lane = _mm512_add_ps(*lane, _mm512_mul_ps(_mm512_set1_ps(x.scale[t]), term));
        }
    };
    walk(&SHAPES, (xs.count.div_ceil(TOKENS), weights.len()), lanes, multiply, add, store);
}
