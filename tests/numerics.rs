//! The functions of the contract: GPU bits = CPU bits over a million inputs each, and their error against f64.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{Random, bits, run_kernel, turn};
use samebits::backend::gpu::Kernel;
use samebits::numerics::{self, exp, exp2, f16_bits, f16_value, gelu, r13, recip, rsqrt, settle, silu, tanh};
use samebits::shaders::Shader;

const N: usize = 1 << 20;

macro_rules! shader {
    ($name:expr, $body:expr) => {{
        static SHADER: Shader = Shader {
            own: &[],
            name: $name,
            file: "",
            wgsl: concat!(
                "struct Params { n: u32 }
                @group(0) @binding(1) var<uniform> params: Params;
                @group(0) @binding(2) var<storage, read> xs: array<u32>;
                @group(0) @binding(3) var<storage, read_write> out: array<u32>;
                override THREADS: u32 = 64u;
                @compute @workgroup_size(THREADS)
                fn main(@builtin(global_invocation_id) id: vec3<u32>) {
                  if id.x >= params.n { return; }
                  let u = xs[id.x];
                  let x = bitcast<f32>(u);
                  out[id.x] = ",
                $body,
                "; }"
            ),
        };
        &SHADER
    }};
}

fn on_gpu(shader: &'static Shader, input: &[u32]) -> Vec<u32> {
    let _turn = turn();
    let kernel = Kernel::new(shader);
    let params = [input.len() as u32, 0, 0, 0];
    let groups = [input.len().div_ceil(64) as u32, 1, 1];
    let out = vec![0; input.len()];
    run_kernel(kernel, bytemuck::cast_slice(&params), 0, groups, &[input, &out], 1)
}

fn check(shader: &'static Shader, input: &[f32], cpu: fn(f32) -> u32) {
    let gpu = on_gpu(shader, &bits(input));
    for (x, gpu) in input.iter().zip(gpu) {
        assert_eq!(gpu, cpu(*x), "{}({x:e}, {:08x})", shader.name, x.to_bits());
    }
}

/// Largest relative error against f64, in units of 2^-24 (half a unit in the last place of a value just above 1).
fn error(input: &[f32], f: fn(f32) -> f32, exact: fn(f64) -> f64) -> f64 {
    let relative = |x: &f32| (f64::from(f(*x)) - exact(f64::from(*x))).abs() / exact(f64::from(*x)).abs();
    input.iter().map(relative).fold(0.0, f64::max) * 2f64.powi(24)
}

#[test]
fn exponentials() {
    let mut random = Random(1);
    let x: Vec<f32> = (0..N).map(|_| random.word() as f32 / 2f32.powi(32) * 170.0 - 85.0).collect();
    check(shader!("test_exp", "bitcast<u32>(exp_(x))"), &x, |x| exp(x).to_bits());
    let e = error(&x, exp, f64::exp);
    assert!(e < 4.0, "exp: {e}");
    let x: Vec<f32> = (0..N).map(|_| random.word() as f32 / 2f32.powi(32) * -45.0).collect();
    check(shader!("test_exp2", "bitcast<u32>(exp2_(x))"), &x, |x| exp2(x).to_bits());
    let inside: Vec<f32> = x.into_iter().filter(|x| *x >= -40.0).collect();
    let e2 = error(&inside, exp2, f64::exp2);
    assert!(e2 < 4.0, "exp2: {e2}");
    println!("exp {e:.2}, exp2 {e2:.2}");
}

#[test]
fn reciprocals() {
    let mut random = Random(2);
    let x = random.floats(N, -100, 100);
    check(shader!("test_recip", "bitcast<u32>(recip(x))"), &x, |x| recip(x).to_bits());
    let e = error(&x, recip, |x| 1.0 / x);
    let positive: Vec<f32> = x.iter().map(|x| x.abs()).collect();
    check(shader!("test_rsqrt", "bitcast<u32>(rsqrt(x))"), &positive, |x| rsqrt(x).to_bits());
    let r = error(&positive, rsqrt, |x| 1.0 / x.sqrt());
    println!("recip {e:.2}, rsqrt {r:.2}");
    assert!(e < 4.0 && r < 6.0, "recip {e}, rsqrt {r}");
}

#[test]
fn silu_matches() {
    let mut random = Random(3);
    let x = random.floats(N, -45, 7);
    check(shader!("test_silu", "bitcast<u32>(settle(silu(x)))"), &x, |x| settle(silu(x)).to_bits());
    let moderate: Vec<f32> = x.into_iter().filter(|x| x.abs() < 40.0 && x.abs() > 1e-9).collect();
    let e = error(&moderate, silu, |x| x / (1.0 + (-x).exp()));
    println!("silu {e:.2}");
    assert!(e < 8.0, "silu: {e}");
}

#[test]
fn gelu_matches() {
    let mut random = Random(4);
    let x = random.floats(N, -45, 7);
    check(shader!("test_gelu", "bitcast<u32>(settle(gelu(x)))"), &x, |x| settle(gelu(x)).to_bits());
    let exact = |x: f64| x / (1.0 + (-2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).exp());
    let moderate: Vec<f32> = x.into_iter().filter(|x| *x < 40.0 && *x > -2.0 && x.abs() > 1e-9).collect();
    let e = error(&moderate, gelu, exact);
    println!("gelu {e:.2}");
    assert!(e < 16.0, "gelu: {e}");
}

#[test]
fn tanh_matches() {
    let mut random = Random(5);
    let x = random.floats(N, -45, 7);
    check(shader!("test_tanh", "bitcast<u32>(settle(tanh_(x)))"), &x, |x| settle(tanh(x)).to_bits());
    let moderate: Vec<f32> = x.into_iter().filter(|x| x.abs() > 1e-9).collect();
    let e = error(&moderate, tanh, f64::tanh);
    println!("tanh {e:.2}");
    assert!(e < 4.0, "tanh: {e}");
}

#[test]
fn roundings() {
    let mut random = Random(4);
    let x: Vec<f32> = (0..N).map(|_| f32::from_bits(random.word())).filter(|x| x.is_normal()).collect();
    check(shader!("test_r13", "bitcast<u32>(r13(x))"), &x, |x| r13(x).to_bits());
    let x = random.floats(N, -30, 20);
    check(shader!("test_f16", "f16_bits(x)"), &x, f16_bits);
    for x in &x {
        assert_eq!(f16_bits(*x), u32::from(half::f16::from_f32(*x).to_bits()), "{x:e}");
    }
    let all: Vec<u32> = (0..=0xffff).collect();
    let gpu = on_gpu(shader!("test_f16_value", "bitcast<u32>(f16_to_f32(u))"), &all);
    for (h, gpu) in all.iter().zip(gpu).filter(|(h, _)| *h & 0x7c00 != 0x7c00) {
        assert_eq!(gpu, f16_value(*h).to_bits(), "{h:04x}");
        assert_eq!(gpu, half::f16::from_bits(*h as u16).to_f32().to_bits(), "{h:04x}");
    }
}

#[test]
fn integers_become_the_nearest_float() {
    let mut random = Random(5);
    let x: Vec<u32> = (0..N).map(|_| random.word()).collect();
    let gpu = on_gpu(shader!("test_nearest", "bitcast<u32>(nearest(bitcast<i32>(u)))"), &x);
    for (x, gpu) in x.iter().zip(gpu) {
        assert_eq!(gpu, (*x as i32 as f32).to_bits(), "{}", *x as i32);
    }
}

/// A sealed chain stays as written on a device that rewrites float expressions, an unsealed one need not.
#[test]
fn s8_sums() {
    let mut random = Random(6);
    let x = random.floats(N, -20, 20);
    let mut sum = numerics::s8::Sum::default();
    let mut lanes = [0.0f32; 8];
    for (i, x) in x.iter().enumerate() {
        sum.push(*x);
        lanes[i % 8] += x;
    }
    assert_eq!(sum.total().to_bits(), numerics::s8::tree(&lanes).to_bits());
    static SHADER: Shader = Shader {
        own: &[],
        name: "test_s8",
        file: "",
        wgsl: "struct Params { n: u32 }
            @group(0) @binding(1) var<uniform> params: Params;
            @group(0) @binding(2) var<storage, read> xs: array<f32>;
            @group(0) @binding(3) var<storage, read_write> out: array<u32>;
            override THREADS: u32 = 64u;
            @compute @workgroup_size(THREADS)
            fn main(@builtin(global_invocation_id) id: vec3<u32>) {
              if id.x >= params.n { return; }
              let at = 8u * id.x;
              let a = vec4(xs[at], xs[at + 1u], xs[at + 2u], xs[at + 3u]);
              let b = vec4(xs[at + 4u], xs[at + 5u], xs[at + 6u], xs[at + 7u]);
              out[id.x] = bitcast<u32>(s8_tree(a, b));
            }",
    };
    let _turn = turn();
    let n = N / 8;
    let kernel = Kernel::new(&SHADER);
    let params = [n as u32, 0, 0, 0];
    let groups = [n.div_ceil(64) as u32, 1, 1];
    let gpu = run_kernel(kernel, bytemuck::cast_slice(&params), 0, groups, &[&bits(&x), &vec![0; n]], 1);
    for (lanes, gpu) in x.chunks_exact(8).zip(gpu) {
        assert_eq!(gpu, numerics::s8::tree(lanes.try_into().unwrap()).to_bits());
    }
}
