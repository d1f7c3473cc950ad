// out = running sums along the last axis; twin of src/tensor/scan.rs. A thread makes one line.
// needs: strided

struct Params {
  lines: u32, // lines
  length: u32, // elements of a line
  slot: u32, // where a fault is told
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> x: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<u32>;

override THREADS: u32 = 64u;
override INTEGER: u32 = 0u; // 1: i32

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let line = group_number(group) * THREADS + thread;
  if line >= params.lines { return; }
  var sum = 0u;
  for (var i = 0u; i < params.length; i++) {
    let at = place(0u, line * params.length + i);
    let term = element(0u, x[word_at(0u, at)], at);
    if INTEGER != 0u {
      sum += term;
    } else {
      sum = stored(add(bitcast<f32>(sum), bitcast<f32>(term)));
    }
    out[line * params.length + i] = sum;
  }
}
