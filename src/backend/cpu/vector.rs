//! The ops' own functions, compiled once more for the wider vectors of each isa. The compiler may use those, but never
//! another order or fused operations, so the bits stay.

use super::isa::Isa;
use crate::numerics::{ACTIVATION_FLOOR, Precision, RESULT_FLOOR, flush, quantize_block, r13, recip, settle};
use crate::ops::shapes::Shapes;
use crate::ops::{self, Op, Row};

/// Defines a function that runs `$body` with a path's instructions.
macro_rules! vectorized {
    ($($(#[$doc:meta])* fn $name:ident($($a:ident: $t:ty),* $(,)?) $(-> $r:ty)? { $($body:tt)* })*) => {$(
        $(#[$doc])*
        ///
        /// # Panics
        /// If the processor lacks the path's instructions.
        pub fn $name(isa: Isa, $($a: $t),*) $(-> $r)? {
            #[inline(always)]
            fn plain($($a: $t),*) $(-> $r)? { $($body)* }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,f16c")]
            fn avx2($($a: $t),*) $(-> $r)? { plain($($a),*) }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq")]
            fn avx512($($a: $t),*) $(-> $r)? { plain($($a),*) }
            #[cfg(target_arch = "wasm32")]
            #[target_feature(enable = "simd128")]
            fn simd128($($a: $t),*) $(-> $r)? { plain($($a),*) }
            debug_assert!(isa.is_available());
            match isa {
                // SAFETY: the backend is only made for available paths (`Cpu::with_isa`).
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 | Isa::Amx => unsafe { avx512($($a),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => unsafe { avx2($($a),*) },
                #[cfg(target_arch = "wasm32")]
                Isa::Simd128 => simd128($($a),*),
                _ => plain($($a),*),
            }
        }
    )*};
}
pub(crate) use vectorized;

vectorized! {
    /// `Op::row`.
    fn row(op: &Op, shapes: &Shapes<'_>, from: Row<'_, f32>, out: &mut [f32]) {
        op.row(shapes, from, out);
    }

    /// `ops::attention::weigh`.
    fn weigh(p: &ops::attention::Params, start: usize, first: usize, sink: Option<f32>, scores: &mut [f32]) -> f32 {
        ops::attention::weigh(p, start, first, sink, scores)
    }

    /// The twin of `ops::quantize_activations::cpu`, without what keeps compilers from using vectors.
    fn quantize_activations(
        block: usize, precision: Precision, x: &[f32], hi: &mut [i8], lo: &mut [i8], scale: &mut [f32],
    ) {
        let blocks = x.chunks_exact(block).zip(hi.chunks_exact_mut(block)).zip(scale);
        for (i, ((x, hi), scale)) in blocks.enumerate() {
            let amax = f32::from_bits(x.iter().fold(0, |m, x| m.max(x.to_bits() & 0x7fff_ffff)));
            if amax < ACTIVATION_FLOOR || !amax.is_finite() || precision == Precision::Precise {
                let lo = if lo.is_empty() { &mut [][..] } else { &mut lo[i * block..(i + 1) * block] };
                *scale = quantize_block(x, precision, hi, lo);
                continue;
            }
            let inverse = recip(amax) * precision.steps();
            for (q, &x) in hi.iter_mut().zip(x) {
                // Adding 1.5 * 2^23 rounds half to even and leaves the integer in the lowest bits.
                *q = (flush(x, RESULT_FLOOR) * inverse + 12_582_912.0).to_bits() as i8;
            }
            *scale = amax * precision.inverse_steps();
        }
    }

    /// Sums of `q` over 16 and over 32 elements, the latter also as floats.
    fn add_up(q: &[i8], sums: [&mut [i16]; 2], totals: &mut [f32]) {
        let [sums16, sums32] = sums;
        for (sum, q) in sums16.iter_mut().zip(q.chunks_exact(16)) {
            *sum = q.iter().map(|q| i16::from(*q)).sum();
        }
        for (sum, pair) in sums32.iter_mut().zip(sums16.chunks_exact(2)) {
            *sum = pair[0] + pair[1];
        }
        for (total, sum) in totals.iter_mut().zip(sums32) {
            *total = f32::from(*sum);
        }
    }

    /// Activations as plain numbers are multiplied with: rounded to 13 bits where `exact`, small ones 0.
    fn prepare(x: &[f32], exact: bool, out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = flush(if exact { r13(x) } else { x }, ACTIVATION_FLOOR);
        }
    }

    /// Stores results of a product, with its bias where there is one.
    fn store(y: &[f32], bias: &[f32], out: &mut [f32]) {
        if bias.is_empty() {
            for (out, y) in out.iter_mut().zip(y) {
                *out = settle(*y);
            }
        } else {
            for ((out, y), bias) in out.iter_mut().zip(y).zip(bias) {
                *out = settle(settle(*y) + bias);
            }
        }
    }
}
