//! AVX2: 8 lanes, half a line of a panel.

use core::arch::x86_64::*;
use core::ops::Range;

use super::super::panels::{Blocks, Panels, ROWS};
use super::{AHEAD, PANELS, Rows, TOKENS};

type I = __m256i;
type F = __m256;
const LANES: usize = 8;
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
    /// Adds `1 << BIT` to the bytes of the mask.
    fn with_bit(v: I, mask: u64, bit: u32) -> I {
        // Byte `i` gets the mask byte `i / 8`, then keeps bit `i % 8` of it.
        let spread = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
        let bits = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        let set = _mm256_and_si256(_mm256_shuffle_epi8(_mm256_set1_epi32(mask as i32), spread), bits);
        let set = _mm256_cmpeq_epi8(set, bits);
        _mm256_add_epi8(v, _mm256_and_si256(set, _mm256_set1_epi8(1 << bit)))
    }
    fn look_up(table: I, v: I) -> I { _mm256_shuffle_epi8(table, v) }
    fn dot_pairs(sum: I, a: I, b: I) -> I { _mm256_add_epi32(sum, _mm256_madd_epi16(a, b)) }
}

/// Adds the products of four neighbouring bytes: `w` without, `x` with sign. The 16-bit sums of pairs are exact up
/// to 6 bits; wider integers are taken apart.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn dot<const BITS: usize, const TABLE: bool>(sum: I, w: I, x: I) -> I {
    let ones = _mm256_set1_epi16(1);
    if BITS == 8 || TABLE {
        let lower = _mm256_madd_epi16(_mm256_maddubs_epi16(low(w), x), ones);
        let upper = _mm256_madd_epi16(_mm256_maddubs_epi16(high(w), x), ones);
        add_i(sum, add_i(lower, _mm256_slli_epi32::<4>(upper)))
    } else {
        add_i(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), ones))
    }
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

#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load_i8(p: *const u8) -> I {
    // SAFETY: the caller's.
    unsafe { _mm256_cvtepi8_epi32(_mm_loadl_epi64(p.cast())) }
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
