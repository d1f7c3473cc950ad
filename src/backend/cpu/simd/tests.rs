//! Every kernel against its scalar twin, bit for bit, over odd shapes.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::{HEADS, Isa, Ordered, Plane, Rows, TOKENS, Tiles};
use crate::backend::cpu::panels::{Matrix, ROWS, repack};
use crate::backend::cpu::pool::Pool;
use crate::backend::cpu::vector;
use crate::numerics::{ACTIVATION_FLOOR, ActivationRow, Precision, f16_bits, flush, r13};
use crate::ops;
use crate::ops::examples::{per_row_by, scoring};
use crate::quant::{FORMATS, Format};

fn paths() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|p| *p != Isa::Scalar && p.is_available())
}

/// SplitMix64 (Steele et al. 2014).
struct Random(u64);

impl Random {
    fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }

    fn floats(&mut self, n: usize, low: i32, high: i32) -> Vec<f32> {
        let mut float = || {
            let exponent = (127 + low) as u32 + self.word() % (high - low) as u32;
            f32::from_bits((self.word() & 0x807f_ffff) | (exponent << 23))
        };
        (0..n).map(|_| float()).collect()
    }

    /// Blocks of random bytes that stand for finite numbers.
    fn weights(&mut self, format: &Format, n: usize) -> Vec<u8> {
        let mut raw = vec![0u8; n / format.block * format.bytes];
        let mut values = vec![0.0; format.block];
        for block in raw.chunks_mut(format.bytes) {
            loop {
                block.iter_mut().for_each(|b| *b = self.word() as u8);
                format.dequantize(block, &mut values);
                if values.iter().all(|v| v.is_finite() && v.abs() < 1e6) {
                    break;
                }
            }
        }
        raw
    }
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn sums(q: &[i8], size: usize) -> Vec<i16> {
    q.chunks(size).map(|q| q.iter().map(|q| i16::from(*q)).sum()).collect()
}

/// Activations to integers, against the definition; some blocks are too small, some are no numbers.
fn quantized(isa: Isa, x: &[f32], seed: u64) {
    let mut x = x.to_vec();
    for (i, block) in x.chunks_mut(32).enumerate() {
        match (seed.wrapping_add(i as u64)) % 7 {
            0 => block.iter_mut().for_each(|x| *x *= ACTIVATION_FLOOR),
            1 => block[i % 32] = f32::NAN,
            2 => block[i % 32] = f32::INFINITY,
            3 => block.fill(-0.0),
            _ => {}
        }
    }
    for (block, precision) in [(32, Precision::Fast), (256, Precision::Fast), (32, Precision::Precise)] {
        let x = &x[..x.len() / block * block];
        let low = if precision == Precision::Precise { x.len() } else { 0 };
        let empty = || (vec![1i8; x.len()], vec![1i8; low], vec![1.0; x.len() / block]);
        let ((mut hi, mut lo, mut scale), mut got) = (empty(), empty());
        ops::quantize_activations::cpu(block, precision, x, &mut hi, &mut lo, &mut scale);
        vector::quantize_activations(isa, block, precision, x, &mut got.0, &mut got.1, &mut got.2);
        let (got, want) = ((got.0, got.1, bits(&got.2)), (hi, lo, bits(&scale)));
        assert_eq!(got, want, "{isa:?} {precision:?}, blocks of {block}");
    }
}

/// Matrices of every format, `[rows, blocks of the format]`; of plain numbers, an odd width.
struct Products {
    blocks: usize,
    rows: usize,
    odd: usize,
    precise: bool,
    seed: u64,
}

impl Products {
    /// Whether every path multiplies so many rows of activations at once as the definition does one by one.
    fn equal_rows_one_by_one(&self, counts: &[usize]) {
        let &Self { blocks, rows, odd, precise, seed } = self;
        let most = counts.iter().copied().max().unwrap();
        let mut random = Random(seed);
        let precision = if precise { Precision::Precise } else { Precision::Fast };
        let mut pool = Pool::new(2);
        let mut tiles = Tiles::default();
        let mut ordered = Ordered::default();
        for format in FORMATS {
            let block = format.activation_block();
            let cols =
                block.map_or(blocks * 16 + odd + 1, |b| if b == 32 { 32 * blocks } else { 256 * blocks.div_ceil(6) });
            let raw = random.weights(format, rows * cols);
            let x = random.floats(most * cols, -40, 5);
            let (mut hi, mut lo) = (vec![0i8; x.len()], vec![0i8; x.len()]);
            let mut scale = vec![0.0; x.len() / block.unwrap_or(x.len())];
            if let Some(b) = block {
                ops::quantize_activations::cpu(
                    b,
                    precision,
                    &x,
                    &mut hi,
                    if precise { &mut lo } else { &mut [] },
                    &mut scale,
                );
            }
            let at = |t: usize, n: usize| t * cols / n..(t + 1) * cols / n;
            let mut want = vec![[0.0f32; 1]; rows * most];
            for (i, want) in want.iter_mut().enumerate() {
                let (n, t) = (i / most, i % most);
                let row = match block {
                    None => ActivationRow::Float(&x[at(t, 1)]),
                    Some(b) => {
                        let low = precise.then(|| &lo[at(t, 1)]);
                        ActivationRow::Quantized { scale: &scale[at(t, b)], hi: &hi[at(t, 1)], lo: low }
                    }
                };
                format.dot(&raw[n * format.row_bytes(cols)..][..format.row_bytes(cols)], &[row], want);
            }
            let panels = repack(&[Matrix { format, raw: &raw, rows, cols }], &mut pool, |_| {}).unwrap().remove(0);
            let plane_sums = [&hi, &lo].map(|q| [sums(q, 16), sums(q, 32)]);
            let padded = panels.blocks * 32;
            let rounded: Vec<Vec<f32>> = x
                .chunks(cols)
                .map(|x| {
                    let round = |x: f32| flush(if format.bytes == 2 { r13(x) } else { x }, ACTIVATION_FLOOR);
                    let mut row: Vec<f32> = x.iter().map(|x| round(*x)).collect();
                    row.resize(row.len().max(padded), 0.0);
                    row
                })
                .collect();
            let totals = plane_sums.each_ref().map(|s| s[1].iter().map(|s| f32::from(*s)).collect::<Vec<_>>());
            // Results of a panel, for rows of activations from `first` on, as the op stores them: the sign of a zero
            // does not count.
            let check = |isa: Isa, panel: usize, first: usize, got: &[[f32; ROWS]]| {
                for (t, got) in (first..).zip(got) {
                    for (n, got) in (panel * ROWS..rows).zip(got) {
                        let (got, want) = (got + 0.0, want[n * most + t][0] + 0.0);
                        assert_eq!(
                            got.to_bits(),
                            want.to_bits(),
                            "{} {precision:?} {isa:?} row {n} token {t}",
                            format.name
                        );
                    }
                }
            };
            for &tokens in counts {
                // The first rows of all.
                let plane = |p: usize| Plane {
                    q: &[&hi, &lo][p][..tokens * cols],
                    sums: [16, 32].map(|n| &plane_sums[p][n / 32][..tokens * cols / n]),
                    totals: &totals[p][..tokens * cols / 32],
                };
                let scale = &scale[..block.map_or(0, |b| tokens * cols / b)];
                let xs = Rows { count: tokens, cols, planes: [plane(0), plane(1)], scale };
                let in_order = block.map(|_| ordered.fill(&xs, &mut pool)).unwrap_or_default();
                for isa in paths() {
                    let step = super::panels(tokens);
                    for first in (0..panels.count()).step_by(step) {
                        let part = first..(first + step).min(panels.count());
                        for tile in (0..tokens).step_by(TOKENS) {
                            let count = TOKENS.min(tokens - tile);
                            let mut got = [[0.0; ROWS]; TOKENS];
                            if block.is_some() {
                                super::blocks(isa, &panels, part.clone(), &in_order.tile(tile), precise, &mut got);
                            } else {
                                let xs: Vec<_> = rounded[tile..tile + count].iter().map(|x| &x[..]).collect();
                                super::floats(isa, &panels, part.clone(), &xs, &mut got);
                            }
                            part.clone().zip(got.chunks(count)).for_each(|(panel, got)| check(isa, panel, tile, got));
                        }
                    }
                }
                if Isa::Amx.is_available() && !precise && block.is_some() {
                    tiles.fill(&xs, &mut pool);
                    for panel in 0..panels.count() {
                        let mut seen = 0;
                        super::product(&panels, panel, &tiles, |first, got| {
                            check(Isa::Amx, panel, first, got);
                            seen += got.len();
                        });
                        assert_eq!(seen, tokens);
                    }
                }
            }
        }
    }
}

#[test]
fn every_number_of_rows_has_the_bits_of_rows_one_by_one() {
    let counts: Vec<usize> = (1..=70).collect();
    for precise in [false, true] {
        // More panels than a kernel takes at once, the last of them with one row.
        Products { blocks: 9, rows: 5 * ROWS + 1, odd: 3, precise, seed: 7 }.equal_rows_one_by_one(&counts);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn products(blocks in 1usize..20, rows in 1usize..80, tokens in prop_oneof![1usize..=TOKENS, TOKENS..70], odd in 0usize..40, precise: bool, seed: u64) {
        Products { blocks, rows, odd, precise, seed }.equal_rows_one_by_one(&[tokens]);
    }

    #[test]
    fn attention(kv_heads in 1usize..4, group in 1usize..=HEADS, sixteenth in 1usize..10, count in 1usize..400, seed: u64) {
        let mut random = Random(seed);
        let (heads, head_dim) = (kv_heads * group, 16 * sixteenth);
        let mut cache = || -> Vec<u16> {
            random.floats(count * kv_heads * head_dim, -20, 3).iter().map(|x| f16_bits(*x) as u16).collect()
        };
        let (k, v) = (cache(), cache());
        let q = random.floats(heads * head_dim, -10, 3);
        let (spec, scoring) = scoring(random.word(), kv_heads, head_dim, count);
        let sinks = if scoring.sinks.is_some() { random.floats(heads, -3, 3) } else { Vec::new() };
        let p = ops::attention::Params::new(heads, spec, scoring, count);
        let width = kv_heads * head_dim;
        let mut tiles = vec![0u16; count.next_multiple_of(ROWS) * width];
        for (i, &k) in k.iter().enumerate() {
            tiles[super::super::tiled(i / width, i % width, width)] = k;
        }
        let seen = p.first(count).1 * width;
        let (k, tiles, v) = (&k[seen..], &tiles[seen..], &v[seen..]);
        let mut want = vec![0.0; heads * head_dim];
        for (head, (q, want)) in q.chunks(head_dim).zip(want.chunks_mut(head_dim)).enumerate() {
            ops::attention::cpu(&p, head, count, q, k, v, &sinks, &mut vec![0.0; count], want);
        }
        for isa in paths() {
            // All heads of a group, and less.
            for together in 1..=group {
                let mut got = vec![0.0; heads * head_dim];
                let mut scratch = vec![0.0; (count.next_multiple_of(ROWS) + head_dim) * together];
                for head in (0..heads).step_by(group).flat_map(|g| (g..g + group).step_by(together)) {
                    let last = (head + together).min(head / group * group + group);
                    let at = head * head_dim..last * head_dim;
                    super::attention(isa, &p, head, count, &q[at.clone()], tiles, v, &sinks, &mut scratch, &mut got[at]);
                }
                prop_assert_eq!(bits(&got), bits(&want), "{:?}, {} heads", isa, together);
            }
        }
    }

    #[test]
    fn elementwise(width in 1usize..700, seed: u64) {
        let mut random = Random(seed);
        let (a, b) = (random.floats(width, -70, 8), random.floats(width, -70, 8));
        let mut runs = Vec::new();
        for isa in [Isa::Scalar].into_iter().chain(paths()) {
            let mut out = [a.clone(), a.clone()];
            let whole = width / 32 * 32;
            let (mut hi, mut lo, mut scale) = (vec![0i8; whole], vec![0i8; whole], vec![0.0; whole / 32]);
            let mut sums = [vec![0i16; whole / 16], vec![0i16; whole / 32]];
            let mut random = Random(seed);
            let compute = |op: &ops::Op, shapes: &ops::shapes::Shapes<'_>, from: ops::Row<'_, f32>, out: &mut [f32]| {
                vector::row(isa, op, shapes, from, out);
            };
            let examples = per_row_by(width, 2, 3, &mut |n| random.floats(n, -70, 8), &compute);
            let rows: Vec<_> = examples.into_iter().map(|(_, example)| example.expected).collect();
            let (spec, scoring) = scoring(seed as u32, 1, 2, width);
            let p = ops::attention::Params::new(1, spec, scoring, width);
            let sink = scoring.sinks.map(|_| b[0]);
            let (first, start) = p.first(width);
            let inverse = vector::weigh(isa, &p, start, first, sink, &mut out[0][start..]);
            vector::prepare(isa, &a, seed % 2 == 0, &mut out[1]);
            out[1].push(inverse);
            let mut stored = vec![0.0; width];
            vector::store(isa, &a, if seed % 3 == 0 { &[] } else { &b }, &mut stored);
            vector::quantize_activations(isa, 32, Precision::Precise, &a[..whole], &mut hi, &mut lo, &mut scale);
            quantized(isa, &a[..whole], seed);
            let (mut totals, mut stored) = (vec![0.0; whole / 32], stored);
            vector::add_up(isa, &hi, sums.each_mut().map(|s| &mut s[..]), &mut totals);
            stored.extend(totals);
            let cache = (bits(&stored), sums);
            runs.push((rows, out.map(|o| bits(&o)), cache, hi, lo, bits(&scale)));
        }
        for run in &runs[1..] {
            prop_assert_eq!(run, &runs[0]);
        }
    }
}
