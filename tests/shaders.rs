//! Every shader variant: translation to the backends' languages, and the numerics rules on naga's IR.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use naga::valid::Capabilities;
use samebits::ops::{Arithmetic, SHADERS, capabilities};
use samebits::validate::{parse, translate, uses_matrix_units, variants};

/// What a module does against the numerics contract.
fn violations(source: &str) -> Vec<String> {
    let (module, info) = parse(source, capabilities(source)).unwrap_or_else(|e| panic!("{e}"));
    samebits::validate::violations(&module, &info)
}

#[test]
fn all_translate() {
    let variants = variants();
    assert!(variants.len() > 20);
    for v in variants {
        let (module, info) = parse(&v.source, capabilities(&v.source)).unwrap_or_else(|e| panic!("{}: {e}", v.name));
        let t = translate(&module, &info, "main");
        assert!(t.spirv.unwrap().len() > 100, "{}", v.name);
        if uses_matrix_units(&module) {
            assert!(v.name.starts_with("tiled_matrix"), "{}", v.name);
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
    for v in variants().iter().filter(|v| v.arithmetic == Arithmetic::Portable && !v.name.starts_with("tiled_matrix")) {
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

#[test]
fn planted_violations_are_found() {
    let source = SHADERS.iter().find(|s| s.name == "add").unwrap().source(None, Arithmetic::Portable);
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
    let source = SHADERS.iter().find(|s| s.name == "add").unwrap().source(None, Arithmetic::Native);
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
    let source = SHADERS.iter().find(|s| s.name == "add").unwrap().source(None, Arithmetic::Portable);
    let seals: Vec<_> = source.lines().filter(|l| l.starts_with("fn seal")).collect();
    assert_eq!(seals.len(), 2);
    assert!(seals.iter().all(|l| l.contains('|') && !l.contains('^')), "{seals:?}");
}
