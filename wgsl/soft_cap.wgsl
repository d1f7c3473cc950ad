// x = cap * tanh(x / cap); twin of src/ops/soft_cap.rs. A thread makes one element.

struct Params {
  width: u32, // elements per row
  cap: f32, // what no element passes
  inverse_cap: f32, // 1 / cap
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;

override THREADS: u32 = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
  if thread.x >= params.width { return; }
  let i = thread.y * params.width + thread.x;
  x[i] = settle(mul(tanh_(mul(flush(x[i], ACTIVATION_FLOOR), params.inverse_cap)), params.cap));
}
