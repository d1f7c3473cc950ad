// out[i] = x[rows[i]]: the rows whose logits are wanted; twin of src/ops/gather.rs. A thread takes one element.

struct Params {
  width: u32, // elements per row
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> rows: array<u32>;
@group(0) @binding(3) var<storage, read> x: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

override THREADS: u32 = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
  if thread.x >= params.width { return; }
  out[thread.y * params.width + thread.x] = x[rows[thread.y] * params.width + thread.x];
}
