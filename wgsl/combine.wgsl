// out = sum over the slots of weight * x; twin of src/ops/combine.rs. A thread makes one element.
// needs: combined

struct Params {
  width: u32, // elements per row of the result, and per slot
  used: u32, // slots
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>; // [row][slot][element]
@group(0) @binding(3) var<storage, read> routes: array<f32>; // [row][numbers of the used experts, their weights]
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

override THREADS: u32 = 64u;
var<private> row: u32; // the row of the thread

fn slot_term(slot: u32, n: u32) -> f32 {
  return weighed(routes[(2u * row + 1u) * params.used + slot], x[(row * params.used + slot) * params.width + n]);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
  if thread.x >= params.width { return; }
  row = thread.y;
  out[row * params.width + thread.x] = combined(params.used, thread.x);
}
