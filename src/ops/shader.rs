//! Puts a shader together from its parts. Also compiled into the build script, which validates every variant.

/// The WGSL of an op.
#[derive(Debug)]
pub struct Shader {
    /// The op's name, also the file's.
    pub name: &'static str,
    /// The text of `wgsl/<name>.wgsl`.
    pub wgsl: &'static str,
}

const NUMERICS: &str = include_str!("../../wgsl/lib/numerics.wgsl");
const WEIGHTS: &str = include_str!("../../wgsl/lib/weights.wgsl");

impl Shader {
    /// Whether the op reads weights, so that there is a variant per format.
    pub fn needs_format(&self) -> bool {
        self.wgsl.contains("// needs: format")
    }

    /// The whole module; `format` is the text of a format's WGSL file, for ops that need one.
    pub fn source(&self, format: Option<&str>) -> String {
        assemble(self.wgsl, format)
    }
}

/// Joins an op's WGSL with the libraries it needs.
pub fn assemble(op: &str, format: Option<&str>) -> String {
    let mut parts = vec![NUMERICS];
    if let Some(format) = format {
        let plain = format.contains("fn load(");
        parts.extend([WEIGHTS, format]);
        parts.push(match (op.contains("// needs: format term"), plain) {
            (true, true) => include_str!("../../wgsl/lib/term_float.wgsl"),
            (true, false) => include_str!("../../wgsl/lib/term_block.wgsl"),
            (false, true) => include_str!("../../wgsl/lib/weight_float.wgsl"),
            (false, false) => include_str!("../../wgsl/lib/weight_block.wgsl"),
        });
    }
    parts.push(op);
    parts.join("\n")
}
