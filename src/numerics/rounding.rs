//! Roundings in integer code.

/// `x`, or +0 where its magnitude is below `floor`.
#[inline(always)]
pub fn flush(x: f32, floor: f32) -> f32 {
    if x.abs() < floor { 0.0 } else { x }
}

/// A result as it is stored: magnitudes below 2^-100 become +0, which also settles the sign of zero.
#[inline(always)]
pub fn settle(x: f32) -> f32 {
    flush(x, super::RESULT_FLOOR)
}

/// `x` rounded to 13 significant bits, half to even, so that its product with an f16 is exact in f32.
#[inline(always)]
pub fn r13(x: f32) -> f32 {
    let u = x.to_bits();
    // The carry could turn a NaN into a zero.
    if u & 0x7f80_0000 == 0x7f80_0000 {
        return x;
    }
    f32::from_bits((u.wrapping_add(0x3ff + ((u >> 11) & 1))) & 0xffff_f800)
}

/// The f16 nearest to `x` (half to even), as bits; overflow gives infinity.
#[inline(always)]
pub fn f16_bits(x: f32) -> u32 {
    let u = x.to_bits();
    let sign = (u >> 16) & 0x8000;
    let a = u & 0x7fff_ffff;
    if a > 0x7f80_0000 {
        return sign | 0x7e00;
    }
    if a >= 0x477f_f000 {
        return sign | 0x7c00;
    }
    if a >= 0x3880_0000 {
        let r = a - (112 << 23);
        return sign | ((r + 0xfff + ((r >> 13) & 1)) >> 13);
    }
    if a <= 0x3300_0000 {
        return sign;
    }
    let mantissa = (a & 0x7f_ffff) | 0x80_0000;
    let shift = 126 - (a >> 23);
    let r = mantissa >> shift;
    let rest = mantissa & ((1 << shift) - 1);
    let half = 1 << (shift - 1);
    let up = rest > half || (rest == half && (r & 1) == 1);
    sign | (r + u32::from(up))
}

/// The exact value of the f16 with these bits.
#[inline(always)]
pub fn f16_value(h: u32) -> f32 {
    let sign = (h & 0x8000) << 16;
    let exponent = (h >> 10) & 31;
    let mantissa = h & 0x3ff;
    if exponent == 0 {
        let magnitude = mantissa as f32 * f32::from_bits((127 - 24) << 23);
        return f32::from_bits(sign | magnitude.to_bits());
    }
    if exponent == 31 {
        return f32::from_bits(sign | 0x7f80_0000 | (mantissa << 13));
    }
    f32::from_bits(sign | (((h & 0x7fff) << 13) + (112 << 23)))
}
