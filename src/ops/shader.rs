//! Puts a shader together from its parts. Also compiled into the build script, which validates every variant.

/// The WGSL of a kernel.
#[derive(Debug)]
pub struct Shader {
    /// The kernel's name, also the file's.
    pub name: &'static str,
    /// The text of the file.
    pub wgsl: &'static str,
}

/// What a kernel's float operations are made of. The bits are the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// Bit operations keep results from being fused and reordered (`wgsl/lib/portable.wgsl`): holds on every device.
    #[default]
    Portable,
    /// Fused multiply-adds and the device's own conversions (`wgsl/lib/native.wgsl`): for compilers that leave them alone.
    Native,
}

impl Arithmetic {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Portable, Self::Native];

    fn wgsl(self) -> &'static str {
        match self {
            Self::Portable => include_str!("../../wgsl/lib/portable.wgsl"),
            Self::Native => include_str!("../../wgsl/lib/native.wgsl"),
        }
    }
}

/// Parts of `wgsl/lib` by the name that a `// needs:` line gives them. `term`, `weight` and `matvec` depend on the
/// format.
const PARTS: &[(&str, &str)] = &[
    ("layout", include_str!("../../wgsl/lib/layout.wgsl")),
    ("order", include_str!("../../wgsl/lib/order.wgsl")),
    ("product", include_str!("../../wgsl/lib/product.wgsl")),
    ("lanes", include_str!("../../wgsl/lib/lanes.wgsl")),
    ("plain", include_str!("../../wgsl/lib/plain.wgsl")),
    ("cache", include_str!("../../wgsl/lib/cache.wgsl")),
    ("halves", include_str!("../../wgsl/lib/halves.wgsl")),
    ("heads", include_str!("../../wgsl/lib/heads.wgsl")),
    ("values", include_str!("../../wgsl/lib/values.wgsl")),
    ("items", include_str!("../../wgsl/lib/items.wgsl")),
    ("dots", include_str!("../../wgsl/lib/dots.wgsl")),
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
    pub fn source(&self, format: Option<&str>, arithmetic: Arithmetic) -> String {
        assemble(self.wgsl, format, arithmetic)
    }
}

/// What the `// needs:` line of a kernel lists.
fn needs(wgsl: &str) -> impl Iterator<Item = &str> {
    wgsl.lines().find_map(|l| l.strip_prefix("// needs:")).unwrap_or_default().split(',').map(str::trim)
}

/// Formats of plain numbers have no integers, and some kernels are for them alone.
fn takes(wgsl: &str, format: &str) -> bool {
    if format.contains("fn load(") {
        !(needs(wgsl).any(|n| n == "dots") || wgsl.contains("unpack("))
    } else {
        needs(wgsl).all(|n| n != "plain")
    }
}

/// Joins a kernel's WGSL with the libraries it needs.
pub fn assemble(wgsl: &str, format: Option<&str>, arithmetic: Arithmetic) -> String {
    // `enable` lines come first in a module.
    let enabling = wgsl.split_inclusive('\n').take_while(|l| l.starts_with("enable ")).map(str::len).sum();
    let (enables, wgsl) = wgsl.split_at(enabling);
    let mut parts = vec![enables, arithmetic.wgsl(), include_str!("../../wgsl/lib/numerics.wgsl")];
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
            ("matvec", true) => {
                parts.push(include_str!("../../wgsl/lib/plain.wgsl"));
                parts.push(include_str!("../../wgsl/lib/matvec_float.wgsl"));
                parts.push(include_str!("../../wgsl/lib/matvec.wgsl"));
            }
            ("matvec", false) => {
                parts.push(include_str!("../../wgsl/lib/dots.wgsl"));
                parts.push(include_str!("../../wgsl/lib/matvec_block.wgsl"));
                parts.push(include_str!("../../wgsl/lib/matvec.wgsl"));
            }
            ("weight", true) => parts.push(include_str!("../../wgsl/lib/weight_float.wgsl")),
            ("weight", false) => parts.push(include_str!("../../wgsl/lib/weight_block.wgsl")),
            _ => parts.extend(PARTS.iter().filter(|p| p.0 == need).map(|p| p.1)),
        }
    }
    parts.push(wgsl);
    parts.join("\n")
}

/// What naga must allow for a module: nothing but the portable minimum, unless it says so by an `enable` line or unpacks
/// halves.
pub fn capabilities(source: &str) -> naga::valid::Capabilities {
    use naga::valid::Capabilities as C;
    let units = if source.starts_with("enable") { C::SHADER_FLOAT16 | C::COOPERATIVE_MATRIX } else { C::empty() };
    let halves = if source.contains("unpack2x16float(") { C::SHADER_FLOAT16_IN_FLOAT32 } else { C::empty() };
    units | halves
}
