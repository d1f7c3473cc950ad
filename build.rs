//! Validates every shader variant with naga, so that a broken shader does not build, and writes down what naga says of them:
//! overrides, workgroup memory, threads and parameters (`src/shaders`).

#[allow(dead_code)]
#[path = "src/shaders/table.rs"]
mod table;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use naga::valid::{ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, BinaryOperator, Expression, Handle, Literal, Module, ScalarKind, TypeInner};
use table::{Arithmetic, SHADERS, Shader, Weights};

fn main() {
    // The crate package leaves the model out (registries limit the size), so a build may have the feature but no file.
    println!("cargo::rustc-check-cfg=cfg(builtin_model)");
    println!("cargo::rerun-if-changed=models/stories.gguf");
    if env::var_os("CARGO_FEATURE_STORIES").is_some() && Path::new("models/stories.gguf").is_file() {
        println!("cargo::rustc-cfg=builtin_model");
    }
    if let Some(commit) = commit() {
        println!("cargo::rustc-env=SAMEBITS_COMMIT={commit}");
    }
    println!("cargo::rerun-if-changed=wgsl");
    println!("cargo::rerun-if-changed=src/shaders/table.rs");
    for folder in ["wgsl", "wgsl/fused", "wgsl/tensor", "wgsl/tiled"] {
        every_file_is_in_the_table(folder);
    }
    let (mut facts, mut params) = (Facts::default(), Params::default());
    for shader in SHADERS {
        shader.needs().unwrap_or_else(|e| panic!("{}: {e}", shader.file));
        let formats = shader.formats();
        let variants = formats.into_iter().map(Some).chain(shader.formats().is_empty().then_some(None));
        for format in variants {
            validate(shader, format, Arithmetic::Native);
            let (source, module, info) = validate(shader, format, Arithmetic::Portable);
            facts.add(shader, format, &module, &info);
            params.add(shader, &source, &module);
        }
    }
    let folder = env::var_os("OUT_DIR").unwrap_or_default();
    let write =
        |name: &str, text: String| fs::write(Path::new(&folder).join(name), text).unwrap_or_else(|e| panic!("{e}"));
    write("facts.rs", facts.text());
    write("params.rs", params.text());
}

/// The commit that a program for use is built from. Builds with debug assertions are for work on the program: they would be made anew
/// for every commit, and have none.
fn commit() -> Option<String> {
    if env::var_os("CARGO_CFG_DEBUG_ASSERTIONS").is_some() {
        return None;
    }
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
    };
    // Sources within another repository are none of its commits.
    let root = fs::canonicalize(git(&["rev-parse", "--show-toplevel"])?).ok()?;
    if root != fs::canonicalize(env::var_os("CARGO_MANIFEST_DIR")?).ok()? {
        return None;
    }
    println!("cargo::rerun-if-changed={}", git(&["rev-parse", "--git-path", "logs/HEAD"])?);
    println!("cargo::rerun-if-changed=src");
    git(&["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
}

fn files(folder: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{folder}: {e}"));
    let paths = entries.filter_map(|entry| entry.ok().map(|e| e.path()));
    paths.filter(|p| p.extension().is_some_and(|e| e == "wgsl")).map(|p| p.to_string_lossy().replace('\\', "/"))
}

fn every_file_is_in_the_table(folder: &str) {
    for file in files(folder) {
        assert!(SHADERS.iter().any(|s| s.file == file), "{file} is not in the table of src/shaders/table.rs");
    }
}

fn validate(shader: &Shader, format: Option<&Weights>, arithmetic: Arithmetic) -> (String, Module, ModuleInfo) {
    let source = shader.source(format, arithmetic);
    let name = format!("{} with {} ({arithmetic:?})", shader.file, format.map_or("no weights", |f| f.name));
    let module =
        naga::front::wgsl::parse_str(&source).unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&source)));
    let info = Validator::new(ValidationFlags::all(), shader.capabilities(arithmetic)).validate(&module);
    let info = info.unwrap_or_else(|e| panic!("{name}: {}", e.emit_to_string(&source)));
    (source, module, info)
}

/// The table of facts, as Rust. Variants with equal facts share them.
#[derive(Default)]
struct Facts {
    text: String,
    known: HashMap<String, usize>,
    rows: String,
}

impl Facts {
    fn add(&mut self, shader: &Shader, format: Option<&Weights>, module: &Module, info: &ModuleInfo) {
        let mut facts = "Facts { overrides: &[".to_owned();
        for (_, o) in module.overrides.iter() {
            let name = o.name.as_deref().unwrap_or_default();
            let init = o.init.unwrap_or_else(|| panic!("{}: override {name} has no default", shader.file));
            let _ = write!(facts, "Override {{ name: {name:?}, default: &[{}] }},", terms(module, init));
        }
        facts += "], shared: &[";
        let entry = &module.entry_points[0];
        let uses = info.get_entry_point(0);
        for (handle, v) in module.global_variables.iter() {
            if v.space != AddressSpace::WorkGroup || uses[handle].is_empty() {
                continue;
            }
            let (element, count) = match module.types[v.ty].inner {
                TypeInner::Array { stride, size: naga::ArraySize::Pending(o), .. } => {
                    (stride, format!("Term::Override({})", o.index()))
                }
                ref inner => (inner.size(module.to_ctx()), "Term::Word(1)".to_owned()),
            };
            let _ = write!(facts, "({element}, &[{count}]),");
        }
        let threads = match entry.workgroup_size_overrides {
            Some([Some(x), ..]) => terms(module, x),
            _ => format!("Term::Word({})", entry.workgroup_size[0]),
        };
        let _ = write!(facts, "], threads: &[{threads}] }}");
        let next = self.known.len();
        let number = *self.known.entry(facts.clone()).or_insert(next);
        if number == next {
            let _ = writeln!(self.text, "static FACTS_{number}: Facts = {facts};");
        }
        let format = format.map_or("", |f| f.name);
        let _ = writeln!(self.rows, "    ({:?}, {format:?}, &FACTS_{number}),", shader.name);
    }

    fn text(self) -> String {
        let head = "/// By shader and format.\nstatic FACTS: &[(&str, &str, &Facts)] = &[\n";
        format!("{}{head}{}];\n", self.text, self.rows)
    }
}

/// An expression over overrides in the words of `src/shaders/facts.rs`.
fn terms(module: &Module, expression: Handle<Expression>) -> String {
    let of = |e| terms(module, e);
    match module.global_expressions[expression] {
        Expression::Literal(Literal::U32(n)) => format!("Term::Word({n})"),
        Expression::Literal(Literal::Bool(b)) => format!("Term::Word({})", u32::from(b)),
        Expression::Constant(c) => of(module.constants[c].init),
        Expression::Override(o) => format!("Term::Override({})", o.index()),
        Expression::Binary { op, left, right } => {
            let operator = match op {
                BinaryOperator::Add => "Add",
                BinaryOperator::Subtract => "Subtract",
                BinaryOperator::Multiply => "Multiply",
                BinaryOperator::Divide => "Divide",
                BinaryOperator::Equal => "Equal",
                BinaryOperator::Less => "Less",
                BinaryOperator::Greater => "Greater",
                other => panic!("src/shaders/facts.rs has no word for {other:?} in the default of an override"),
            };
            format!("{}, {}, Term::{operator}", of(left), of(right))
        }
        Expression::Select { condition, accept, reject } => {
            format!("{}, {}, {}, Term::Select", of(reject), of(accept), of(condition))
        }
        ref other => panic!("src/shaders/facts.rs has no word for {other:?} in the default of an override"),
    }
}

/// A Rust struct for every `Params` and for `State`, by name.
#[derive(Default)]
struct Params {
    structs: BTreeMap<String, String>,
}

impl Params {
    fn add(&mut self, shader: &Shader, source: &str, module: &Module) {
        for name in ["Params", "State"] {
            let Some((_, ty)) = module.types.iter().find(|(_, t)| t.name.as_deref() == Some(name)) else { continue };
            let TypeInner::Struct { members, .. } = &ty.inner else { continue };
            let declared = declaration(source, name).unwrap_or_else(|| panic!("{}: no struct {name}", shader.file));
            let shared = files("wgsl/lib").find(|f| fs::read_to_string(f).is_ok_and(|text| text.contains(declared)));
            let owner = match (&shared, name) {
                (_, "State") => "state",
                (Some(file), _) => Path::new(file).file_stem().and_then(|s| s.to_str()).unwrap_or(shader.name),
                (None, _) => shader.name,
            };
            let file = shared.as_deref().unwrap_or(shader.file);
            let mut text = format!(
                "/// `{name}` of `{file}`.\n#[repr(C)]\n#[derive(Clone, Copy, Debug, Default, PartialEq, bytemuck::Pod, \
                 bytemuck::Zeroable)]\npub struct {} {{\n",
                camel(owner)
            );
            let mut offset = 0;
            for member in members {
                let field = member.name.as_deref().unwrap_or_default();
                let (rust, bytes) = match module.types[member.ty].inner {
                    TypeInner::Scalar(s) if s.kind == ScalarKind::Uint => ("u32", 4),
                    TypeInner::Scalar(s) if s.kind == ScalarKind::Float => ("f32", 4),
                    TypeInner::Vector { size: naga::VectorSize::Quad, .. } => ("[u32; 4]", 16),
                    ref other => panic!("{file}: build.rs knows no Rust type for {field}: {other:?}"),
                };
                assert_eq!(member.offset, offset, "{file}: {field} has a gap before it, which Rust has not");
                offset += bytes;
                if let Some(doc) = comment(declared, field) {
                    let _ = writeln!(text, "    /// {doc}");
                }
                let _ = writeln!(text, "    pub {field}: {rust},");
            }
            text += "}\n";
            let known = self.structs.entry(camel(owner)).or_insert_with(|| text.clone());
            assert_eq!(*known, text, "{file}: two structs {name} of one name");
        }
    }

    fn text(self) -> String {
        self.structs.into_values().collect()
    }
}

/// The text of a struct's declaration.
fn declaration<'a>(source: &'a str, name: &str) -> Option<&'a str> {
    let start = source.find(&format!("struct {name} {{\n"))?;
    let length = source[start..].find("\n}")?;
    Some(&source[start..start + length])
}

/// The comment behind a field.
fn comment(declaration: &str, field: &str) -> Option<String> {
    let line = declaration.lines().find(|l| l.trim().starts_with(&format!("{field}:")))?;
    let words = line.split_once("//")?.1.trim();
    let (first, behind) = words.split_at_checked(1)?;
    let plain = words.split(' ').next()?.chars().all(char::is_alphabetic);
    Some(if plain { format!("{}{behind}.", first.to_uppercase()) } else { format!("{words}.") })
}

/// `rms_norm` as `RmsNorm`.
fn camel(name: &str) -> String {
    let capital = |word: &str| word[..1].to_uppercase() + &word[1..];
    name.split('_').map(capital).collect()
}
