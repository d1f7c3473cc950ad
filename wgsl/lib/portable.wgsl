// Operations for every device. No compiler can fuse or reorder floats, because a bit operation with an unknown zero hides each result.
// An exclusive or would not do: twice on one value, as in add(0.0, mul(a, b)), it cancels, and NVIDIA's compiler then fuses
// the bare product.

fn seal(x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(x) | state.zero); }
fn add(a: f32, b: f32) -> f32 { return seal(a + b); }
fn sub(a: f32, b: f32) -> f32 { return seal(a - b); }
fn mul(a: f32, b: f32) -> f32 { return seal(a * b); }

fn seal4(x: vec4<f32>) -> vec4<f32> { return bitcast<vec4<f32>>(bitcast<vec4<u32>>(x) | vec4(state.zero)); }
fn add4(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> { return seal4(a + b); }
fn mul4(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> { return seal4(a * b); }

// sum + a * b where the product is exact (24 significant bits or fewer), so that fusing it changes nothing.
fn add_exact(sum: f32, a: f32, b: f32) -> f32 { return seal(sum + a * b); }
fn add_exact4(sum: vec4<f32>, a: vec4<f32>, b: vec4<f32>) -> vec4<f32> { return seal4(sum + a * b); }

// Halves in integer code and without branches: a device may flush what unpack2x16float makes of subnormal ones.
fn f16_to_f32(h: u32) -> f32 {
  let magnitude = (h & 0x7fffu) << 13u;
  let normal = magnitude + (112u << 23u);
  let subnormal = bitcast<u32>(sub(bitcast<f32>(normal + (1u << 23u)), 0x1p-14f));
  let finite = select(normal, subnormal, magnitude < (1u << 23u));
  let bits = select(finite, normal + (112u << 23u), magnitude >= (31u << 23u));
  return bitcast<f32>(bits | ((h & 0x8000u) << 16u));
}

// Four f16 from two words.
fn f16x4(low: u32, high: u32) -> vec4<f32> {
  let h = vec4(low & 0xffffu, low >> 16u, high & 0xffffu, high >> 16u);
  let magnitude = (h & vec4(0x7fffu)) << vec4(13u);
  let normal = magnitude + vec4(112u << 23u);
  let subnormal = bitcast<vec4<u32>>(add4(bitcast<vec4<f32>>(normal + vec4(1u << 23u)), vec4(-0x1p-14f)));
  let finite = select(normal, subnormal, magnitude < vec4(1u << 23u));
  let bits = select(finite, normal + vec4(112u << 23u), magnitude >= vec4(31u << 23u));
  return bitcast<vec4<f32>>(bits | ((h & vec4(0x8000u)) << vec4(16u)));
}
