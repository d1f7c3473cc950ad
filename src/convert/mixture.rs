//! Which format each tensor of a model gets: llama.cpp's layouts for the dense `llama` architecture
//! (`llama_tensor_get_type` in `llama-quant.cpp`), without importance matrices. Other architectures get the same.

use crate::quant::{self, Format};

/// A file type that `quantize` makes.
#[derive(Debug, PartialEq, Eq)]
pub struct Target {
    /// llama.cpp's name, such as `Q4_K_M`.
    pub name: &'static str,
    /// `general.file_type` (llama.cpp's `llama_ftype`).
    pub file_type: u32,
    /// The format of tensors without a rule of their own.
    base: &'static str,
}

const fn target(name: &'static str, file_type: u32, base: &'static str) -> Target {
    Target { name, file_type, base }
}

/// All file types.
pub static TARGETS: &[Target] = &[
    target("F32", 0, "F32"),
    target("F16", 1, "F16"),
    target("BF16", 32, "BF16"),
    target("Q8_0", 7, "Q8_0"),
    target("Q6_K", 18, "Q6_K"),
    target("Q5_K_M", 17, "Q5_K"),
    target("Q5_K_S", 16, "Q5_K"),
    target("Q5_1", 9, "Q5_1"),
    target("Q5_0", 8, "Q5_0"),
    target("Q4_K_M", 15, "Q4_K"),
    target("Q4_K_S", 14, "Q4_K"),
    target("Q4_1", 3, "Q4_1"),
    target("Q4_0", 2, "Q4_0"),
    target("IQ4_NL", 25, "IQ4_NL"),
    target("IQ4_XS", 30, "IQ4_XS"),
    target("MXFP4", 38, "MXFP4"),
    target("Q3_K_L", 13, "Q3_K"),
    target("Q3_K_M", 12, "Q3_K"),
    target("Q3_K_S", 11, "Q3_K"),
    target("Q2_K", 10, "Q2_K"),
    target("Q2_K_S", 21, "Q2_K"),
];

impl Target {
    /// The target of this name in any case; `Q3_K`, `Q4_K` and `Q5_K` mean their `_M` mixtures.
    pub fn by_name(name: &str) -> Option<&'static Self> {
        let wanted = match name.to_ascii_uppercase().as_str() {
            short @ ("Q3_K" | "Q4_K" | "Q5_K") => format!("{short}_M"),
            other => other.to_owned(),
        };
        TARGETS.iter().find(|t| t.name == wanted)
    }
}

/// What the rules look at.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Layers.
    pub layers: usize,
    /// Query heads per key/value head.
    pub group: usize,
    /// Whether the file has an output matrix of its own.
    pub has_output: bool,
}

/// Whether a tensor stays as it is: norms, and what chooses experts, whose choice a rounded weight would change.
pub(super) fn is_kept(name: &str) -> bool {
    ["_norm.weight", "ffn_gate_inp.weight"].iter().any(|end| name.ends_with(end))
}

/// The format of matrix `name` with rows of `cols` weights; `pure` gives every matrix the target's base format.
pub fn format(target: &Target, shape: &Shape, name: &str, cols: usize, pure: bool) -> Option<&'static Format> {
    let wanted = if pure { target.base } else { rule(target, shape, name) };
    quant::format_by_name(fitting(wanted, cols))
}

fn rule(target: &Target, shape: &Shape, name: &str) -> &'static str {
    let base = target.base;
    let plain = matches!(base, "F32" | "F16" | "BF16");
    if name == "output.weight" || (name == "token_embd.weight" && !shape.has_output) {
        return if plain || base == "Q8_0" { base } else { "Q6_K" };
    }
    let layer: usize = name.strip_prefix("blk.").and_then(|n| n.split('.').next()?.parse().ok()).unwrap_or(0);
    let (eighth, wide) = (shape.layers / 8, shape.group >= 4);
    // The first and last eighth of the layers and every third between them get more bits.
    let more_bits = layer < eighth || layer >= 7 * shape.layers / 8 || (layer - eighth) % 3 == 2;
    let is = |part: &str| name.ends_with(part);
    if is("attn_v.weight") {
        match target.name {
            "Q2_K" if wide => "Q4_K",
            "Q2_K" => "Q3_K",
            "Q2_K_S" if wide => "Q4_K",
            "Q3_K_M" if layer < 2 => "Q5_K",
            "Q3_K_M" => "Q4_K",
            "Q3_K_L" => "Q5_K",
            "IQ4_NL" | "IQ4_XS" if wide => "Q5_K",
            "Q4_K_M" | "Q5_K_M" if more_bits => "Q6_K",
            "Q4_K_S" if layer < 4 => "Q5_K",
            _ => base,
        }
    } else if is("ffn_down.weight") {
        match target.name {
            "Q2_K" => "Q3_K",
            "Q2_K_S" if layer < eighth => "Q4_K",
            "Q3_K_M" if layer < shape.layers / 16 => "Q5_K",
            "Q3_K_M" => "Q4_K",
            "Q3_K_L" => "Q5_K",
            "Q4_K_M" | "Q5_K_M" if more_bits => "Q6_K",
            "IQ4_NL" | "IQ4_XS" | "Q4_K_S" if layer < eighth => "Q5_K",
            _ => base,
        }
    } else if is("attn_output.weight") {
        match target.name {
            "Q2_K" => "Q3_K",
            "Q3_K_M" => "Q4_K",
            "Q3_K_L" => "Q5_K",
            _ => base,
        }
    } else {
        base
    }
}

/// The format itself, or a near one whose blocks fit rows of `cols`.
fn fitting(name: &'static str, cols: usize) -> &'static str {
    let fits = |name: &str| quant::format_by_name(name).is_some_and(|f| cols.is_multiple_of(f.block));
    let near = match name {
        _ if fits(name) => name,
        "Q2_K" | "Q3_K" => "Q4_0",
        "IQ4_XS" => "IQ4_NL",
        "Q4_K" => "Q5_0",
        "Q5_K" => "Q5_1",
        "Q6_K" => "Q8_0",
        _ => "F16",
    };
    if fits(near) { near } else { "F16" }
}
