//! Attention of one head over the cache; the vector twin of `ops::attention::cpu`.

use core::arch::x86_64::*;

use crate::numerics::{ACTIVATION_FLOOR, exp2, flush, r13, recip, settle};
use crate::ops::attention::Params;

/// As `ops::attention::cpu`, for processors with AVX2, FMA and F16C. The products are exact (13 by 11 bits), so fusing
/// them with the additions changes nothing.
///
/// # Panics
/// If the processor lacks the instructions or a slice is too short.
pub fn attention(
    p: &Params,
    head: usize,
    count: usize,
    q: &[f32],
    k_cache: &[u16],
    v_cache: &[u16],
    scores: &mut [f32],
    out: &mut [f32],
) {
    let head_dim = p.head_dim as usize;
    let width = p.kv_heads as usize * head_dim;
    let at = head / (p.heads / p.kv_heads) as usize * head_dim;
    assert!(super::Path::Avx2.is_available());
    assert!(k_cache.len() >= count * width && v_cache.len() >= count * width && at + head_dim <= width);
    assert!(q.len() >= head_dim && scores.len() >= count && out.len() >= head_dim && head_dim.is_multiple_of(8));
    // SAFETY: the instructions exist and the slices are long enough.
    unsafe { run(p, head_dim, width, at, count, q, k_cache, v_cache, scores, out) }
}

/// # Safety
/// As checked by `attention`.
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn run(
    p: &Params,
    head_dim: usize,
    width: usize,
    at: usize,
    count: usize,
    q: &[f32],
    k_cache: &[u16],
    v_cache: &[u16],
    scores: &mut [f32],
    out: &mut [f32],
) {
    let q: Vec<f32> = q[..head_dim].iter().map(|&q| r13(flush(q, ACTIVATION_FLOOR))).collect();
    let mut top = -f32::from_bits((127 + 100) << 23);
    for (position, score) in scores[..count].iter_mut().enumerate() {
        // SAFETY: a position has `head_dim` keys from `at` on.
        let sum = unsafe { dot(&q, k_cache.as_ptr().add(position * width + at)) };
        *score = flush(sum * p.scale, ACTIVATION_FLOOR);
        top = top.max(*score);
    }
    for score in &mut scores[..count] {
        *score = r13(exp2(*score - top));
    }
    let inverse = recip(crate::numerics::s8::sum_of(&scores[..count], |w| w));
    for d in (0..head_dim).step_by(8) {
        // SAFETY: a position has `head_dim` values from `at` on.
        let sum = unsafe { weighted(&scores[..count], v_cache.as_ptr().add(at + d), width) };
        for (out, sum) in out[d..d + 8].iter_mut().zip(sum) {
            *out = settle(sum * inverse);
        }
    }
}

/// S8 over blocks of 32 of the products of `q` with as many f16.
///
/// # Safety
/// `k` points to `q.len()` numbers, a multiple of 8.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot(q: &[f32], k: *const u16) -> f32 {
    let mut lanes = [0.0f32; 8];
    for (b, block) in q.chunks(32).enumerate() {
        let mut sum = _mm256_setzero_ps();
        for (i, q) in block.chunks_exact(8).enumerate() {
            // SAFETY: eight numbers each.
            unsafe {
                let k = _mm256_cvtph_ps(_mm_loadu_si128(k.add(32 * b + 8 * i).cast()));
                sum = _mm256_fmadd_ps(_mm256_loadu_ps(q.as_ptr()), k, sum);
            }
        }
        lanes[b % 8] += horizontal(sum);
    }
    crate::numerics::s8::tree(&lanes)
}

/// The tree of S8 over the lanes of a vector.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn horizontal(v: __m256) -> f32 {
    let four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

/// Sums over positions of `weights[position]` times eight f16, `stride` apart: S8 in tiles of 32, S8 over the tiles.
///
/// # Safety
/// `v` points to `weights.len()` groups of eight numbers, `stride` apart.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn weighted(weights: &[f32], v: *const u16, stride: usize) -> [f32; 8] {
    let mut outer = [_mm256_setzero_ps(); 8];
    for (tile, weights) in weights.chunks(32).enumerate() {
        let mut inner = [_mm256_setzero_ps(); 8];
        for (i, w) in weights.iter().enumerate() {
            // SAFETY: eight numbers of position `32 * tile + i`.
            let v = unsafe { _mm256_cvtph_ps(_mm_loadu_si128(v.add((32 * tile + i) * stride).cast())) };
            inner[i % 8] = _mm256_fmadd_ps(_mm256_set1_ps(*w), v, inner[i % 8]);
        }
        outer[tile % 8] = _mm256_add_ps(outer[tile % 8], tree(&inner));
    }
    let mut out = [0.0; 8];
    // SAFETY: eight results.
    unsafe { _mm256_storeu_ps(out.as_mut_ptr(), tree(&outer)) };
    out
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tree(l: &[__m256; 8]) -> __m256 {
    let a =
        [_mm256_add_ps(l[0], l[4]), _mm256_add_ps(l[1], l[5]), _mm256_add_ps(l[2], l[6]), _mm256_add_ps(l[3], l[7])];
    _mm256_add_ps(_mm256_add_ps(a[0], a[2]), _mm256_add_ps(a[1], a[3]))
}
