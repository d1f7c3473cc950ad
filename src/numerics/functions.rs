//! Portable elementary functions from `+ - *` and integer code.

use super::{WEIGHT_FLOOR, flush};

/// `e^r` for |r| ≤ 0.35 (Cephes `expf` polynomial).
#[inline(always)]
fn exp_poly(r: f32) -> f32 {
    let mut p = 1.987_569_15e-4f32;
    p = p * r + 1.398_199_95e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    (p * (r * r) + r) + 1.0
}

/// 2^n for whole -126 ≤ n ≤ 127; some number for NaN.
#[inline(always)]
fn power_of_two(n: f32) -> f32 {
    // 1.5 * 2^23 leaves `n` in the lowest bits. A conversion would keep compilers from using vectors.
    f32::from_bits((n + 12_582_912.0).to_bits().wrapping_add(127) << 23)
}

/// `e^x`; the argument is clamped to [-87, 88].
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    let x = flush(x, WEIGHT_FLOOR).clamp(-87.0, 88.0);
    let n = (x * std::f32::consts::LOG2_E).round_ties_even();
    let r = (x - n * 0.693_359_4) - n * -2.121_944_4e-4;
    exp_poly(r) * power_of_two(n)
}

/// `2^x` for softmax weights: exactly 0 below -40; the argument must not exceed 127.
#[inline(always)]
pub fn exp2(x: f32) -> f32 {
    let y = flush(x, WEIGHT_FLOOR);
    let n = y.round_ties_even();
    let r = (y - n) * std::f32::consts::LN_2;
    let power = exp_poly(r) * power_of_two(n.max(-40.0));
    if x < -40.0 { 0.0 } else { power }
}

/// `1/x` for 2^-100 ≤ |x| ≤ 2^100: integer seed, four Newton steps.
#[inline(always)]
pub fn recip(x: f32) -> f32 {
    let sign = x.to_bits() & 0x8000_0000;
    let m = f32::from_bits(x.to_bits() & 0x7fff_ffff);
    let mut y = f32::from_bits(0x7ef3_11c7u32.wrapping_sub(m.to_bits()));
    for _ in 0..4 {
        y += y * (1.0 - m * y);
    }
    f32::from_bits(y.to_bits() | sign)
}

/// `1/sqrt(x)` for 2^-100 ≤ x ≤ 2^100: integer seed, four Newton steps.
#[inline(always)]
pub fn rsqrt(x: f32) -> f32 {
    let h = 0.5 * x;
    let mut y = f32::from_bits(0x5f37_5a86u32.wrapping_sub(x.to_bits() >> 1));
    for _ in 0..4 {
        y += y * (0.5 - (h * y) * y);
    }
    y
}

/// `1 / (1 + e^-x)`; the exponent is clamped to ±60.
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    recip(1.0 + exp((-flush(x, WEIGHT_FLOOR)).clamp(-60.0, 60.0)))
}

/// `x / (1 + e^-x)`; the exponent is clamped to ±60.
#[inline(always)]
pub fn silu(x: f32) -> f32 {
    let x = flush(x, WEIGHT_FLOOR);
    x * recip(1.0 + exp((-x).clamp(-60.0, 60.0)))
}

/// GELU in its tanh form, `x / (1 + e^-z)` with `z = 2 √(2/π) (x + 0.044715 x³)` of `x` clamped to ±10; the exponent is clamped to ±60.
#[inline(always)]
pub fn gelu(x: f32) -> f32 {
    let x = flush(x, WEIGHT_FLOOR);
    let t = x.clamp(-10.0, 10.0);
    let z = t * (1.595_769_1 + 0.071_354_814 * (t * t));
    x * recip(1.0 + exp((-z).clamp(-60.0, 60.0)))
}

/// `tanh x`: below 0.625 Cephes' `tanhf` polynomial, else `1 - 2 / (1 + e^2|x|)` with the sign of `x`, which is clamped to ±16.
#[inline(always)]
pub fn tanh(x: f32) -> f32 {
    let x = flush(x, WEIGHT_FLOOR).clamp(-16.0, 16.0);
    let z = x * x;
    let mut p = -5.704_988_7e-3f32;
    p = p * z + 2.063_909e-2;
    p = p * z + -5.373_971_5e-2;
    p = p * z + 1.333_144_3e-1;
    p = p * z + -3.333_328_3e-1;
    let low = (p * z) * x + x;
    let high = 1.0 + -2.0 * recip(1.0 + exp(2.0 * x.abs()));
    if x.abs() < 0.625 { low } else { f32::from_bits(high.to_bits() | (x.to_bits() & 0x8000_0000)) }
}

#[cfg(test)]
mod tests {
    /// The power as a conversion gives it.
    fn power_of_two(n: f32) -> f32 {
        f32::from_bits(((n as i32 + 127) as u32) << 23)
    }

    #[test]
    fn powers_of_two_are_those_of_a_conversion() {
        for n in -126..=127 {
            assert_eq!(super::power_of_two(n as f32).to_bits(), power_of_two(n as f32).to_bits(), "2^{n}");
        }
        assert_eq!(super::power_of_two(-0.0).to_bits(), 1.0f32.to_bits());
        // Times NaN, whose bits must not change.
        for bits in [0x7fc0_0000, 0xffc0_0000, 0x7f80_0001, 0x7fff_ffff] {
            assert!(!super::power_of_two(f32::from_bits(bits)).is_nan());
        }
    }
}
