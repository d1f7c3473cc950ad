// The numerics contract (numerics v1) in WGSL: the twin of src/numerics, line for line. Float `+ - *` and
// the values of halves are functions of portable.wgsl or of native.wgsl.

struct State {
  zero: u32, // always 0, but only known at run time: the seal
  position: u32, // of the first row of this batch
  rows: u32, // rows to compute
  ids: u32, // where the batch's token ids begin
  next: u32, // where the id that follows is stored
  slot: u32, // which row of logits a fused token writes
}
@group(0) @binding(0) var<storage, read> state: State;

const ACTIVATION_FLOOR = 0x1p-60f;
const WEIGHT_FLOOR = 0x1p-40f;
const RESULT_FLOOR = 0x1p-100f;

fn flush(x: f32, lowest: f32) -> f32 { return select(x, 0.0, abs(x) < lowest); }
fn settle(x: f32) -> f32 { return flush(x, RESULT_FLOOR); }
fn flush4(x: vec4<f32>, lowest: f32) -> vec4<f32> { return select(x, vec4(0.0), abs(x) < vec4(lowest)); }
fn settle4(x: vec4<f32>) -> vec4<f32> { return flush4(x, RESULT_FLOOR); }

fn r13(x: f32) -> f32 {
  let u = bitcast<u32>(x);
  let rounded = (u + 0x3ffu + ((u >> 11u) & 1u)) & 0xfffff800u;
  // The carry could turn a NaN into a zero.
  return bitcast<f32>(select(rounded, u, (u & 0x7f800000u) == 0x7f800000u));
}

fn f16_bits(x: f32) -> u32 {
  let u = bitcast<u32>(x);
  let sign = (u >> 16u) & 0x8000u;
  let a = u & 0x7fffffffu;
  if a > 0x7f800000u { return sign | 0x7e00u; }
  if a >= 0x477ff000u { return sign | 0x7c00u; }
  if a >= 0x38800000u {
    let r = a - (112u << 23u);
    return sign | ((r + 0xfffu + ((r >> 13u) & 1u)) >> 13u);
  }
  if a <= 0x33000000u { return sign; }
  let mantissa = (a & 0x7fffffu) | 0x800000u;
  let shift = 126u - (a >> 23u);
  let r = mantissa >> shift;
  let rest = mantissa & ((1u << shift) - 1u);
  let half = 1u << (shift - 1u);
  let up = rest > half || (rest == half && (r & 1u) == 1u);
  return sign | (r + u32(up));
}

// An i32 as the nearest f32: sums of 2^24 and more are split, so that no conversion rounds.
fn nearest(i: i32) -> f32 { return add(mul(f32(i >> 12u), 4096.0), f32(i & 4095)); }

// The same for magnitudes below 2^22, without a conversion instruction: those are slow on some devices.
fn small_integer(i: i32) -> f32 { return sub(bitcast<f32>(i + 0x4b400000), 12582912.0); }

fn exp_poly(r: f32) -> f32 {
  var p = 1.98756915e-4f;
  p = add(mul(p, r), 1.39819995e-3f);
  p = add(mul(p, r), 8.333452e-3f);
  p = add(mul(p, r), 4.1665796e-2f);
  p = add(mul(p, r), 1.6666665e-1f);
  p = add(mul(p, r), 0.5f);
  return add(add(mul(p, mul(r, r)), r), 1.0);
}

fn power_of_two(n: f32) -> f32 { return bitcast<f32>(u32(i32(n) + 127) << 23u); }

fn exp_(x0: f32) -> f32 {
  let x = max(min(flush(x0, WEIGHT_FLOOR), 88.0), -87.0);
  let n = round(mul(x, 1.442695f));
  let r = sub(sub(x, mul(n, 0.6933594f)), mul(n, -2.1219444e-4f));
  return mul(exp_poly(r), power_of_two(n));
}

fn exp2_(x0: f32) -> f32 {
  if x0 < -40.0 { return 0.0; }
  let x = flush(x0, WEIGHT_FLOOR);
  let n = round(x);
  let r = mul(sub(x, n), 0.6931472f);
  return mul(exp_poly(r), power_of_two(n));
}

fn recip(x: f32) -> f32 {
  let sign = bitcast<u32>(x) & 0x80000000u;
  let m = bitcast<f32>(bitcast<u32>(x) & 0x7fffffffu);
  var y = bitcast<f32>(0x7ef311c7u - bitcast<u32>(m));
  y = add(y, mul(y, sub(1.0, mul(m, y))));
  y = add(y, mul(y, sub(1.0, mul(m, y))));
  y = add(y, mul(y, sub(1.0, mul(m, y))));
  y = add(y, mul(y, sub(1.0, mul(m, y))));
  return bitcast<f32>(bitcast<u32>(y) | sign);
}

fn rsqrt(x: f32) -> f32 {
  let h = mul(0.5, x);
  var y = bitcast<f32>(0x5f375a86u - (bitcast<u32>(x) >> 1u));
  y = add(y, mul(y, sub(0.5, mul(mul(h, y), y))));
  y = add(y, mul(y, sub(0.5, mul(mul(h, y), y))));
  y = add(y, mul(y, sub(0.5, mul(mul(h, y), y))));
  y = add(y, mul(y, sub(0.5, mul(mul(h, y), y))));
  return y;
}

fn silu(x0: f32) -> f32 {
  let x = flush(x0, WEIGHT_FLOOR);
  return mul(x, recip(add(1.0, exp_(max(min(-x, 60.0), -60.0)))));
}

fn sigmoid(x0: f32) -> f32 {
  let x = flush(x0, WEIGHT_FLOOR);
  return recip(add(1.0, exp_(max(min(-x, 60.0), -60.0))));
}

fn gelu(x0: f32) -> f32 {
  let x = flush(x0, WEIGHT_FLOOR);
  let t = max(min(x, 10.0), -10.0);
  let z = mul(t, add(1.5957691, mul(0.071354814, mul(t, t))));
  return mul(x, recip(add(1.0, exp_(max(min(-z, 60.0), -60.0)))));
}

fn tanh_(x0: f32) -> f32 {
  let x = max(min(flush(x0, WEIGHT_FLOOR), 16.0), -16.0);
  let z = mul(x, x);
  var p = -5.7049887e-3f;
  p = add(mul(p, z), 2.063909e-2f);
  p = add(mul(p, z), -5.3739715e-2f);
  p = add(mul(p, z), 1.3331443e-1f);
  p = add(mul(p, z), -3.3333283e-1f);
  let low = add(mul(mul(p, z), x), x);
  let high = add(1.0, mul(-2.0, recip(add(1.0, exp_(mul(2.0, abs(x)))))));
  return select(bitcast<f32>(bitcast<u32>(high) | (bitcast<u32>(x) & 0x80000000u)), low, abs(x) < 0.625);
}

// Adds to component `lane` of four lanes of S8; to none where `lane` is not below 4. (FXC cannot write a component
// at a computed index in a loop: docs/shaders.md.)
fn add_lane(v: vec4<f32>, lane: u32, t: f32) -> vec4<f32> {
  return select(v, add4(v, vec4(t)), vec4(lane) == vec4(0u, 1u, 2u, 3u));
}

// The final tree of an S8 sum over its 8 lanes.
fn s8_tree(a: vec4<f32>, b: vec4<f32>) -> f32 {
  return add(add(add(a.x, b.x), add(a.z, b.z)), add(add(a.y, b.y), add(a.w, b.w)));
}
