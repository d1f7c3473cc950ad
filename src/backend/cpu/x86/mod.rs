//! The x86-64 kernels: one text (`kernels.rs`), compiled for two sets of vector operations.

mod attention;
#[macro_use]
mod kernels;
#[cfg(test)]
mod tests;

pub use attention::attention;

use super::isa::Isa;
use super::panels::{Blocks, Kind, Panels, ROWS};

/// Activation rows a kernel takes at most.
pub const TOKENS: usize = 16;

/// One plane of quantised activations, row after row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Plane<'a> {
    /// The integers.
    pub q: &'a [i8],
    /// Their sums over 16 and over 32 elements.
    pub sums: [&'a [i16]; 2],
}

/// Rows of quantised activations: the high plane, and the low one of `Precision::Precise`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rows<'a> {
    /// How many rows.
    pub count: usize,
    /// Elements per row.
    pub cols: usize,
    /// One or two planes.
    pub planes: [Plane<'a>; 2],
    /// One scale per block, row after row.
    pub scale: &'a [f32],
}

impl<'a> Rows<'a> {
    /// Rows from `first` on, at most [`TOKENS`].
    pub fn tile(&self, first: usize) -> Self {
        let (count, cols) = (TOKENS.min(self.count - first), self.cols);
        let part = |n: usize| first * cols / n..(first + count) * cols / n;
        let planes = self.planes.map(|p| Plane {
            q: p.q.get(part(1)).unwrap_or_default(),
            sums: [p.sums[0].get(part(16)).unwrap_or_default(), p.sums[1].get(part(32)).unwrap_or_default()],
        });
        let blocks = self.scale.len() / self.count;
        Self { count, cols, planes, scale: &self.scale[first * blocks..(first + count) * blocks] }
    }
}

/// The products of the 16 rows of a panel with up to [`TOKENS`] activation rows.
///
/// # Panics
/// If the activations are not of the matrix's width, or the path is not an available vector path.
pub fn blocks(isa: Isa, p: &Panels, panel: usize, xs: &Rows<'_>, precise: bool, out: &mut [[f32; ROWS]]) {
    let Kind::Blocks(kind) = &p.kind else { return };
    let (n, cols) = (xs.count, p.blocks * kind.chunks * 32);
    assert!(n <= TOKENS && out.len() >= n && xs.cols == cols && isa != Isa::Scalar && isa.is_available());
    assert!(xs.scale.len() == n * p.blocks);
    for plane in &xs.planes[..if precise { 2 } else { 1 }] {
        assert!(plane.q.len() == n * cols);
        assert!(plane.sums[0].len() == n * cols / 16 && plane.sums[1].len() == n * cols / 32);
    }
    let kernel = kernel(isa, kind, precise, n == 1);
    // SAFETY: the path is available; the panel holds `p.blocks` blocks of the layout `kind`, whose parameters the kernel
    // was chosen by; there are as many activations as it reads, as checked above.
    unsafe { kernel(p, kind, panel, xs, out) }
}

/// The same for plain numbers: `xs` are prepared rows, padded with zeros to whole blocks of 32.
///
/// # Panics
/// As [`blocks`].
pub fn floats(isa: Isa, p: &Panels, panel: usize, xs: &[&[f32]], out: &mut [[f32; ROWS]]) {
    let Kind::Float { bytes, half } = p.kind else { return };
    assert!(xs.len() <= TOKENS && out.len() >= xs.len() && isa != Isa::Scalar && isa.is_available());
    assert!(xs.iter().all(|x| x.len() >= p.blocks * 32));
    // SAFETY: as in `blocks`.
    unsafe {
        match (isa, bytes, half) {
            (Isa::Avx512, 4, _) => avx512::floats::<4, false>(p, panel, xs, out),
            (Isa::Avx512, _, true) => avx512::floats::<2, true>(p, panel, xs, out),
            (Isa::Avx512, ..) => avx512::floats::<2, false>(p, panel, xs, out),
            (_, 4, _) => avx2::floats::<4, false>(p, panel, xs, out),
            (_, _, true) => avx2::floats::<2, true>(p, panel, xs, out),
            _ => avx2::floats::<2, false>(p, panel, xs, out),
        }
    }
}

type Kernel = unsafe fn(&Panels, &Blocks, usize, &Rows<'_>, &mut [[f32; ROWS]]);

/// The kernel for a layout; every registered format has one of these.
fn kernel(isa: Isa, kind: &Blocks, precise: bool, one: bool) -> Kernel {
    macro_rules! choose {
        ($($bits:literal, $table:literal, $sub:literal, $min:literal;)*) => {
            match (kind.bits, kind.table.is_some(), kind.sub, kind.min) {
                $(($bits, $table, $sub, $min) => match (isa, precise, one) {
                    (Isa::Avx512, false, true) => avx512::blocks::<$bits, $table, $sub, $min, 1, 1>,
                    (Isa::Avx512, false, false) => avx512::blocks::<$bits, $table, $sub, $min, 1, TOKENS>,
                    (Isa::Avx512, true, true) => avx512::blocks::<$bits, $table, $sub, $min, 2, 1>,
                    (Isa::Avx512, true, false) => avx512::blocks::<$bits, $table, $sub, $min, 2, TOKENS>,
                    (_, false, true) => avx2::blocks::<$bits, $table, $sub, $min, 1, 1>,
                    (_, false, false) => avx2::blocks::<$bits, $table, $sub, $min, 1, TOKENS>,
                    (_, true, true) => avx2::blocks::<$bits, $table, $sub, $min, 2, 1>,
                    (_, true, false) => avx2::blocks::<$bits, $table, $sub, $min, 2, TOKENS>,
                },)*
                other => unreachable!("no kernel for {other:?}"),
            }
        };
    }
    choose! {
        4, false, 0, false; // Q4_0
        4, false, 0, true; // Q4_1
        5, false, 0, false; // Q5_0
        5, false, 0, true; // Q5_1
        8, false, 0, false; // Q8_0
        4, true, 0, false; // IQ4_NL, MXFP4
        4, false, 16, true; // Q2_K
        4, false, 16, false; // Q3_K
        4, false, 32, true; // Q4_K
        5, false, 32, true; // Q5_K
        6, false, 16, false; // Q6_K
        4, true, 32, false; // IQ4_XS
    }
}

/// 16 lanes: a whole line of a panel.
mod avx512 {
    use core::arch::x86_64::*;

    use super::super::panels::{Blocks, Panels, ROWS};
    use super::{Rows, TOKENS};

    type I = __m512i;
    type F = __m512;
    const LANES: usize = 16;

    macro_rules! ops {
        ($($(#[$doc:meta])* fn $name:ident($($a:ident: $t:ty),*) -> $r:ty { $($body:tt)* })*) => {
            $($(#[$doc])* #[inline] #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
            fn $name($($a: $t),*) -> $r { $($body)* })*
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
        /// Adds `1 << BIT` to the bytes of the mask.
        fn with_bit(v: I, mask: u64, bit: u32) -> I { _mm512_mask_add_epi8(v, mask, v, _mm512_set1_epi8(1 << bit)) }
        fn look_up(table: I, v: I) -> I { _mm512_shuffle_epi8(table, v) }
        fn dot_pairs(sum: I, a: I, b: I) -> I { _mm512_dpwssd_epi32(sum, a, b) }
    }

    /// Adds the products of four neighbouring bytes: `w` without, `x` with sign.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vnni")]
    fn dot<const BITS: usize, const TABLE: bool>(sum: I, w: I, x: I) -> I {
        _mm512_dpbusd_epi32(sum, w, x)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load(p: *const u8) -> I {
        // SAFETY: the caller's.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load_table(p: &[u8; 16]) -> I {
        // SAFETY: 16 bytes.
        unsafe { _mm512_broadcast_i32x4(_mm_loadu_si128(p.as_ptr().cast())) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load_f(p: *const u8) -> F {
        // SAFETY: the caller's.
        unsafe { _mm512_loadu_ps(p.cast()) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load_half(p: *const u8) -> F {
        // SAFETY: the caller's.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(p.cast())) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load_upper_half(p: *const u8) -> F {
        // SAFETY: the caller's.
        let halves = unsafe { _mm256_loadu_si256(p.cast()) };
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load_i8(p: *const u8) -> I {
        // SAFETY: the caller's.
        unsafe { _mm512_cvtepi8_epi32(_mm_loadu_si128(p.cast())) }
    }

    /// Two i8 per lane as two i16.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn load_pairs(p: *const u8) -> I {
        // SAFETY: the caller's.
        unsafe { _mm512_cvtepi8_epi16(_mm256_loadu_si256(p.cast())) }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn store_f(p: *mut f32, v: F) {
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_ps(p, v) }
    }

    kernels!("avx512f,avx512bw,avx512vl,avx512vnni");
}

/// 8 lanes: half a line of a panel.
mod avx2 {
    use core::arch::x86_64::*;

    use super::super::panels::{Blocks, Panels, ROWS};
    use super::{Rows, TOKENS};

    type I = __m256i;
    type F = __m256;
    const LANES: usize = 8;

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

    kernels!("avx2,fma,f16c");
}
