//! Puts a shader together from its parts. Also compiled into the build script, which validates every variant.

/// The WGSL of a kernel.
#[derive(Debug)]
pub struct Shader {
    /// The kernel's name, also the file's.
    pub name: &'static str,
    /// The text of the file.
    pub wgsl: &'static str,
}

/// Parts of `wgsl/lib` by the name that a `// needs:` line gives them. `term` and `weight` depend on the format.
const PARTS: &[(&str, &str)] = &[
    ("layout", include_str!("../../wgsl/lib/layout.wgsl")),
    ("order", include_str!("../../wgsl/lib/order.wgsl")),
    ("product", include_str!("../../wgsl/lib/product.wgsl")),
    ("lanes", include_str!("../../wgsl/lib/lanes.wgsl")),
    ("heads", include_str!("../../wgsl/lib/heads.wgsl")),
    ("items", include_str!("../../wgsl/lib/items.wgsl")),
    ("dots", include_str!("../../wgsl/lib/dots.wgsl")),
    ("matvec", include_str!("../../wgsl/lib/matvec.wgsl")),
];

impl Shader {
    /// Whether the kernel reads weights, so that there is a variant per format.
    pub fn needs_format(&self) -> bool {
        needs(self.wgsl).any(|n| n == "format")
    }

    /// Whether there is a variant for a format whose text this is.
    pub fn takes(&self, format: &str) -> bool {
        takes(self.wgsl, format)
    }

    /// The whole module; `format` is the text of a format's WGSL file, for kernels that need one.
    pub fn source(&self, format: Option<&str>) -> String {
        assemble(self.wgsl, format)
    }
}

/// What the `// needs:` line of a kernel lists.
fn needs(wgsl: &str) -> impl Iterator<Item = &str> {
    wgsl.lines().find_map(|l| l.strip_prefix("// needs:")).unwrap_or_default().split(',').map(str::trim)
}

/// Formats of plain numbers have no integer sums.
fn takes(wgsl: &str, format: &str) -> bool {
    !(format.contains("fn load(") && needs(wgsl).any(|n| n == "dots"))
}

/// Joins a kernel's WGSL with the libraries it needs.
pub fn assemble(wgsl: &str, format: Option<&str>) -> String {
    let mut parts = vec![include_str!("../../wgsl/lib/numerics.wgsl")];
    if let Some(format) = format {
        parts.extend([include_str!("../../wgsl/lib/weights.wgsl"), format]);
    }
    let plain = format.is_some_and(|f| f.contains("fn load("));
    for need in needs(wgsl) {
        match (need, plain) {
            ("term", true) => parts.push(include_str!("../../wgsl/lib/term_float.wgsl")),
            ("term", false) => {
                parts.push(include_str!("../../wgsl/lib/dots.wgsl"));
                parts.push(include_str!("../../wgsl/lib/term_block.wgsl"));
            }
            ("weight", true) => parts.push(include_str!("../../wgsl/lib/weight_float.wgsl")),
            ("weight", false) => parts.push(include_str!("../../wgsl/lib/weight_block.wgsl")),
            _ => parts.extend(PARTS.iter().filter(|p| p.0 == need).map(|p| p.1)),
        }
    }
    parts.push(wgsl);
    parts.join("\n")
}
