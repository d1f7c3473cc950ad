// out = f(a, b, c) of each element; twin of src/tensor/map.rs. A thread makes one word of the result: an element, or two f16.
// needs: strided

struct Params {
  count: u32, // elements
  slot: u32, // where a fault is told
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> a: array<u32>;
@group(0) @binding(5) var<storage, read> b: array<u32>;
@group(0) @binding(6) var<storage, read> c: array<u32>;
@group(0) @binding(7) var<storage, read_write> out: array<u32>;

override THREADS: u32 = 64u;
override FUNCTION: u32 = 0u; // the place of the function in the table of src/tensor/map.rs
const HALF = 13u; // the function whose results are f16

// x / y, rounded to nearest even: three digits of eight bits by integer division.
fn divide(x: f32, y: f32) -> f32 {
  let xu = bitcast<u32>(x) & 0x7fffffffu;
  let yu = bitcast<u32>(y) & 0x7fffffffu;
  if yu == 0u { return infinity(); }
  if xu == 0u { return 0.0; }
  let sign = (bitcast<u32>(x) ^ bitcast<u32>(y)) & 0x80000000u;
  let below = (yu & 0x7fffffu) | 0x800000u;
  var above = (xu & 0x7fffffu) | 0x800000u;
  var exponent = i32(xu >> 23u) - i32(yu >> 23u) + 127;
  if above < below {
    above <<= 1u;
    exponent -= 1;
  }
  var rest = above - below;
  var quotient = 1u;
  for (var digit = 0u; digit < 3u; digit++) {
    rest <<= 8u;
    let n = rest / below;
    rest -= n * below;
    quotient = (quotient << 8u) | n;
  }
  let up = (quotient & 1u) != 0u && (rest != 0u || (quotient & 2u) != 0u);
  // A carry into the exponent is what it should be.
  let magnitude = i32(exponent << 23u) + i32((quotient >> 1u) - 0x800000u + u32(up));
  if exponent < 1 { return 0.0; }
  if exponent > 254 { return infinity(); }
  return bitcast<f32>(u32(magnitude) | sign);
}

// The square root, rounded to nearest: what rsqrt gives, corrected by squares of integers.
fn root(x: f32) -> f32 {
  let u = bitcast<u32>(x);
  if u == 0u { return 0.0; }
  if (u >> 31u) != 0u { return infinity(); }
  // x = m * 4^k with m from 1 to 4; all of this times 2^23.
  let exponent = u >> 23u;
  let even = (exponent & 1u) != 0u;
  let m = ((u & 0x7fffffu) | 0x800000u) << select(1u, 0u, even);
  let near = bitcast<f32>((u & 0x7fffffu) | select(128u << 23u, 127u << 23u, even));
  let guess = max(min(mul(near, rsqrt(near)), 1.9999999), 1.0);
  var n = (bitcast<u32>(guess) & 0x7fffffu) + 0x800000u - 4u;
  for (var step = 0u; step < 8u; step++) {
    let odd = 2u * n + 1u;
    // Both are 2^50 and more, but no more than 2^31 apart.
    if i32((m << 25u) - odd * odd) > 0 { n += 1u; }
  }
  let half = (exponent + select(126u, 127u, even)) / 2u;
  return bitcast<f32>((half << 23u) + n - 0x800000u);
}

fn logarithm(x: f32) -> f32 {
  let u = bitcast<u32>(x);
  if u == 0u || (u >> 31u) != 0u { return infinity(); }
  var exponent = i32(u >> 23u) - 126;
  let fraction = bitcast<f32>((u & 0x7fffffu) | (126u << 23u));
  var m = sub(fraction, 1.0);
  if fraction < 0.70710677 {
    exponent -= 1;
    m = sub(add(fraction, fraction), 1.0);
  }
  let n = f32(exponent);
  let z = mul(m, m);
  var p = 7.0376836e-2f;
  p = add(mul(p, m), -1.151461e-1f);
  p = add(mul(p, m), 1.1676998e-1f);
  p = add(mul(p, m), -1.2420141e-1f);
  p = add(mul(p, m), 1.4249323e-1f);
  p = add(mul(p, m), -1.6668057e-1f);
  p = add(mul(p, m), 2.0000714e-1f);
  p = add(mul(p, m), -2.4999994e-1f);
  p = add(mul(p, m), 3.333333e-1f);
  let y = add(add(mul(mul(p, m), z), mul(n, -2.1219444e-4f)), mul(-0.5, z));
  return add(add(m, y), mul(n, 0.6933594f));
}

// x to the power of a whole number, by squares.
fn power(x: f32, n: i32) -> f32 {
  var left = u32(abs(n));
  var square = x;
  var product = 1.0;
  while left > 0u {
    if (left & 1u) != 0u { product = settle(mul(product, square)); }
    left >>= 1u;
    if left > 0u { square = settle(mul(square, square)); }
    if !is_finite(product) || !is_finite(square) { return infinity(); }
  }
  if n < 0 { return divide(1.0, product); }
  return product;
}

fn truncated(x: f32) -> u32 {
  if abs(x) >= 2147483648.0 {
    atomicMax(&faults[params.slot], OUT_OF_RANGE);
    return 0u;
  }
  return bitcast<u32>(i32(x));
}

fn computed(i: u32) -> u32 {
  let a_at = place(0u, i);
  let b_at = place(1u, i);
  let au = element(0u, a[word_at(0u, a_at)], a_at);
  let bu = element(1u, b[word_at(1u, b_at)], b_at);
  let x = bitcast<f32>(au);
  let y = bitcast<f32>(bu);
  let xi = bitcast<i32>(au);
  let yi = bitcast<i32>(bu);
  switch FUNCTION {
    case 1u: { return stored(-x); }
    case 2u: { return stored(abs(x)); }
    case 3u: { return stored(select(exp_(x), infinity(), x > 88.0)); }
    case 4u: { return stored(logarithm(x)); }
    case 5u: { return stored(root(x)); }
    case 6u: { return stored(select(divide(1.0, root(x)), infinity(), x < 0.0)); }
    case 7u: { return stored(divide(1.0, x)); }
    case 8u: { return stored(silu(x)); }
    case 9u: { return stored(gelu(x)); }
    case 10u: { return stored(tanh_(x)); }
    case 11u: { return stored(sigmoid(x)); }
    case 12u: { return stored(max(x, 0.0)); }
    case HALF: { return stored(f16_to_f32(f16_bits(x))); }
    case 14u: { return stored(nearest(xi)); }
    case 15u: { return truncated(x); }
    case 16u: { return stored(add(x, y)); }
    case 17u: { return stored(sub(x, y)); }
    case 18u: { return stored(mul(x, y)); }
    case 19u: { return stored(divide(x, y)); }
    case 20u: { return stored(min(x, y)); }
    case 21u: { return stored(max(x, y)); }
    case 22u: { return stored(power(x, yi)); }
    case 23u: { return u32(x < y); }
    case 24u: { return u32(x <= y); }
    case 25u: { return u32(au == bu); }
    case 26u: { return u32(au != bu); }
    case 27u: { return u32(xi < yi); }
    case 28u: { return u32(xi <= yi); }
    case 29u: { return bitcast<u32>(-xi); }
    case 30u: { return bitcast<u32>(abs(xi)); }
    case 31u: { return au + bu; }
    case 32u: { return au - bu; }
    case 33u: { return au * bu; }
    case 34u: { return bitcast<u32>(min(xi, yi)); }
    case 35u: { return bitcast<u32>(max(xi, yi)); }
    case 36u: {
      let c_at = place(2u, i);
      return select(element(2u, c[word_at(2u, c_at)], c_at), bu, au != 0u);
    }
    default: { return au; }
  }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let i = group_number(group) * THREADS + thread;
  if FUNCTION != HALF {
    if i < params.count { out[place(3u, i)] = computed(i); }
    return;
  }
  if 2u * i >= params.count { return; }
  var halves = f16_bits(bitcast<f32>(computed(2u * i)));
  if 2u * i + 1u < params.count { halves |= f16_bits(bitcast<f32>(computed(2u * i + 1u))) << 16u; }
  out[i] = halves;
}
