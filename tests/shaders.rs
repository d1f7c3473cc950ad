//! Every shader variant: translation to the backends' languages, and the numerics rules on naga's IR.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use naga::{BinaryOperator, Expression, Handle, Module, ScalarKind, Statement, TypeInner};
use samebits::ops::SHADERS;
use samebits::quant::FORMATS;

fn variants() -> Vec<(String, String)> {
    let mut all = Vec::new();
    for shader in SHADERS {
        if shader.needs_format() {
            for format in FORMATS {
                all.push((format!("{}.{}", shader.name, format.name), shader.source(Some(format.wgsl))));
            }
        } else {
            all.push((shader.name.to_owned(), shader.source(None)));
        }
    }
    all
}

fn parse(source: &str) -> (Module, naga::valid::ModuleInfo) {
    let module = naga::front::wgsl::parse_str(source).unwrap_or_else(|e| panic!("{}", e.emit_to_string(source)));
    let flags = naga::valid::ValidationFlags::all();
    let info = naga::valid::Validator::new(flags, naga::valid::Capabilities::empty()).validate(&module).unwrap();
    (module, info)
}

#[test]
fn all_translate() {
    let variants = variants();
    assert!(variants.len() > 20);
    for (name, source) in variants {
        let (module, info) = parse(&source);
        let entry = Some((naga::ShaderStage::Compute, "main"));
        let (module, info) =
            naga::back::pipeline_constants::process_overrides(&module, &info, entry, &Default::default()).unwrap();
        let words = naga::back::spv::write_vec(&module, &info, &Default::default(), None).unwrap();
        assert!(words.len() > 100, "{name}");
        let options =
            naga::back::msl::Options { fake_missing_bindings: true, lang_version: (2, 1), ..Default::default() };
        let (msl, _) = naga::back::msl::write_string(&module, &info, &options, &Default::default()).unwrap();
        assert!(msl.contains("kernel"), "{name}");
        let mut hlsl = String::new();
        let options = naga::back::hlsl::Options {
            fake_missing_bindings: true,
            shader_model: naga::back::hlsl::ShaderModel::V6_4,
            ..Default::default()
        };
        naga::back::hlsl::Writer::new(&mut hlsl, &options, &Default::default()).write(&module, &info, None).unwrap();
        assert!(hlsl.contains("numthreads"), "{name}");
    }
}

/// What a module does against the numerics contract.
fn violations(source: &str) -> Vec<String> {
    let (module, info) = parse(source);
    let mut found = Vec::new();
    for (handle, function) in module.functions.iter() {
        check(&module, function, &info[handle], &mut found);
    }
    for (i, entry) in module.entry_points.iter().enumerate() {
        check(&module, &entry.function, info.get_entry_point(i), &mut found);
    }
    found
}

fn check(module: &Module, function: &naga::Function, info: &naga::valid::FunctionInfo, found: &mut Vec<String>) {
    let name = function.name.clone().unwrap_or_default();
    let float = |e: Handle<Expression>| {
        let kind = |s: &naga::Scalar| s.kind == ScalarKind::Float;
        match info[e].ty.inner_with(&module.types) {
            TypeInner::Scalar(s) | TypeInner::Vector { scalar: s, .. } | TypeInner::Matrix { scalar: s, .. } => kind(s),
            _ => false,
        }
    };
    let sealed = sealed_arguments(module, &function.body);
    for (handle, expression) in function.expressions.iter() {
        match expression {
            Expression::Binary { op, .. } if float(handle) => match op {
                BinaryOperator::Divide | BinaryOperator::Modulo => found.push(format!("{name}: float {op:?}")),
                // `seal` hides its argument; only there a float result may go.
                _ if name != "seal" && !sealed.contains(&handle) => found.push(format!("{name}: unsealed {op:?}")),
                _ => {}
            },
            Expression::Math { fun, arg, .. } if float(*arg) => {
                use naga::MathFunction as F;
                let allowed = [F::Abs, F::Min, F::Max, F::Clamp, F::Floor, F::Trunc, F::Round];
                if !allowed.contains(fun) {
                    found.push(format!("{name}: banned {fun:?}"));
                }
            }
            Expression::Math { fun: naga::MathFunction::Unpack2x16float, .. } => {
                found.push(format!("{name}: banned Unpack2x16float"));
            }
            Expression::Derivative { .. } => found.push(format!("{name}: derivative")),
            _ => {}
        }
    }
}

/// Arguments of calls to `seal`.
fn sealed_arguments(module: &Module, block: &naga::Block) -> Vec<Handle<Expression>> {
    let mut out = Vec::new();
    for statement in block.iter() {
        match statement {
            Statement::Call { function, arguments, .. }
                if module.functions[*function].name.as_deref() == Some("seal") =>
            {
                out.extend(arguments);
            }
            Statement::Block(b) => out.extend(sealed_arguments(module, b)),
            Statement::If { accept, reject, .. } => {
                out.extend(sealed_arguments(module, accept));
                out.extend(sealed_arguments(module, reject));
            }
            Statement::Loop { body, continuing, .. } => {
                out.extend(sealed_arguments(module, body));
                out.extend(sealed_arguments(module, continuing));
            }
            Statement::Switch { cases, .. } => {
                cases.iter().for_each(|c| out.extend(sealed_arguments(module, &c.body)));
            }
            _ => {}
        }
    }
    out
}

#[test]
fn all_keep_the_numerics_contract() {
    for (name, source) in variants() {
        let found = violations(&source);
        assert!(found.is_empty(), "{name}: {found:?}");
    }
}

#[test]
fn planted_violations_are_found() {
    let source = SHADERS.iter().find(|s| s.name == "add").unwrap().source(None);
    let planted = |from: &str, to: &str| {
        let changed = source.replace(from, to);
        assert_ne!(changed, source, "{from} is not in the shader");
        violations(&changed)
    };
    assert!(
        planted("add(flush(x[i], RESULT_FLOOR), flush", "(flush(x[i], RESULT_FLOOR) + flush")[0]
            .contains("unsealed Add")
    );
    assert!(planted("add(flush(x[i], RESULT_FLOOR), flush", "fma(x[i], x[i], flush")[0].contains("banned Fma"));
    assert!(planted("x[i] = settle(", "x[i] = sqrt(")[0].contains("banned Sqrt"));
    assert!(planted("x[i] = settle(", "x[i] = (1.0 / x[i]) * settle(").iter().any(|v| v.contains("Divide")));
    let sealed_product_unsealed_sum = planted(
        "fn add(a: f32, b: f32) -> f32 { return seal(a + b); }",
        "fn add(a: f32, b: f32) -> f32 { return a + b; }",
    );
    assert!(sealed_product_unsealed_sum[0].contains("unsealed Add"));
}
