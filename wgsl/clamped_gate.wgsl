// out = g * sigmoid(1.702 g) * (u + 1), g at most 7 and u within 7; twin of src/ops/clamped_gate.rs. A thread makes one element.

struct Params {
  width: u32, // elements per row
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> a: array<f32>;
@group(0) @binding(3) var<storage, read> b: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

override THREADS: u32 = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
  if thread.x >= params.width { return; }
  let i = thread.y * params.width + thread.x;
  let g = min(flush(a[i], WEIGHT_FLOOR), 7.0);
  let u = max(min(flush(b[i], WEIGHT_FLOOR), 7.0), -7.0);
  out[i] = settle(mul(mul(g, sigmoid(mul(g, 1.702))), add(u, 1.0)));
}
