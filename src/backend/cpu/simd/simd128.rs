//! WebAssembly's vectors of 128 bits: 4 lanes, a quarter of a line of a panel.

use core::arch::wasm32::*;
use core::ops::Range;

use super::super::panels::{Blocks, Panels, ROWS};
use super::{AHEAD, FEW, Rows, TOKENS};

type I = v128;
type F = v128;
const LANES: usize = 4;
/// Vectors of a panel's rows.
const PARTS: usize = ROWS / LANES;
/// Nibbles are taken apart into 16 bits in any case.
const RAISED: bool = false;

macro_rules! ops {
    ($($(#[$doc:meta])* fn $name:ident($($a:ident: $t:ty),*) -> $r:ty { $($body:tt)* })*) => {
        $($(#[$doc])* #[inline] #[target_feature(enable = "simd128")]
        fn $name($($a: $t),*) -> $r { $($body)* })*
    };
}
ops! {
    fn zero() -> I { i32x4_splat(0) }
    fn zero_f() -> F { f32x4_splat(0.0) }
    fn splat(x: i32) -> I { i32x4_splat(x) }
    fn splat_f(x: f32) -> F { f32x4_splat(x) }
    fn add_i(a: I, b: I) -> I { i32x4_add(a, b) }
    fn mul_i(a: I, b: I) -> I { i32x4_mul(a, b) }
    fn add(a: F, b: F) -> F { f32x4_add(a, b) }
    fn mul(a: F, b: F) -> F { f32x4_mul(a, b) }
    /// Not fused: it is asked for where the product is exact.
    fn mul_add(a: F, b: F, c: F) -> F { f32x4_add(f32x4_mul(a, b), c) }
    fn to_float(a: I) -> F { f32x4_convert_i32x4(a) }
    fn low(v: I) -> I { v128_and(v, i8x16_splat(15)) }
    fn high(v: I) -> I { low(u32x4_shr(v, 4)) }
    fn raised_high(v: I) -> I { v128_andnot(v, i8x16_splat(15)) }
    fn shift_down(v: I) -> I { i32x4_shr(v, 4) }
    /// By so many bits to the left; those of a byte may end in its neighbour.
    fn shift(v: I, left: i32) -> I {
        if left < 0 { u32x4_shr(v, left.unsigned_abs()) } else { u32x4_shl(v, left.unsigned_abs()) }
    }
    fn with_bits(v: I, more: I, mask: I) -> I { v128_or(v, v128_and(more, mask)) }
    fn look_up(table: I, v: I) -> I { u8x16_swizzle(table, v) }
    fn dot_pairs(sum: I, a: I, b: I) -> I { i32x4_add(sum, i32x4_dot_i16x8(a, b)) }
    /// f16, as 32-bit words, to f32. A power of two corrects the exponent, which is exact, for subnormals, too; infinities and
    /// NaN keep theirs.
    fn widen(h: I) -> F {
        let (rest, sign) = (v128_and(h, splat(0x7fff)), v128_and(h, splat(0x8000)));
        let number = f32x4_mul(u32x4_shl(rest, 13), splat_f(f32::from_bits((127 + 112) << 23)));
        let special = v128_and(i32x4_ge(rest, splat(0x7c00)), splat(0x7f80_0000));
        v128_or(v128_or(number, special), u32x4_shl(sign, 16))
    }
}

/// Adds the products of the bytes of `w`, without sign, and as many activations; there are four or eight vectors. Bytes are made 16
/// bits, two rows to a vector, so that four activations stand there twice, without shifts; each row has two sums until the end.
#[inline]
#[target_feature(enable = "simd128")]
unsafe fn dot<const BITS: usize, const TABLE: bool>(sum: I, w: &[I], x: *const i8) -> I {
    let (mut lower, mut upper) = (zero(), zero());
    let mut add = |j: usize| {
        // SAFETY: the caller's.
        let x = unsafe { i16x8_load_extend_i8x8(x.add(4 * j)) };
        for (w, x) in [(w[j], i64x2_shuffle::<0, 0>(x, x)), (w[j + 1], i64x2_shuffle::<1, 1>(x, x))] {
            lower = add_i(lower, i32x4_dot_i16x8(u16x8_extend_low_u8x16(w), x));
            upper = add_i(upper, i32x4_dot_i16x8(u16x8_extend_high_u8x16(w), x));
        }
    };
    // As a loop it would stay one, with the weights in memory.
    add(0);
    add(2);
    if w.len() == 8 {
        add(4);
        add(6);
    }
    let (even, odd) = (i32x4_shuffle::<0, 2, 4, 6>(lower, upper), i32x4_shuffle::<1, 3, 5, 7>(lower, upper));
    add_i(sum, add_i(even, odd))
}

/// The same times a scale.
#[inline]
#[target_feature(enable = "simd128")]
unsafe fn dot_scaled<const BITS: usize, const TABLE: bool>(sum: I, w: &[I], x: *const i8, scale: I) -> I {
    // SAFETY: the caller's.
    add_i(sum, mul_i(unsafe { dot::<BITS, TABLE>(zero(), w, x) }, scale))
}

#[inline]
#[target_feature(enable = "simd128")]
unsafe fn load(p: *const u8) -> I {
    // SAFETY: the caller's.
    unsafe { v128_load(p.cast()) }
}

#[inline]
#[target_feature(enable = "simd128")]
unsafe fn load_table(p: &[u8; 16]) -> I {
    // SAFETY: 16 bytes.
    unsafe { load(p.as_ptr()) }
}

#[inline]
#[target_feature(enable = "simd128")]
unsafe fn load_f(p: *const u8) -> F {
    // SAFETY: the caller's.
    unsafe { v128_load(p.cast()) }
}

#[inline]
#[target_feature(enable = "simd128")]
unsafe fn load_half(p: *const u8) -> F {
    // SAFETY: the caller's.
    widen(unsafe { u32x4_load_extend_u16x4(p.cast()) })
}

#[inline]
#[target_feature(enable = "simd128")]
unsafe fn load_upper_half(p: *const u8) -> F {
    // SAFETY: the caller's.
    u32x4_shl(unsafe { u32x4_load_extend_u16x4(p.cast()) }, 16)
}

#[inline]
#[target_feature(enable = "simd128")]
unsafe fn load_scale(p: *const u8) -> I {
    // SAFETY: the caller's.
    i32x4_extend_low_i16x8(i16x8_extend_low_i8x16(unsafe { v128_load32_zero(p.cast()) }))
}

/// One i8 per lane of each as two i16.
#[inline]
#[target_feature(enable = "simd128")]
unsafe fn load_both(a: *const u8, b: *const u8) -> I {
    // SAFETY: the caller's.
    let (a, b) = unsafe { (v128_load32_zero(a.cast()), v128_load32_zero(b.cast())) };
    i16x8_extend_low_i8x16(i8x16_shuffle::<0, 16, 1, 17, 2, 18, 3, 19, 0, 0, 0, 0, 0, 0, 0, 0>(a, b))
}

/// Two i8 per lane as two i16.
#[inline]
#[target_feature(enable = "simd128")]
unsafe fn load_pairs(p: *const u8) -> I {
    // SAFETY: the caller's.
    unsafe { i16x8_load_extend_i8x8(p.cast()) }
}

#[inline]
#[target_feature(enable = "simd128")]
unsafe fn store_f(p: *mut f32, v: F) {
    // SAFETY: the caller's.
    unsafe { v128_store(p.cast(), v) }
}

/// There is no instruction that asks for a line.
#[inline]
fn prefetch(_: *const u8) {}

kernels!("simd128");
