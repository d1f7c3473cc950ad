//! AVX2: 8 lanes, half a line of a panel.

use core::arch::x86_64::*;
use core::ops::Range;

use super::super::panels::{Blocks, Panels, ROWS};
use super::{AHEAD, FEW, Rows, TOKENS};

type I = __m256i;
type F = __m256;
const LANES: usize = 8;
/// Vectors of a panel's rows.
const PARTS: usize = ROWS / LANES;
/// Products of 16 bits have no room for nibbles where they were stored.
const RAISED: bool = false;

macro_rules! ops {
    ($($(#[$doc:meta])* fn $name:ident($($a:ident: $t:ty),*) -> $r:ty { $($body:tt)* })*) => {
        $($(#[$doc])* #[inline] #[target_feature(enable = "avx2,fma,f16c")]
        fn $name($($a: $t),*) -> $r { $($body)* })*
    };
}
ops! {
    fn zero() -> I { _mm256_setzero_si256() }
    fn zero_f() -> F { _mm256_setzero_ps() }
    fn splat(x: i32) -> I { _mm256_set1_epi32(x) }
    fn splat_f(x: f32) -> F { _mm256_set1_ps(x) }
    fn add_i(a: I, b: I) -> I { _mm256_add_epi32(a, b) }
    fn mul_i(a: I, b: I) -> I { _mm256_mullo_epi32(a, b) }
    fn add(a: F, b: F) -> F { _mm256_add_ps(a, b) }
    fn mul(a: F, b: F) -> F { _mm256_mul_ps(a, b) }
    fn mul_add(a: F, b: F, c: F) -> F { _mm256_fmadd_ps(a, b, c) }
    fn to_float(a: I) -> F { _mm256_cvtepi32_ps(a) }
    fn low(v: I) -> I { _mm256_and_si256(v, _mm256_set1_epi8(15)) }
    fn high(v: I) -> I { low(_mm256_srli_epi16::<4>(v)) }
    fn raised_high(v: I) -> I { _mm256_andnot_si256(_mm256_set1_epi8(15), v) }
    fn shift_down(v: I) -> I { _mm256_srai_epi32::<4>(v) }
    /// By so many bits to the left; those of a byte may end in its neighbour.
    fn shift(v: I, left: i32) -> I {
        if left < 0 {
            _mm256_srl_epi16(v, _mm_cvtsi32_si128(-left))
        } else {
            _mm256_sll_epi16(v, _mm_cvtsi32_si128(left))
        }
    }
    fn with_bits(v: I, more: I, mask: I) -> I { _mm256_or_si256(v, _mm256_and_si256(more, mask)) }
    fn look_up(table: I, v: I) -> I { _mm256_shuffle_epi8(table, v) }
    fn dot_pairs(sum: I, a: I, b: I) -> I { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) }
}

/// Adds the products of the bytes of `w`, without sign, and as many activations.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot<const BITS: usize, const TABLE: bool>(sum: I, w: &[I], x: *const i8) -> I {
    // SAFETY: the caller's.
    unsafe { dot_scaled::<BITS, TABLE>(sum, w, x, _mm256_set1_epi16(1)) }
}

/// The same times a scale in both halves of each lane. Products of pairs are added in 16 bits while they have room: of
/// 8 words with 4 bits, of 4 with 5 and of 2 with 6; 8 bits are taken as two nibbles.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn dot_scaled<const BITS: usize, const TABLE: bool>(mut sum: I, w: &[I], x: *const i8, scale: I) -> I {
    // SAFETY: the caller's.
    let x = |j: usize| splat(unsafe { x.cast::<i32>().add(j).read_unaligned() });
    if BITS == 8 || TABLE {
        let (mut lower, mut upper) = (zero(), zero());
        for (j, w) in w.iter().enumerate() {
            lower = _mm256_add_epi16(lower, _mm256_maddubs_epi16(low(*w), x(j)));
            upper = _mm256_add_epi16(upper, _mm256_maddubs_epi16(high(*w), x(j)));
        }
        let upper = _mm256_slli_epi32::<4>(_mm256_madd_epi16(upper, scale));
        return add_i(sum, add_i(_mm256_madd_epi16(lower, scale), upper));
    }
    let room = 8 >> (BITS - 4);
    for (i, w) in w.chunks(room).enumerate() {
        let mut pairs = zero();
        for (j, w) in w.iter().enumerate() {
            pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(*w, x(i * room + j)));
        }
        sum = add_i(sum, _mm256_madd_epi16(pairs, scale));
    }
    sum
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load(p: *const u8) -> I {
    // SAFETY: the caller's.
    unsafe { _mm256_loadu_si256(p.cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_table(p: &[u8; 16]) -> I {
    // SAFETY: 16 bytes.
    unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(p.as_ptr().cast())) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_f(p: *const u8) -> F {
    // SAFETY: the caller's.
    unsafe { _mm256_loadu_ps(p.cast()) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_half(p: *const u8) -> F {
    // SAFETY: the caller's.
    unsafe { _mm256_cvtph_ps(_mm_loadu_si128(p.cast())) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_upper_half(p: *const u8) -> F {
    // SAFETY: the caller's.
    let halves = unsafe { _mm_loadu_si128(p.cast()) };
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
}

/// Scales as `dot_scaled` takes them.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_scale(p: *const u8) -> I {
    // SAFETY: the caller's.
    let all = _mm256_set1_epi64x(unsafe { p.cast::<i64>().read_unaligned() });
    // Each into the upper bytes of its lane's halves, then down with its sign.
    let upper = _mm256_setr_epi32(
        0x0000_0000,
        0x0101_0101,
        0x0202_0202,
        0x0303_0303,
        0x0404_0404,
        0x0505_0505,
        0x0606_0606,
        0x0707_0707,
    );
    _mm256_srai_epi16::<8>(_mm256_shuffle_epi8(all, upper))
}

/// One i8 per lane of each as two i16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_both(a: *const u8, b: *const u8) -> I {
    // SAFETY: the caller's.
    let (a, b) = unsafe { (_mm_loadl_epi64(a.cast()), _mm_loadl_epi64(b.cast())) };
    _mm256_cvtepi8_epi16(_mm_unpacklo_epi8(a, b))
}

/// Two i8 per lane as two i16.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_pairs(p: *const u8) -> I {
    // SAFETY: the caller's.
    unsafe { _mm256_cvtepi8_epi16(_mm_loadu_si128(p.cast())) }
}

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn store_f(p: *mut f32, v: F) {
    // SAFETY: the caller's.
    unsafe { _mm256_storeu_ps(p, v) }
}

/// Asks for a line; the address need not be valid.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn prefetch(p: *const u8) {
    _mm_prefetch::<_MM_HINT_T1>(p.cast());
}

kernels!("avx2,fma,f16c");
