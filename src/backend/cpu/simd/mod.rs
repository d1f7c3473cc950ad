//! The vector kernels: one text (`kernels.rs`), compiled for several sets of vector operations.

#[macro_use]
mod kernels;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
mod attention;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod rows;
#[cfg(target_arch = "wasm32")]
mod simd128;
#[cfg(test)]
mod tests;
mod tiles;

use std::ops::Range;

pub use attention::{HEADS, attention};
pub use rows::{Ordered, Plane, Rows};
pub use tiles::{Tiles, product};

use super::isa::Isa;
use super::panels::{Blocks, Kind, Panels, ROWS};

/// An expression with `$m` standing for the module of the vector path `$isa`.
macro_rules! each_isa {
    ($isa:expr, $m:ident => $e:expr) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Amx => {
                use crate::backend::cpu::simd::avx512 as $m;
                $e
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => {
                use crate::backend::cpu::simd::avx2 as $m;
                $e
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => {
                use crate::backend::cpu::simd::neon as $m;
                $e
            }
            #[cfg(target_arch = "wasm32")]
            Isa::Simd128 => {
                use crate::backend::cpu::simd::simd128 as $m;
                $e
            }
            other => unreachable!("{other:?} has no vector kernels"),
        }
    };
}
use each_isa;

/// Activation rows a kernel takes at most.
pub const TOKENS: usize = 16;

/// Panels that a kernel takes at most.
const PANELS: usize = 4;

/// Activation rows up to which a pass is bound by memory, so that a kernel asks for lines ahead.
const FEW: usize = 8;

/// Panels that are taken at once with so many activation rows. Several streams keep more lines of memory under way; with
/// more rows their sums have no room.
pub const fn panels(rows: usize) -> usize {
    match rows {
        0..=2 => PANELS,
        3..=4 => 2,
        _ => 1,
    }
}

/// The products of the 16 rows of each of `panels`, up to [`panels()`], with up to [`TOKENS`] activation rows. Results lie
/// panel by panel, row by row.
///
/// # Panics
/// If the activations are not of the matrix's width, or the path is not an available vector path.
pub fn blocks(isa: Isa, p: &Panels, panels: Range<usize>, xs: &Rows<'_>, precise: bool, out: &mut [[f32; ROWS]]) {
    let Kind::Blocks(kind) = &p.kind else { return };
    let (n, cols) = (xs.count, p.blocks * kind.chunks * 32);
    assert!(!panels.is_empty() && panels.len() <= self::panels(n) && panels.end <= p.count());
    assert!(0 < n && n <= TOKENS && out.len() >= n * panels.len() && isa != Isa::Scalar && isa.is_available());
    assert!(xs.cols == cols && xs.scale.len() == n * p.blocks);
    for plane in &xs.planes[..if precise { 2 } else { 1 }] {
        assert!(plane.q.len() == n * cols);
        assert!(plane.sums[0].len() == n * cols / 16 && plane.sums[1].len() == n * cols / 32);
        assert!(plane.totals.len() == n * cols / 32);
    }
    let kernel = kernel(isa, kind, precise, n);
    // SAFETY: the path is available; a panel holds `p.blocks` blocks of the layout `kind`, whose parameters the kernel
    // was chosen by; there are as many activations as it reads, as checked above.
    unsafe { kernel(p, kind, panels, xs, out) }
}

/// The same for plain numbers: `xs` are prepared rows, padded with zeros to whole blocks of 32.
///
/// # Panics
/// As [`blocks`].
pub fn floats(isa: Isa, p: &Panels, panels: Range<usize>, xs: &[&[f32]], out: &mut [[f32; ROWS]]) {
    let Kind::Float { bytes, half } = p.kind else { return };
    let n = xs.len();
    assert!(0 < n && n <= TOKENS && out.len() >= n * panels.len() && panels.end <= p.count());
    assert!(isa != Isa::Scalar && isa.is_available());
    assert!(xs.iter().all(|x| x.len() >= p.blocks * 32));
    for (panel, out) in panels.zip(out.chunks_mut(n)) {
        // SAFETY: as in `blocks`.
        unsafe {
            each_isa!(isa, instructions => match (bytes, half) {
                (4, _) => instructions::floats::<4, false>(p, panel, xs, out),
                (_, true) => instructions::floats::<2, true>(p, panel, xs, out),
                _ => instructions::floats::<2, false>(p, panel, xs, out),
            });
        }
    }
}

/// Bytes that weights are asked for ahead of their use, in each panel.
const AHEAD: usize = 1024;

type Kernel = unsafe fn(&Panels, &Blocks, Range<usize>, &Rows<'_>, &mut [[f32; ROWS]]);

/// The kernel for a layout and a number of activation rows; every registered format has one of these.
fn kernel(isa: Isa, kind: &Blocks, precise: bool, rows: usize) -> Kernel {
    macro_rules! choose {
        ($($bits:literal, $table:literal, $sub:literal, $min:literal;)*) => {
            match (kind.bits, kind.table.is_some(), kind.sub, kind.min) {
                $(($bits, $table, $sub, $min) => each_isa!(isa, instructions => match (precise, rows) {
                    (false, 1) => instructions::blocks::<$bits, $table, $sub, $min, 1, 1, { panels(1) }> as Kernel,
                    (false, 2) => instructions::blocks::<$bits, $table, $sub, $min, 1, 2, { panels(2) }>,
                    (false, ..=4) => instructions::blocks::<$bits, $table, $sub, $min, 1, 4, { panels(4) }>,
                    (false, ..=8) => instructions::blocks::<$bits, $table, $sub, $min, 1, 8, { panels(8) }>,
                    (false, _) => instructions::blocks::<$bits, $table, $sub, $min, 1, TOKENS, { panels(TOKENS) }>,
                    (true, 1) => instructions::blocks::<$bits, $table, $sub, $min, 2, 1, { panels(1) }>,
                    (true, 2) => instructions::blocks::<$bits, $table, $sub, $min, 2, 2, { panels(2) }>,
                    (true, ..=4) => instructions::blocks::<$bits, $table, $sub, $min, 2, 4, { panels(4) }>,
                    (true, ..=8) => instructions::blocks::<$bits, $table, $sub, $min, 2, 8, { panels(8) }>,
                    (true, _) => instructions::blocks::<$bits, $table, $sub, $min, 2, TOKENS, { panels(TOKENS) }>,
                }),)*
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
