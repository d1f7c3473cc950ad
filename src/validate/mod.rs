//! Checks of shaders: naga's validation, translation to every backend's language, and the numerics contract.

mod grammar;
pub mod made;
mod portable;
mod rules;
#[cfg(test)]
mod tests;

use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{Module, ShaderStage};
use thiserror::Error;

use crate::shaders::{Arithmetic, SHADERS, Shader};

pub use grammar::mixed_operators;
pub use portable::unportable;
#[cfg(test)]
use portable::workgroup_memory;
pub use rules::violations;

/// Why a shader is no valid WGSL.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct ShaderError(pub(crate) String);

/// A variant of a shader: the weight format it reads, and its arithmetic.
pub struct Variant {
    /// `matmul.Q4_0`.
    pub name: String,
    /// How it keeps the order of float operations.
    pub arithmetic: Arithmetic,
    /// The shader; `None` for a text of the user's.
    pub shader: Option<&'static Shader>,
    /// The whole module.
    pub source: String,
    /// What naga must allow.
    pub capabilities: Capabilities,
}

/// Every variant of every shader of this program.
pub fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for (shader, arithmetic) in SHADERS.iter().flat_map(|s| Arithmetic::ALL.map(|a| (*s, a))) {
        let capabilities = shader.capabilities(arithmetic);
        let mut add = |name: String, source| {
            all.push(Variant { name, arithmetic, shader: Some(shader), source, capabilities });
        };
        let formats = shader.formats();
        if formats.is_empty() {
            add(shader.name.to_owned(), shader.source(None, arithmetic));
        }
        for format in formats {
            add(format!("{}.{}", shader.name, format.name), shader.source(Some(format), arithmetic));
        }
    }
    all
}

/// Translations of a shader: the text, or why there is none.
#[derive(Clone, Debug)]
pub struct Translations {
    /// SPIR-V words (Vulkan).
    pub spirv: Result<Vec<u32>, String>,
    /// Metal.
    pub msl: Result<String, String>,
    /// DirectX 12.
    pub hlsl: Result<String, String>,
    /// OpenGL ES 3.1; it has no 8-bit dot products, which naga replaces.
    pub glsl: Result<String, String>,
}

/// Parses WGSL and validates it for `capabilities`; none are the portable minimum.
///
/// # Errors
/// With naga's own explanation, which shows the place.
pub fn parse(source: &str, capabilities: Capabilities) -> Result<(Module, ModuleInfo), ShaderError> {
    let module = naga::front::wgsl::parse_str(source).map_err(|e| ShaderError(e.emit_to_string(source)))?;
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    let info = validator.validate(&module).map_err(|e| ShaderError(e.emit_to_string(source)))?;
    Ok((module, info))
}

/// Whether a module uses matrix units, which this program reaches through SPIR-V only.
pub fn uses_matrix_units(module: &Module) -> bool {
    module.types.iter().any(|(_, t)| matches!(t.inner, naga::TypeInner::CooperativeMatrix { .. }))
}

/// Translates the entry point `entry` of a valid module.
pub fn translate(module: &Module, info: &ModuleInfo, entry: &str) -> Translations {
    let point = Some((ShaderStage::Compute, entry));
    let processed = naga::back::pipeline_constants::process_overrides(module, info, point, &Default::default());
    let (module, info) = match &processed {
        Ok((module, info)) => (&**module, &**info),
        Err(error) => {
            let failed = error.to_string();
            let (spirv, text) = (Err(failed.clone()), || Err(failed.clone()));
            return Translations { spirv, msl: text(), hlsl: text(), glsl: text() };
        }
    };
    let spirv = naga::back::spv::write_vec(module, info, &Default::default(), None).map_err(|e| e.to_string());
    if uses_matrix_units(module) {
        let none = || Err("matrix units are used through SPIR-V only".to_owned());
        return Translations { spirv, msl: none(), hlsl: none(), glsl: none() };
    }
    let options = naga::back::msl::Options { fake_missing_bindings: true, lang_version: (2, 1), ..Default::default() };
    let msl = naga::back::msl::write_string(module, info, &options, &Default::default());
    let mut hlsl = String::new();
    let options = naga::back::hlsl::Options {
        fake_missing_bindings: true,
        shader_model: naga::back::hlsl::ShaderModel::V6_4,
        ..Default::default()
    };
    let written = naga::back::hlsl::Writer::new(&mut hlsl, &options, &Default::default()).write(module, info, None);
    let hlsl = written.map(|_| hlsl).map_err(|e| e.to_string());
    Translations { spirv, msl: msl.map(|m| m.0).map_err(|e| e.to_string()), hlsl, glsl: glsl(module, info, entry) }
}

fn glsl(module: &Module, info: &ModuleInfo, entry: &str) -> Result<String, String> {
    use naga::back::glsl;
    let mut text = String::new();
    let options = glsl::Options { version: glsl::Version::new_gles(310), ..Default::default() };
    let pipeline =
        glsl::PipelineOptions { shader_stage: ShaderStage::Compute, entry_point: entry.to_owned(), multiview: None };
    let bounds = naga::proc::BoundsCheckPolicies::default();
    glsl::Writer::new(&mut text, module, info, &options, &pipeline, bounds)
        .and_then(|mut writer| writer.write())
        .map_err(|e| e.to_string())?;
    Ok(text)
}
