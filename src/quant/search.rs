//! What the quantisers share: the scale searches of ggml's reference quantisers (`ggml-quants.c`), with its order of
//! float operations, so that files made here and there agree.

use super::{CHUNK, f16_at};

/// Blocks below this magnitude are stored as zeros.
const EMPTY: f32 = 1e-15;

/// Steps of the search over a scale and a minimum.
pub(super) struct Search {
    /// First offset from the largest integer.
    pub first: f32,
    /// Offsets tried after it, 0.1 apart.
    pub steps: usize,
    /// Errors count by magnitude instead of square.
    pub absolute: bool,
}

/// The nearest integer, halves to even.
pub(super) fn nearest(x: f32) -> i32 {
    x.round_ties_even() as i32
}

/// `1 / x`, or 0 for 0.
pub(super) fn inverse(x: f32) -> f32 {
    if x == 0.0 { 0.0 } else { 1.0 / x }
}

/// The element of the largest magnitude, with its sign.
pub(super) fn extreme(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |best: f32, &x| if x.abs() > best.abs() { x } else { best })
}

/// Writes `x` as f16 at `raw[at..at + 2]` and gives back the value stored.
pub(super) fn store_f16(raw: &mut [u8], at: usize, x: f32) -> f32 {
    raw[at..at + 2].copy_from_slice(&half::f16::from_f32(x).to_le_bytes());
    f16_at(raw, at)
}

/// Packs 32 values below 16: value `i` in a low, value `i + 16` in a high nibble.
pub(super) fn nibbles(q: &[u8], raw: &mut [u8]) {
    for (i, raw) in raw[..CHUNK / 2].iter_mut().enumerate() {
        *raw = q[i] & 15 | (q[i + 16] & 15) << 4;
    }
}

/// The inverse of `q5_0::fifth_bits`.
pub(super) fn split_fifth_bits(q: &[u8], low: &mut [u8], high: &mut [u8]) {
    nibbles(q, low);
    high.fill(0);
    for (i, q) in q.iter().enumerate() {
        high[i / 8] |= (q >> 4 & 1) << (i % 8);
    }
}

/// A scale without minimum for integers in `-steps..steps` (ggml's `make_qx_quants` weighting by squares): the scale.
pub(super) fn symmetric(x: &[f32], steps: i32) -> f32 {
    let max = extreme(x);
    if max.abs() < EMPTY {
        return 0.0;
    }
    let sums = |inverse: f32| {
        let (mut lx, mut l2) = (0.0f32, 0.0f32);
        for &x in x {
            let l = nearest(inverse * x).clamp(-steps, steps - 1) as f32;
            let w = x * x;
            lx += w * x * l;
            l2 += w * l * l;
        }
        (lx, l2)
    };
    let (lx, l2) = sums(-(steps as f32) / max);
    let mut scale = if l2 == 0.0 { 0.0 } else { lx / l2 };
    let mut best = scale * lx;
    for step in (-9i32..=9).filter(|s| *s != 0) {
        let (lx, l2) = sums(-(steps as f32 + 0.1 * step as f32) / max);
        if l2 > 0.0 && lx * lx > best * l2 {
            scale = lx / l2;
            best = scale * lx;
        }
    }
    scale
}

/// A scale for integers in `-4..4`, refined element by element (ggml's `make_q3_quants`).
pub(super) fn refined(x: &[f32; 16]) -> f32 {
    const STEPS: i32 = 4;
    let max = extreme(x);
    if max.abs() < EMPTY {
        return 0.0;
    }
    let inverse = -(STEPS as f32) / max;
    let mut q = [0i32; 16];
    let (mut lx, mut l2) = (0.0f32, 0.0f32);
    for (q, &x) in q.iter_mut().zip(x) {
        *q = nearest(inverse * x).clamp(-STEPS, STEPS - 1);
        let (l, w) = (*q as f32, x * x);
        lx += w * x * l;
        l2 += w * l * l;
    }
    for _ in 0..5 {
        let mut changed = false;
        for (q, &x) in q.iter_mut().zip(x) {
            let (l, w) = (*q as f32, x * x);
            let mut other_lx = lx - w * x * l;
            if other_lx <= 0.0 {
                continue;
            }
            let mut other_l2 = l2 - w * l * l;
            let new = nearest(x * other_l2 / other_lx).clamp(-STEPS, STEPS - 1);
            if new == *q {
                continue;
            }
            other_lx += w * x * new as f32;
            other_l2 += w * new as f32 * new as f32;
            if other_l2 > 0.0 && other_lx * other_lx * l2 > lx * lx * other_l2 {
                (*q, lx, l2, changed) = (new, other_lx, other_l2, true);
            }
        }
        if !changed {
            break;
        }
    }
    if l2 > 0.0 { lx / l2 } else { 0.0 }
}

/// A scale and a minimum for integers in `0..=steps` (ggml's `make_qkx2_quants`): `[scale, -min]`, both ≥ 0.
pub(super) fn with_minimum(x: &[f32], weights: &[f32], steps: i32, search: &Search) -> [f32; 2] {
    let (mut min, mut max) = (x[0], x[0]);
    let (mut sum_w, mut sum_x) = (0.0f32, 0.0f32);
    for (&x, &w) in x.iter().zip(weights) {
        min = min.min(x);
        max = max.max(x);
        sum_w += w;
        sum_x += w * x;
    }
    min = min.min(0.0);
    if max == min {
        return [0.0, -min];
    }
    // Integers are counted from `low`, the best minimum so far, as in ggml.
    let quantize = |inverse: f32, low: f32, x: f32| nearest(inverse * (x - low)).clamp(0, steps) as f32;
    let error = |inverse: f32, low: f32, scale: f32, min: f32| {
        let mut sum = 0.0f32;
        for (&x, &w) in x.iter().zip(weights) {
            let diff = scale * quantize(inverse, low, x) + min - x;
            sum += w * if search.absolute { diff.abs() } else { diff * diff };
        }
        sum
    };
    let first = steps as f32 / (max - min);
    let mut scale = 1.0 / first;
    let mut best = error(first, min, scale, min);
    for step in 0..=search.steps {
        let inverse = (search.first + 0.1 * step as f32 + steps as f32) / (max - min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0f32, 0.0f32, 0.0f32);
        for (&x, &w) in x.iter().zip(weights) {
            let l = quantize(inverse, min, x);
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * x;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant <= 0.0 {
            continue;
        }
        let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
        let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
        if this_min > 0.0 {
            this_min = 0.0;
            this_scale = sum_xl / sum_l2;
        }
        let this_error = error(inverse, min, this_scale, this_min);
        if this_error < best {
            (best, scale, min) = (this_error, this_scale, this_min);
        }
    }
    [scale, -min]
}

/// The largest scale and the largest minimum; +0 where none is positive.
pub(super) fn largest(pairs: &[[f32; 2]]) -> [f32; 2] {
    [0, 1].map(|i| pairs.iter().fold(0.0, |m, p| if p[i] > m { p[i] } else { m }))
}

/// Scales and minima of the eight sub-blocks of Q4_K and Q5_K, packed as six bits each, and with them the integers.
///
/// `block` starts with `d: f16, dmin: f16, scales: [u8; 12]`.
pub(super) fn k_scales_and_integers(x: &[f32], steps: i32, search: &Search, block: &mut [u8]) -> [u8; 256] {
    let mut pairs = [[0.0f32; 2]; 8];
    for (pair, x) in pairs.iter_mut().zip(x.chunks_exact(CHUNK)) {
        let mean = (x.iter().fold(0.0, |sum, x| sum + x * x) / CHUNK as f32).sqrt();
        let weights: [f32; CHUNK] = std::array::from_fn(|i| mean + x[i].abs());
        *pair = with_minimum(x, &weights, steps, search);
    }
    let largest = largest(&pairs);
    let factors = largest.map(|l| if l > 0.0 { 63.0 / l } else { 0.0 });
    block[4..16].fill(0);
    for (j, pair) in pairs.iter().enumerate() {
        let [s, m] = [0, 1].map(|i| nearest(factors[i] * pair[i]).clamp(0, 63) as u8);
        if j < 4 {
            block[4 + j] = s;
            block[8 + j] = m;
        } else {
            block[8 + j] = s & 15 | (m & 15) << 4;
            block[j] |= s >> 4 << 6;
            block[4 + j] |= m >> 4 << 6;
        }
    }
    let d = store_f16(block, 0, largest[0] / 63.0);
    let dmin = store_f16(block, 2, largest[1] / 63.0);
    let mut q = [0; 256];
    for (j, (x, q)) in x.chunks_exact(CHUNK).zip(q.chunks_exact_mut(CHUNK)).enumerate() {
        let (s, m) = super::q4_k::scale_min(&block[4..16], j);
        quantize_with_minimum(x, d * s as f32, dmin * m as f32, steps, q);
    }
    q
}

/// Integers in `0..=steps` for a scale and a subtracted minimum; zeros for a scale of 0.
pub(super) fn quantize_with_minimum(x: &[f32], d: f32, min: f32, steps: i32, q: &mut [u8]) {
    if d != 0.0 {
        for (q, &x) in q.iter_mut().zip(x) {
            *q = nearest((x + min) / d).clamp(0, steps) as u8;
        }
    }
}

/// Packs two bits of 256 values as Q2_K and Q3_K store them.
pub(super) fn pairs_of_bits(q: &[u8; 256], raw: &mut [u8]) {
    for (half, raw) in q.chunks_exact(128).zip(raw.chunks_exact_mut(CHUNK)) {
        for (i, raw) in raw.iter_mut().enumerate() {
            *raw = (0..4).fold(0, |byte, part| byte | (half[CHUNK * part + i] & 3) << (2 * part));
        }
    }
}

/// The index of the table value nearest to `x`, the lower one where two are equally near; `values` ascend.
pub(super) fn nearest_index(values: &[i8; 16], x: f32) -> u8 {
    let above = values.partition_point(|v| f32::from(*v) <= x);
    match above {
        0 => 0,
        16 => 15,
        i if x - f32::from(values[i - 1]) < f32::from(values[i]) - x => i as u8 - 1,
        i => i as u8,
    }
}

/// The scale of 32 values that are indices into `values` (ggml's `quantize_row_iq4_nl_impl` without importances).
pub(super) fn table_scale(values: &[i8; 16], x: &[f32]) -> f32 {
    let max = extreme(x);
    if max.abs() < EMPTY {
        return 0.0;
    }
    let sums = |inverse: f32| {
        let (mut qx, mut q2) = (0.0f32, 0.0f32);
        for &x in x {
            let q = f32::from(values[usize::from(nearest_index(values, inverse * x))]);
            let w = x * x;
            qx += w * q * x;
            q2 += w * q * q;
        }
        (qx, q2)
    };
    let first = f32::from(values[0]);
    let (qx, q2) = sums(1.0 / (-max / first));
    let mut scale = qx / q2;
    let mut best = scale * qx;
    for step in -7i8..=7 {
        let (qx, q2) = sums((f32::from(step) + first) / max);
        if q2 > 0.0 && qx * qx > best * q2 {
            scale = qx / q2;
            best = scale * qx;
        }
    }
    scale
}
