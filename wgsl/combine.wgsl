// out = sum over the slots of weight * x; twin of src/ops/combine.rs. A thread makes one element.

struct Params {
  width: u32, // elements per row of the result, and per slot
  used: u32, // slots
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>; // [row][slot][element]
@group(0) @binding(3) var<storage, read> routes: array<f32>; // [row][numbers of the used experts, their weights]
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

override THREADS: u32 = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
  if thread.x >= params.width { return; }
  let row = thread.y;
  var outer_lo = vec4(0.0);
  var outer_hi = vec4(0.0);
  for (var b = 0u; b * 32u < params.used; b++) {
    var lo = vec4(0.0);
    var hi = vec4(0.0);
    for (var i = 0u; i < min(32u, params.used - b * 32u); i++) {
      let slot = b * 32u + i;
      let w = flush(routes[(2u * row + 1u) * params.used + slot], WEIGHT_FLOOR);
      let t = mul(w, flush(x[(row * params.used + slot) * params.width + thread.x], ACTIVATION_FLOOR));
      lo = add_lane(lo, i & 7u, t);
      hi = add_lane(hi, (i & 7u) - 4u, t);
    }
    outer_lo = add_lane(outer_lo, b & 7u, s8_tree(lo, hi));
    outer_hi = add_lane(outer_hi, (b & 7u) - 4u, s8_tree(lo, hi));
  }
  out[row * params.width + thread.x] = settle(s8_tree(outer_lo, outer_hi));
}
