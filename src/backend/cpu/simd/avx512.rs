//! AVX-512: 16 lanes, a whole line of a panel.

use core::arch::x86_64::*;
use core::ops::Range;

use super::super::panels::{Blocks, Panels, ROWS};
use super::{AHEAD, FEW, Rows, TOKENS};

type I = __m512i;
type F = __m512;
const LANES: usize = 16;
/// Vectors of a panel's rows.
const PARTS: usize = ROWS / LANES;
/// `dot` has room for upper nibbles where they were stored.
const RAISED: bool = true;

macro_rules! ops {
    ($($(#[$doc:meta])* fn $name:ident($($a:ident: $t:ty),*) -> $r:ty { $($body:tt)* })*) => {
        $($(#[$doc])* #[inline] #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
        pub(super) fn $name($($a: $t),*) -> $r { $($body)* })*
    };
}
ops! {
    fn zero() -> I { _mm512_setzero_si512() }
    fn zero_f() -> F { _mm512_setzero_ps() }
    fn splat(x: i32) -> I { _mm512_set1_epi32(x) }
    fn splat_f(x: f32) -> F { _mm512_set1_ps(x) }
    fn add_i(a: I, b: I) -> I { _mm512_add_epi32(a, b) }
    fn mul_i(a: I, b: I) -> I { _mm512_mullo_epi32(a, b) }
    fn add(a: F, b: F) -> F { _mm512_add_ps(a, b) }
    fn mul(a: F, b: F) -> F { _mm512_mul_ps(a, b) }
    fn mul_add(a: F, b: F, c: F) -> F { _mm512_fmadd_ps(a, b, c) }
    fn to_float(a: I) -> F { _mm512_cvtepi32_ps(a) }
    fn low(v: I) -> I { _mm512_and_si512(v, _mm512_set1_epi8(15)) }
    fn high(v: I) -> I { low(_mm512_srli_epi16::<4>(v)) }
    /// By so many bits to the left; those of a byte may end in its neighbour.
    fn shift(v: I, left: i32) -> I {
        if left < 0 {
            _mm512_srl_epi16(v, _mm_cvtsi32_si128(-left))
        } else {
            _mm512_sll_epi16(v, _mm_cvtsi32_si128(left))
        }
    }
    fn with_bits(v: I, more: I, mask: I) -> I { _mm512_or_si512(v, _mm512_and_si512(more, mask)) }
    fn raised_high(v: I) -> I { _mm512_andnot_si512(_mm512_set1_epi8(15), v) }
    fn shift_down(v: I) -> I { _mm512_srai_epi32::<4>(v) }
    fn look_up(table: I, v: I) -> I { _mm512_shuffle_epi8(table, v) }
    fn dot_pairs(sum: I, a: I, b: I) -> I { _mm512_dpwssd_epi32(sum, a, b) }
}

/// Adds the products of the bytes of `w`, without sign, and as many activations; of eight words in two chains.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn dot<const BITS: usize, const TABLE: bool>(sum: I, w: &[I], x: *const i8) -> I {
    let mut sums = [sum, zero()];
    for (j, w) in w.iter().enumerate() {
        // SAFETY: the caller's.
        let word = unsafe { x.cast::<i32>().add(j).read_unaligned() };
        sums[j / 4] = _mm512_dpbusd_epi32(sums[j / 4], *w, splat(word));
    }
    if w.len() > 4 { add_i(sums[0], sums[1]) } else { sums[0] }
}

/// The same times a scale.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
unsafe fn dot_scaled<const BITS: usize, const TABLE: bool>(sum: I, w: &[I], x: *const i8, scale: I) -> I {
    // SAFETY: the caller's.
    add_i(sum, mul_i(unsafe { dot::<BITS, TABLE>(zero(), w, x) }, scale))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load(p: *const u8) -> I {
    // SAFETY: the caller's.
    unsafe { _mm512_loadu_si512(p.cast()) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn load_table(p: &[u8; 16]) -> I {
    // SAFETY: 16 bytes.
    unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(p.as_ptr().cast())) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load_f(p: *const u8) -> F {
    // SAFETY: the caller's.
    unsafe { _mm512_loadu_ps(p.cast()) }
}

/// Without a rounding of its own, the instruction may read memory.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn load_half(p: *const u8) -> F {
    // SAFETY: the caller's.
    unsafe { _mm512_cvt_roundph_ps::<_MM_FROUND_CUR_DIRECTION>(_mm256_loadu_si256(p.cast())) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn load_upper_half(p: *const u8) -> F {
    // SAFETY: the caller's.
    let halves = unsafe { _mm256_loadu_si256(p.cast()) };
    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn load_scale(p: *const u8) -> I {
    // SAFETY: the caller's.
    unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())) }
}

/// One i8 per lane of each as two i16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn load_both(a: *const u8, b: *const u8) -> I {
    // SAFETY: the caller's.
    let (a, b) = unsafe { (_mm_loadu_si128(a.cast()), _mm_loadu_si128(b.cast())) };
    _mm512_cvtepi8_epi16(_mm256_set_m128i(_mm_unpackhi_epi8(a, b), _mm_unpacklo_epi8(a, b)))
}

/// Two i8 per lane as two i16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(super) unsafe fn load_pairs(p: *const u8) -> I {
    // SAFETY: the caller's.
    unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(p.cast())) }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn store_f(p: *mut f32, v: F) {
    // SAFETY: the caller's.
    unsafe { _mm512_storeu_ps(p, v) }
}

/// Asks for a line; the address need not be valid.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn prefetch(p: *const u8) {
    _mm_prefetch::<_MM_HINT_T1>(p.cast());
}

kernels!("avx512f,avx512bw,avx512vl,avx512vnni");
