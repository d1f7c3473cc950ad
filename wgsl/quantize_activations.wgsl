// Activations to integers, a scale per block; twin of src/ops/quantize_activations.rs. A thread makes one block.

struct Params {
  cols: u32, // elements per row, a multiple of `block`
  block: u32, // elements per scale: 32 or 256
  stride: u32, // words per row of the result: planes, then scales, padded to four words
  steps: f32, // the integer that the largest magnitude of a block becomes
  inverse_steps: f32, // 1 / steps
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;

override PRECISE: bool = false;
override THREADS: u32 = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
  let row = thread.y;
  let b = thread.x;
  if b >= params.cols / params.block { return; }
  let source = row * params.cols + b * params.block;
  let target_ = row * params.stride + b * params.block / 4u;
  let plane = params.cols / 4u;
  // As integers, magnitudes have the order of the numbers, and infinity and NaN are above all of them.
  var top = 0u;
  for (var i = 0u; i < params.block; i++) { top = max(top, bitcast<u32>(x[source + i]) & 0x7fffffffu); }
  let finite = top < 0x7f800000u;
  let amax = bitcast<f32>(select(0u, top, finite));
  let empty = amax < ACTIVATION_FLOOR;
  let inverse = mul(recip(select(amax, 1.0, empty)), params.steps);
  for (var word = 0u; word < params.block / 4u; word++) {
    var hi = 0u;
    var lo = 0u;
    for (var i = 0u; i < 4u; i++) {
      let q = i32(round(mul(flush(x[source + word * 4u + i], RESULT_FLOOR), inverse)));
      let high = select(q, (q + 128) >> 8u, PRECISE);
      hi |= (bitcast<u32>(high) & 0xffu) << (8u * i);
      lo |= (bitcast<u32>(q - 256 * high) & 0xffu) << (8u * i);
    }
    out[target_ + word] = select(hi, 0u, empty);
    if PRECISE { out[target_ + plane + word] = select(lo, 0u, empty); }
  }
  let planes = select(1u, 2u, PRECISE);
  let scale = bitcast<u32>(select(mul(amax, params.inverse_steps), 0.0, empty));
  out[row * params.stride + planes * plane + b] = select(0x7fc00000u, scale, finite);
}
