//! Which instructions the CPU backend uses. Every path gives the same bits.

use crate::backend::BackendError;

/// A set of instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Plain Rust, straight from the file's bytes: the definition.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 (F, BW, VL) with VNNI.
    Avx512,
    /// NEON, which every 64-bit ARM processor has.
    Neon,
}

impl Isa {
    /// All paths, the plainest first.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Avx2, Self::Avx512, Self::Neon];

    /// Its name in `SAMEBITS_CPU`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
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
            #[cfg(not(target_arch = "x86_64"))]
            Self::Avx2 | Self::Avx512 => false,
            Self::Neon => cfg!(target_arch = "aarch64"),
        }
    }

    /// The fastest path of this processor.
    pub fn best() -> Self {
        Self::ALL.into_iter().rev().find(|p| p.is_available()).unwrap_or(Self::Scalar)
    }

    /// The path named by the environment variable `SAMEBITS_CPU`, otherwise the best.
    pub fn from_environment() -> Result<Self, BackendError> {
        let Some(wanted) = std::env::var_os("SAMEBITS_CPU") else { return Ok(Self::best()) };
        let wanted = wanted.to_string_lossy();
        let found = Self::ALL.into_iter().find(|p| wanted == p.name() && p.is_available());
        found.ok_or_else(|| {
            let available: Vec<_> = Self::ALL.iter().filter(|p| p.is_available()).map(|p| p.name()).collect();
            BackendError::CpuPath { wanted: wanted.into_owned(), available: available.join(", ") }
        })
    }
}
