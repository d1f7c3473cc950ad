//! Which instructions the CPU backend uses. Every path gives the same bits.

use crate::backend::BackendError;

/// Whether this process may use tiles of 8-bit integers.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
static TILES: std::sync::LazyLock<bool> = std::sync::LazyLock::new(|| {
    use core::arch::x86_64::__cpuid_count;
    /// Bits of leaf 7: AMX-TILE and AMX-INT8.
    const INSTRUCTIONS: u32 = 1 << 24 | 1 << 25;
    /// From Linux's `asm/prctl.h`, and the number of the tiles' data among the processor's states.
    const ARCH_REQ_XCOMP_PERM: libc::c_int = 0x1023;
    const TILE_DATA: libc::c_ulong = 18;
    // The state is large, so the kernel keeps it only for processes that ask.
    // SAFETY: the call has no effect on memory; unknown requests are refused.
    let allowed = || unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 };
    __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & INSTRUCTIONS == INSTRUCTIONS && allowed()
});

/// A set of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust, straight from the file's bytes: the definition.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 (F, BW, VL) with VNNI.
    Avx512,
    /// AVX-512 with tiles of 8-bit integers (AMX) for products with many rows, on Linux.
    Amx,
    /// NEON, which every 64-bit ARM processor has.
    Neon,
    /// WebAssembly's vectors of 128 bits. A program with them does not load where they are missing.
    Simd128,
}

impl Isa {
    /// All paths, the plainest first.
    pub const ALL: [Self; 6] = [Self::Scalar, Self::Avx2, Self::Avx512, Self::Amx, Self::Neon, Self::Simd128];

    /// Its name in `SAMEBITS_CPU`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Amx => "amx",
            Self::Neon => "neon",
            Self::Simd128 => "simd128",
        }
    }

    /// Whether this processor has the instructions.
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Self::Avx2 => {
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c")
            }
            #[cfg(target_arch = "x86_64")]
            Self::Avx512 => {
                Self::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
            Self::Amx => Self::Avx512.is_available() && *TILES,
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
            #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
            Self::Amx => false,
            Self::Neon => cfg!(target_arch = "aarch64"),
            Self::Simd128 => cfg!(target_arch = "wasm32"),
        }
    }

    /// The fastest path of this processor.
    pub fn best() -> Self {
        Self::ALL.into_iter().rev().find(|p| p.is_available()).unwrap_or(Self::Scalar)
    }

    /// The path named by the environment variable `SAMEBITS_CPU`, otherwise the best. An empty name is none.
    pub fn from_environment() -> Result<Self, BackendError> {
        let Some(wanted) = std::env::var_os("SAMEBITS_CPU").filter(|name| !name.is_empty()) else {
            return Ok(Self::best());
        };
        let wanted = wanted.to_string_lossy();
        let found = Self::ALL.into_iter().find(|p| wanted == p.name() && p.is_available());
        found.ok_or_else(|| {
            let available: Vec<_> = Self::ALL.iter().filter(|p| p.is_available()).map(|p| p.name()).collect();
            BackendError::CpuPath { wanted: wanted.into_owned(), available: available.join(", ") }
        })
    }
}
