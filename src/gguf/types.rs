//! The tensor types of ggml: number, name, weights and bytes per block (`ggml.c`, `type_traits`).

use std::borrow::Cow;

/// A tensor type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GgmlType {
    /// Its number in a tensor table.
    pub id: u32,
    /// Its name.
    pub name: &'static str,
    /// Elements per block.
    pub block: usize,
    /// Bytes per block.
    pub bytes: usize,
}

const fn ty(id: u32, name: &'static str, block: usize, bytes: usize) -> GgmlType {
    GgmlType { id, name, block, bytes }
}

static TYPES: &[GgmlType] = &[
    ty(0, "F32", 1, 4),
    ty(1, "F16", 1, 2),
    ty(2, "Q4_0", 32, 18),
    ty(3, "Q4_1", 32, 20),
    ty(6, "Q5_0", 32, 22),
    ty(7, "Q5_1", 32, 24),
    ty(8, "Q8_0", 32, 34),
    ty(9, "Q8_1", 32, 36),
    ty(10, "Q2_K", 256, 84),
    ty(11, "Q3_K", 256, 110),
    ty(12, "Q4_K", 256, 144),
    ty(13, "Q5_K", 256, 176),
    ty(14, "Q6_K", 256, 210),
    ty(15, "Q8_K", 256, 292),
    ty(16, "IQ2_XXS", 256, 66),
    ty(17, "IQ2_XS", 256, 74),
    ty(18, "IQ3_XXS", 256, 98),
    ty(19, "IQ1_S", 256, 50),
    ty(20, "IQ4_NL", 32, 18),
    ty(21, "IQ3_S", 256, 110),
    ty(22, "IQ2_S", 256, 82),
    ty(23, "IQ4_XS", 256, 136),
    ty(24, "I8", 1, 1),
    ty(25, "I16", 1, 2),
    ty(26, "I32", 1, 4),
    ty(27, "I64", 1, 8),
    ty(28, "F64", 1, 8),
    ty(29, "IQ1_M", 256, 56),
    ty(30, "BF16", 1, 2),
    ty(34, "TQ1_0", 256, 54),
    ty(35, "TQ2_0", 256, 66),
    ty(39, "MXFP4", 32, 17),
];

/// Types without a layout here: those that ggml removed, and those that it has added since.
static OTHERS: &[(u32, &str, &str)] = &[
    (4, "Q4_2", "removed from ggml"),
    (5, "Q4_3", "removed from ggml"),
    (31, "Q4_0_4_4", "removed from ggml; Q4_0 took its place"),
    (32, "Q4_0_4_8", "removed from ggml; Q4_0 took its place"),
    (33, "Q4_0_8_8", "removed from ggml; Q4_0 took its place"),
    (36, "IQ4_NL_4_4", "removed from ggml; IQ4_NL took its place"),
    (37, "IQ4_NL_4_8", "removed from ggml; IQ4_NL took its place"),
    (38, "IQ4_NL_8_8", "removed from ggml; IQ4_NL took its place"),
    (40, "NVFP4", "newer than this program"),
    (41, "Q1_0", "newer than this program"),
    (42, "Q2_0", "newer than this program"),
];

/// What people call the type with this number: `Q4_K`, or of a type without a layout here `31 (Q4_0_4_4, removed …)`.
pub fn type_name(id: u32) -> Cow<'static, str> {
    match (ggml_type(id), OTHERS.iter().find(|other| other.0 == id)) {
        (Some(known), _) => known.name.into(),
        (None, Some((_, name, why))) => format!("{id} ({name}, {why})").into(),
        (None, None) => format!("{id} (newer than this program)").into(),
    }
}

/// The type with this number.
pub fn ggml_type(id: u32) -> Option<&'static GgmlType> {
    TYPES.iter().find(|t| t.id == id)
}
