//! `samebits validate`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use naga::valid::Capabilities;
use serde_json::json;

use super::error::Failure;
use super::terminal::{note, print, print_json};
use super::values::not_empty;
use super::{Outcome, emit, text};
use crate::backend::gpu::{AdapterOptions, Api, Device, Kernel, MatrixUnits, adapters, api_name, forced_arithmetic};
use crate::model::Model;
use crate::output::{OutputError, Target};
use crate::quant::FORMATS;
use crate::shaders::{self, Shader};
use crate::validate::{
    Translations, Variant, mixed_operators, parse, translate, unportable, uses_matrix_units, variants, violations,
};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// A WGSL file of yours instead of this program's shaders; - is standard input
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Print the whole WGSL of a kernel and a weight format, such as `rope` or `qkv.Q4_K`, and do nothing else
    #[arg(long, value_name = "KERNEL", conflicts_with_all = ["file", "emit", "device", "no_device", "json"])]
    print: Option<String>,
    /// Write the translations (.spv, .metal, .hlsl, .glsl) into this folder
    #[arg(long, value_name = "DIR", group = "outputs")]
    emit: Option<PathBuf>,
    /// Write the kernels of models, as they are really made, into DIR/kernels, with DIR/kernels.json to list them: WGSL, and
    /// what naga makes of it for FXC, DXC and Metal (needs an adapter)
    #[arg(long, value_name = "DIR", conflicts_with = "file", group = "outputs")]
    kernels: Option<PathBuf>,
    /// Beside --kernels those of this GGUF file, too; may be given several times
    #[arg(long, value_name = "FILE", requires = "kernels")]
    with_model: Vec<PathBuf>,
    /// Beside --kernels also dispatches of them all: what their buffers hold before and after, on the CPU or the adapter
    #[arg(long, requires = "kernels")]
    dispatches: bool,
    /// What --kernels may use: what the adapter offers, or only what WebGPU guarantees everywhere
    #[arg(long, value_enum, default_value_t = LimitsName::Device, requires = "kernels")]
    limits: LimitsName,
    /// Replace files of --emit and --kernels that exist
    #[arg(long, requires = "outputs")]
    force: bool,
    /// Adapter to compile on, by its number or part of its name in `samebits devices`; a file of yours is not compiled
    #[arg(long, value_name = "N|NAME", value_parser = not_empty, conflicts_with_all = ["file", "no_device"])]
    device: Option<String>,
    /// Only parse, translate and check; compile nothing
    #[arg(long)]
    no_device: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LimitsName {
    Device,
    Webgpu,
}

/// The verdicts on one shader.
struct Verdict {
    name: String,
    /// `valid`, `SPIR-V`, …, with what is wrong where something is.
    checks: Vec<(&'static str, Result<(), String>)>,
}

pub(super) fn run(a: &Arguments) -> Outcome {
    if let Some(name) = &a.print {
        return print_source(name);
    }
    let models = a.with_model.iter().map(|path| Model::open(path)).collect::<Result<Vec<_>, _>>()?;
    let own = a.file.is_none();
    let mut device = if a.no_device || !own { None } else { open(a)? };
    let arithmetic = match &device {
        Some(device) => device.arithmetic,
        None => forced_arithmetic()?.unwrap_or_default(),
    };
    let list = match &a.file {
        None => variants().into_iter().filter(|v| v.arithmetic == arithmetic).collect(),
        Some(path) => {
            let source = text::read(path)?;
            let stdin = path == Path::new("-");
            let name = if stdin { "shader".into() } else { path.file_stem().unwrap_or_default().to_string_lossy() };
            let name = name.into_owned();
            vec![Variant { name, arithmetic, shader: None, source, capabilities: Capabilities::empty() }]
        }
    };
    let mut verdicts = Vec::new();
    for variant in &list {
        let mut verdict = check(variant, own, a)?;
        if let Some(device) = &mut device {
            for kernel in kernels(variant, device.matrix_units.map(MatrixUnits::shader)) {
                let compiled = device.pipeline(&kernel).and_then(|p| p.code().map(drop)).map_err(|e| e.to_string());
                verdict
                    .checks
                    .push((if kernel.constants.is_empty() { "compiles" } else { "compiles, precise" }, compiled));
            }
        }
        verdicts.push(verdict);
    }
    if let Some(folder) = &a.kernels {
        let choice = AdapterOptions { device: a.device.clone(), ..AdapterOptions::default() };
        if a.device.is_none() && adapters(Api::Any).is_empty() {
            note!("no GPU adapter found: the kernels of models are not listed");
        } else {
            emit::kernels(&choice, a.limits == LimitsName::Webgpu, &models, folder, a.force)?;
            if a.dispatches {
                emit::dispatches(&choice, &models, folder, a.force)?;
            }
        }
    }
    let failed = verdicts.iter().filter(|v| v.checks.iter().any(|c| c.1.is_err())).count();
    let adapter = device.as_ref().map(|d| format!("{} ({})", d.info.name, api_name(&d.info)));
    if a.json {
        let shaders: Vec<_> = verdicts
            .iter()
            .map(|v| {
                let checks = v.checks.iter().map(|(name, r)| json!({"check": name, "error": r.as_ref().err()}));
                json!({"name": v.name, "checks": checks.collect::<Vec<_>>()})
            })
            .collect();
        print_json(&json!({"adapter": adapter, "shaders": shaders, "failed": failed}))?;
    } else {
        for v in &verdicts {
            let passed: Vec<_> = v.checks.iter().filter(|c| c.1.is_ok()).map(|c| c.0).collect();
            print(&format!("{:<24} {}", v.name, passed.join(", ")))?;
            for (name, error) in v.checks.iter().filter_map(|(n, r)| Some((n, r.as_ref().err()?))) {
                print(&format!("    {name}: {error}"))?;
            }
        }
        note!("{} shaders, {failed} failed; compiled on {}", verdicts.len(), adapter.as_deref().unwrap_or("nothing"));
    }
    if failed == 0 { Ok(()) } else { Err(Failure::Shaders(failed).into()) }
}

/// Prints the assembled text of a variant.
fn print_source(name: &str) -> Outcome {
    let arithmetic = forced_arithmetic()?.unwrap_or_default();
    let all = variants();
    if let Some(variant) = all.iter().find(|v| v.arithmetic == arithmetic && v.name.eq_ignore_ascii_case(name)) {
        return Ok(print(&variant.source)?);
    }
    let kernel = name.split('.').next().unwrap_or(name);
    let names: Vec<_> = all.iter().filter(|v| v.arithmetic == arithmetic).map(|v| v.name.as_str()).collect();
    let same: Vec<_> = names.iter().copied().filter(|n| n.split('.').next() == Some(kernel)).collect();
    let known = if same.is_empty() { names } else { same };
    Err(Failure::NoKernel { name: name.to_owned(), known: known.join(" ") }.into())
}

/// The adapter; without any only what needs none is checked.
fn open(a: &Arguments) -> Result<Option<Device>, Box<dyn std::error::Error>> {
    if a.device.is_none() && adapters(Api::Any).is_empty() {
        note!("no GPU adapter found: nothing is compiled");
        return Ok(None);
    }
    Ok(Some(Device::open(&AdapterOptions { device: a.device.clone(), ..AdapterOptions::default() })?))
}

/// The kernels made from a variant, which may need matrix units.
fn kernels(variant: &Variant, matrix_units: Option<&Shader>) -> Vec<Kernel> {
    let Some(shader) = variant.shader else { return Vec::new() };
    if variant.capabilities.contains(Capabilities::COOPERATIVE_MATRIX)
        && matrix_units.is_none_or(|units| units.name != shader.name)
    {
        return Vec::new();
    }
    let weights = variant.name.split_once('.').and_then(|(_, format)| shaders::weights(format));
    let format = weights.and_then(|w| FORMATS.iter().copied().find(|f| f.name == w.name));
    let has_precise = shader.facts(weights).is_some_and(|f| f.overrides.iter().any(|o| o.name == "PRECISE"));
    let kernel = |precise| Kernel { format, ..Kernel::new(shader).precise(precise) };
    if has_precise { vec![kernel(false), kernel(true)] } else { vec![kernel(false)] }
}

fn check(variant: &Variant, own: bool, a: &Arguments) -> Result<Verdict, Box<dyn std::error::Error>> {
    let name = variant.name.clone();
    // A file of the user's may need more than the portable minimum; that it does is said, not refused.
    let needed = variant.capabilities;
    let (module, info) = match parse(&variant.source, needed) {
        Ok(valid) => valid,
        Err(error) if own => return Ok(Verdict { name, checks: vec![("valid", Err(error.to_string()))] }),
        Err(error) => match parse(&variant.source, Capabilities::all()) {
            Ok(_) => {
                return Ok(Verdict { name, checks: vec![("valid", Ok(())), ("portable", Err(error.to_string()))] });
            }
            Err(error) => return Ok(Verdict { name, checks: vec![("valid", Err(error.to_string()))] }),
        },
    };
    let Some(entry) = module.entry_points.iter().find(|e| e.stage == naga::ShaderStage::Compute) else {
        return Ok(Verdict { name, checks: vec![("entry point", Err("there is no compute entry point".to_owned()))] });
    };
    let translations = translate(&module, &info, &entry.name);
    if let Some(folder) = &a.emit {
        write(folder, &name, &translations, a)?;
    }
    let broken = violations(&module, &info);
    let refused: Vec<_> = unportable(&module, &info).into_iter().chain(mixed_operators(&variant.source)).collect();
    let none = |list: Vec<String>| if list.is_empty() { Ok(()) } else { Err(list.join("; ")) };
    let verdict = |r: Result<(), &String>| r.map_err(Clone::clone);
    let mut checks = vec![
        (if needed.is_empty() { "portable" } else { "valid" }, Ok(())),
        ("SPIR-V", verdict(translations.spirv.as_ref().map(|_| ()))),
        ("MSL", verdict(translations.msl.as_ref().map(|_| ()))),
        ("HLSL", verdict(translations.hlsl.as_ref().map(|_| ()))),
        ("GLSL", verdict(translations.glsl.as_ref().map(|_| ()))),
        ("numerics", none(broken)),
        ("every compiler", none(refused)),
    ];
    if own && uses_matrix_units(&module) {
        checks.retain(|c| !["MSL", "HLSL", "GLSL"].contains(&c.0));
    }
    Ok(Verdict { name, checks })
}

fn write(folder: &Path, name: &str, t: &Translations, a: &Arguments) -> Result<(), OutputError> {
    std::fs::create_dir_all(folder)
        .map_err(|e| OutputError::Write { path: folder.display().to_string(), reason: e.to_string() })?;
    let inputs: Vec<_> = a.file.as_deref().into_iter().collect();
    let save = |extension: &str, bytes: &[u8]| {
        Target::new(&folder.join(format!("{name}.{extension}")), a.force, &inputs)?.write(bytes)
    };
    if let Ok(words) = &t.spirv {
        save("spv", bytemuck::cast_slice(words))?;
    }
    for (extension, text) in [("metal", &t.msl), ("hlsl", &t.hlsl), ("glsl", &t.glsl)] {
        if let Ok(text) = text {
            save(extension, text.as_bytes())?;
        }
    }
    Ok(())
}
