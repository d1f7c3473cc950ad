//! NEON: 4 lanes, a quarter of a line of a panel.

use core::arch::aarch64::*;
use core::arch::asm;
use core::ops::Range;

use super::super::panels::{Blocks, Panels, ROWS};
use super::{AHEAD, FEW, Rows, TOKENS};

type I = int32x4_t;
type F = float32x4_t;
const LANES: usize = 4;
/// Vectors of a panel's rows.
const PARTS: usize = ROWS / LANES;
/// Products of 16 bits have no room for nibbles where they were stored.
const RAISED: bool = false;

macro_rules! ops {
    ($($(#[$doc:meta])* fn $name:ident($($a:ident: $t:ty),*) -> $r:ty { $($body:tt)* })*) => {
        $($(#[$doc])* #[inline] #[target_feature(enable = "neon")]
        fn $name($($a: $t),*) -> $r { $($body)* })*
    };
}
ops! {
    fn zero() -> I { vdupq_n_s32(0) }
    fn zero_f() -> F { vdupq_n_f32(0.0) }
    fn splat(x: i32) -> I { vdupq_n_s32(x) }
    fn splat_f(x: f32) -> F { vdupq_n_f32(x) }
    fn add_i(a: I, b: I) -> I { vaddq_s32(a, b) }
    fn mul_i(a: I, b: I) -> I { vmulq_s32(a, b) }
    fn add(a: F, b: F) -> F { vaddq_f32(a, b) }
    fn mul(a: F, b: F) -> F { vmulq_f32(a, b) }
    fn mul_add(a: F, b: F, c: F) -> F { vfmaq_f32(c, a, b) }
    fn to_float(a: I) -> F { vcvtq_f32_s32(a) }
    fn low(v: I) -> I { vandq_s32(v, vdupq_n_s32(0x0f0f_0f0f)) }
    fn high(v: I) -> I { vreinterpretq_s32_u8(vshrq_n_u8::<4>(vreinterpretq_u8_s32(v))) }
    fn raised_high(v: I) -> I { vbicq_s32(v, vdupq_n_s32(0x0f0f_0f0f)) }
    fn shift_down(v: I) -> I { vshrq_n_s32::<4>(v) }
    /// By so many bits to the left.
    fn shift(v: I, left: i32) -> I {
        vreinterpretq_s32_u8(vshlq_u8(vreinterpretq_u8_s32(v), vdupq_n_s8(left as i8)))
    }
    fn with_bits(v: I, more: I, mask: I) -> I { vorrq_s32(v, vandq_s32(more, mask)) }
    fn look_up(table: I, v: I) -> I {
        vreinterpretq_s32_u8(vqtbl1q_u8(vreinterpretq_u8_s32(table), vreinterpretq_u8_s32(v)))
    }
    /// Sums of four neighbouring products of bytes with sign, exact up to 7 bits of `w`.
    fn products(w: I, x: I) -> I {
        let (w, x) = (vreinterpretq_s8_s32(w), vreinterpretq_s8_s32(x));
        let first = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
        let second = vpaddlq_s16(vmull_high_s8(w, x));
        vpaddq_s32(first, second)
    }
    fn dot_pairs(sum: I, a: I, b: I) -> I {
        let (a, b) = (vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
        let first = vmull_s16(vget_low_s16(a), vget_low_s16(b));
        vaddq_s32(sum, vpaddq_s32(first, vmull_high_s16(a, b)))
    }
}

/// Adds the products of the bytes of `w`, without sign, and as many activations; integers of 8 bits are taken apart.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn dot<const BITS: usize, const TABLE: bool>(mut sum: I, w: &[I], x: *const i8) -> I {
    for (j, w) in w.iter().enumerate() {
        // SAFETY: the caller's.
        let x = splat(unsafe { x.cast::<i32>().add(j).read_unaligned() });
        sum = if BITS == 8 || TABLE {
            let upper = vshlq_n_s32::<4>(products(high(*w), x));
            vaddq_s32(sum, vaddq_s32(products(low(*w), x), upper))
        } else {
            vaddq_s32(sum, products(*w, x))
        };
    }
    sum
}

/// The same times a scale.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn dot_scaled<const BITS: usize, const TABLE: bool>(sum: I, w: &[I], x: *const i8, scale: I) -> I {
    // SAFETY: the caller's.
    vmlaq_s32(sum, unsafe { dot::<BITS, TABLE>(zero(), w, x) }, scale)
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn load(p: *const u8) -> I {
    // SAFETY: the caller's.
    unsafe { vreinterpretq_s32_u8(vld1q_u8(p)) }
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_table(p: &[u8; 16]) -> I {
    // SAFETY: 16 bytes.
    unsafe { load(p.as_ptr()) }
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_f(p: *const u8) -> F {
    // SAFETY: the caller's.
    unsafe { vreinterpretq_f32_u8(vld1q_u8(p)) }
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_half(p: *const u8) -> F {
    // SAFETY: the caller's; the conversion of f16 has no stable intrinsic.
    unsafe {
        let halves = vld1_u8(p);
        let out: F;
        asm!("fcvtl {out:v}.4s, {halves:v}.4h", out = out(vreg) out, halves = in(vreg) halves,
            options(pure, nomem, nostack));
        out
    }
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_upper_half(p: *const u8) -> F {
    // SAFETY: the caller's.
    let halves = unsafe { vreinterpret_u16_u8(vld1_u8(p)) };
    vreinterpretq_f32_u32(vshll_n_u16::<16>(halves))
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_scale(p: *const u8) -> I {
    // SAFETY: the caller's.
    let four = unsafe { p.cast::<u32>().read_unaligned() };
    vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four)))))
}

/// One i8 per lane of each as two i16.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_both(a: *const u8, b: *const u8) -> I {
    // SAFETY: the caller's.
    let (a, b) = unsafe { (a.cast::<u32>().read_unaligned(), b.cast::<u32>().read_unaligned()) };
    vreinterpretq_s32_s16(vmovl_s8(vzip1_s8(vreinterpret_s8_u32(vdup_n_u32(a)), vreinterpret_s8_u32(vdup_n_u32(b)))))
}

/// Two i8 per lane as two i16.
#[inline]
#[target_feature(enable = "neon")]
unsafe fn load_pairs(p: *const u8) -> I {
    // SAFETY: the caller's.
    unsafe { vreinterpretq_s32_s16(vmovl_s8(vld1_s8(p.cast()))) }
}

#[inline]
#[target_feature(enable = "neon")]
unsafe fn store_f(p: *mut f32, v: F) {
    // SAFETY: the caller's.
    unsafe { vst1q_f32(p, v) }
}

/// Asks for a line; the address need not be valid.
#[inline]
fn prefetch(p: *const u8) {
    // SAFETY: a prefetch does not fault.
    unsafe { asm!("prfm pldl2keep, [{}]", in(reg) p, options(nostack, readonly)) }
}

kernels!("neon");
