//! Every shader variant: translation to the backends' languages, and the numerics rules on naga's IR.
#![allow(clippy::unwrap_used)]

use naga::valid::Capabilities;

use super::{mixed_operators, parse, translate, unportable, uses_matrix_units, variants, workgroup_memory};
use crate::shaders::{Arithmetic, FORMATS, Kind, SHADERS, Shader, weights};

fn shader(name: &str) -> &'static Shader {
    SHADERS.iter().find(|s| s.name == name).unwrap()
}

/// Whether a kernel is one for matrix units.
fn is_for_units(name: &str) -> bool {
    name.starts_with("tiled_units")
}

/// What a module does against the numerics contract.
fn violations(source: &str) -> Vec<String> {
    let (module, info) = parse(source, Capabilities::all()).unwrap_or_else(|e| panic!("{e}"));
    super::violations(&module, &info)
}

#[test]
fn all_translate() {
    let variants = variants();
    assert!(variants.len() > 20);
    for v in variants {
        let (module, info) = parse(&v.source, v.capabilities).unwrap_or_else(|e| panic!("{}: {e}", v.name));
        let t = translate(&module, &info, "main");
        assert!(t.spirv.unwrap().len() > 100, "{}", v.name);
        if uses_matrix_units(&module) {
            assert!(is_for_units(&v.name), "{}", v.name);
            continue;
        }
        assert!(t.msl.unwrap().contains("kernel"), "{}", v.name);
        assert!(t.hlsl.unwrap().contains("numthreads"), "{}", v.name);
        assert!(t.glsl.unwrap().contains("void main()"), "{}", v.name);
    }
}

/// What runs on every device needs nothing beyond the portable minimum.
#[test]
fn portable_kernels_are_portable() {
    for v in variants().iter().filter(|v| v.arithmetic == Arithmetic::Portable && !is_for_units(&v.name)) {
        assert!(parse(&v.source, Capabilities::empty()).is_ok(), "{}", v.name);
    }
}

#[test]
fn all_keep_the_numerics_contract() {
    for v in variants() {
        let found = violations(&v.source);
        assert!(found.is_empty(), "{}: {found:?}", v.name);
    }
}

/// What a module has that some compilers refuse or get wrong.
fn refused(source: &str) -> Vec<String> {
    let (module, info) = parse(source, Capabilities::all()).unwrap_or_else(|e| panic!("{e}"));
    unportable(&module, &info).into_iter().chain(mixed_operators(source)).collect()
}

#[test]
fn all_are_written_for_every_compiler() {
    for v in variants() {
        let found = refused(&v.source);
        assert!(found.is_empty(), "{}: {found:?}", v.name);
    }
}

/// Each rule finds the fault that made it: what FXC or Tint refused, or what FXC compiled wrongly.
#[test]
fn what_compilers_refuse_is_found() {
    let source = |name: &str, from: &str, to: &str| {
        let shader = shader(name);
        let source = shader.source(shader.formats().first().copied(), Arithmetic::Portable);
        let changed = source.replace(from, to);
        assert_ne!(changed, source, "{from} is not in {name}");
        changed
    };
    let found = |name: &str, from: &str, to: &str, what: &str| {
        let found = refused(&source(name, from, to));
        assert!(found.len() == 1 && found[0].contains(what), "{name} with {to}: {found:?}");
    };
    // A component at a computed index.
    let component = "written at a computed index";
    found("rms_norm", "lo = add_lane(lo, i & 7u, mul(v, v));", "lo[i & 3u] = add(lo[i & 3u], mul(v, v));", component);
    let private =
        "var<private> four: vec4<f32>;\nfn term(row: u32, b: u32, x_row: u32) -> f32 {\n  four[b & 3u] = 1.0;";
    found("matmul", "fn term(row: u32, b: u32, x_row: u32) -> f32 {", private, component);
    // A loop around a barrier: its bound is in workgroup memory, is the thread's own, comes out of a loop that is.
    let reach = "not all threads reach";
    found("draw", "let equal = workgroupUniformLoad(&missing);", "let equal = missing;", reach);
    found("softmax", "for (var first = 0u; first < tiles;", "for (var first = thread; first < tiles;", reach);
    let counted =
        "var steps = 0u;\n  for (var i = thread; i < tiles; i++) { steps++; }\n  for (var first = 0u; first < steps;";
    found("softmax", "for (var first = 0u; first < tiles;", counted, reach);
    // A barrier under a condition, one inside a function, a loop that some threads leave.
    found(
        "argmax",
        "  workgroupBarrier();\n  if mine ==",
        "  if thread < 8u { workgroupBarrier(); }\n  if mine ==",
        reach,
    );
    found(
        "selftest",
        "out[at + 14u] = bitcast<u32>(sum(thread, a));",
        "if i < 8u { out[at] = bitcast<u32>(sum(thread, a)); }",
        reach,
    );
    let leaves = "if thread < 8u { break; }\n    lane = with_blocks(";
    found("rms_norm", "lane = with_blocks(", leaves, reach);
    // A return before a barrier, even where all threads take it.
    found(
        "argmax",
        "  var mine = 0u;",
        "  if params.width == 0u { return; }\n  var mine = 0u;",
        "a return before a barrier",
    );
    let returns = "if params.width == 7u { return; }\n    lane = with_blocks(";
    found("rms_norm", "lane = with_blocks(", returns, "a return before a barrier");
    // More workgroup memory by default than a device must have.
    let memory = "bytes of workgroup memory";
    found("draw", "var<workgroup> best: array<f32, 256>;", "var<workgroup> best: array<f32, 8192>;", memory);
    // An operand of two packed dot products.
    let shared = "0x01010101u; let b = dot4I8Packed(q.x, ones) + dot4I8Packed(q.y, ones)";
    found(
        "tiled_quantize",
        "let at = 8u",
        &format!("let ones = {shared}; let at = 8u"),
        "an operand of two packed dot",
    );
    // Parentheses.
    found("attend", "((thread / (PART / 8u)) & 7u)", "(thread / (PART / 8u) & 7u)", "needs parentheses");
}

#[test]
fn planted_violations_are_found() {
    let source = shader("add").source(None, Arithmetic::Portable);
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
    let exact_product_unsealed_sum = planted(
        "fn add_exact(sum: f32, a: f32, b: f32) -> f32 { return seal(sum + a * b); }",
        "fn add_exact(sum: f32, a: f32, b: f32) -> f32 { return sum + a * b; }",
    );
    assert!(exact_product_unsealed_sum[0].contains("add_exact: unsealed Add"));
    let sealed_product_unsealed_sum = planted(
        "fn add(a: f32, b: f32) -> f32 { return seal(a + b); }",
        "fn add(a: f32, b: f32) -> f32 { return a + b; }",
    );
    assert!(sealed_product_unsealed_sum[0].contains("unsealed Add"));
}

/// Native arithmetic may use `fma` and unpack halves, but only where its operations are defined.
#[test]
fn native_operations_stay_where_they_are_defined() {
    let source = shader("add").source(None, Arithmetic::Native);
    assert!(violations(&source).is_empty());
    let in_main = |expression: &str| {
        let changed = source.replace("x[i] = settle(", &format!("x[i] = {expression} ; _ = settle("));
        assert_ne!(changed, source);
        violations(&changed)
    };
    assert!(in_main("fma(x[i], x[i], x[i])")[0].contains("banned Fma"));
    assert!(in_main("unpack2x16float(7u).x")[0].contains("banned Unpack2x16float"));
}

/// Two exclusive ors with one number cancel, and with them the seal of a product that is added to zero: seen on NVIDIA.
#[test]
fn seals_do_not_cancel() {
    let source = shader("add").source(None, Arithmetic::Portable);
    let seals: Vec<_> = source.lines().filter(|l| l.starts_with("fn seal")).collect();
    assert_eq!(seals.len(), 2);
    assert!(seals.iter().all(|l| l.contains('|') && !l.contains('^')), "{seals:?}");
}

/// The table of shaders knows the formats and how each is read.
#[test]
fn every_weight_format_has_its_text() {
    let names = |names: Vec<&'static str>| names.into_iter().collect::<std::collections::BTreeSet<_>>();
    let known = names(FORMATS.iter().map(|f| f.name).collect());
    assert_eq!(known, names(crate::quant::FORMATS.iter().map(|f| f.name).collect()));
    for format in crate::quant::FORMATS {
        let plain = weights(format.name).unwrap().kind == Kind::Plain;
        assert_eq!(plain, format.activation_block().is_none(), "{}", format.name);
    }
}

/// What the build script wrote down of overrides, workgroup memory and threads is what naga makes of a kernel.
#[test]
fn facts_are_what_naga_says() {
    // Values that kernels are made with, where a shader has the override.
    let values: [&[(&str, u32)]; 6] = [
        &[],
        &[("PRECISE", 1), ("DEEP", 8), ("THREADS", 128), ("HALVES", 1), ("HEAD_DIM", 96), ("GROUP", 3)],
        &[("CHUNKS", 64), ("ACROSS", 2), ("LOOPS", 4), ("DEPTH", 2), ("NORM", 1), ("SPAN", 8), ("TILES", 64)],
        &[("CHUNKS", 64), ("ACROSS", 2), ("LOOPS", 4), ("PRECISE", 1), ("NORM", 1), ("HALVES", 1), ("PART", 32)],
        &[("CHUNKS", 176), ("THREADS", 512), ("PRECISE", 1), ("TILES", 16), ("PART", 32), ("HEAD_DIM", 128)],
        &[("CHUNKS", 18), ("THREADS", 64), ("ACROSS", 8), ("GROUP", 8), ("HEAD_DIM", 256)],
    ];
    let mut compared = 0;
    for v in variants().iter().filter(|v| v.arithmetic == Arithmetic::Portable) {
        let shader = v.shader.unwrap();
        let format = v.name.split_once('.').map(|(_, format)| weights(format).unwrap());
        let facts = shader.facts(format).unwrap();
        let (module, info) = parse(&v.source, v.capabilities).unwrap();
        for given in values {
            let given: Vec<_> =
                given.iter().copied().filter(|(name, _)| facts.overrides.iter().any(|o| o.name == *name)).collect();
            let constants = given.iter().map(|(name, value)| ((*name).to_owned(), f64::from(*value))).collect();
            let bytes = workgroup_memory(&module, &info, "main", &constants).unwrap();
            assert_eq!(facts.workgroup_memory(&given), bytes, "{} with {given:?}", v.name);
            let point = Some((naga::ShaderStage::Compute, "main"));
            let made = naga::back::pipeline_constants::process_overrides(&module, &info, point, &constants).unwrap().0;
            assert_eq!(facts.threads(&given), made.entry_points[0].workgroup_size[0], "{} with {given:?}", v.name);
            compared += 1;
        }
    }
    assert!(compared > 800, "{compared}");
}

/// A word that names no part is an error, which the build script raises.
#[test]
fn an_unknown_need_is_named() {
    let error = |wgsl| Shader { name: "", file: "", wgsl, own: &[] }.needs().err().map(|e| e.to_string());
    assert_eq!(error("// A kernel.\n// needs: order, cache, any format\n"), None);
    let message = error("// A kernel.\n// needs: order, cahce\n").unwrap();
    assert!(message.contains("`cahce`") && message.contains("`cache`"), "{message}");
}
