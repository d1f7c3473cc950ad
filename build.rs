//! Validates every shader variant with naga, so that a broken shader does not build.

#[allow(dead_code, unused)]
#[path = "src/ops/shader.rs"]
mod shader;

use std::fs;
use std::path::Path;

fn wgsl_files(dir: &str) -> Vec<(String, String)> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .unwrap_or_else(|e| panic!("{dir}: {e}"))
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "wgsl"))
        .map(|path| {
            let name = path.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            (name, text)
        })
        .collect();
    files.sort();
    files
}

fn validate(name: &str, source: &str) {
    let module =
        naga::front::wgsl::parse_str(source).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(source)));
    let mut validator = naga::valid::Validator::new(naga::valid::ValidationFlags::all(), shader::capabilities(source));
    validator.validate(&module).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(source)));
}

fn main() {
    // The crate package leaves the model out (registries limit the size), so a build may have the feature but no file.
    println!("cargo::rustc-check-cfg=cfg(builtin_model)");
    println!("cargo::rerun-if-changed=models/stories.gguf");
    if std::env::var_os("CARGO_FEATURE_STORIES").is_some() && Path::new("models/stories.gguf").is_file() {
        println!("cargo::rustc-cfg=builtin_model");
    }
    println!("cargo::rerun-if-changed=wgsl");
    println!("cargo::rerun-if-changed=src/ops/shader.rs");
    assert!(Path::new("wgsl/lib").is_dir(), "wgsl/lib is missing");
    let formats: Vec<_> = wgsl_files("wgsl/lib")
        .into_iter()
        .filter(|(_, text)| text.contains("fn unpack(") || text.contains("fn load("))
        .collect();
    for (name, text) in ["wgsl", "wgsl/fused", "wgsl/tiled"].into_iter().flat_map(wgsl_files) {
        let kernel = shader::Shader { name: "", wgsl: text.leak() };
        for arithmetic in shader::Arithmetic::ALL {
            if kernel.needs_format() {
                for (format, format_text) in formats.iter().filter(|f| kernel.takes(&f.1)) {
                    validate(&format!("{name} with {format}"), &kernel.source(Some(format_text), arithmetic));
                }
            } else {
                validate(&name, &kernel.source(None, arithmetic));
            }
        }
    }
}
