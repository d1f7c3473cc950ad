// out[row] = index of the largest of the row, ties to the lower index; twin of src/ops/argmax.rs.

struct Params {
  width: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;

override THREADS: u32 = 64u;
var<workgroup> keys: array<u32, THREADS>;
var<workgroup> indices: array<u32, THREADS>;

// Floats as integers of the same order.
fn key(x: f32) -> u32 {
  let u = bitcast<u32>(x);
  return select(u | 0x80000000u, ~u, (u >> 31u) == 1u);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = state.row0 + group.y;
  var best = 0u;
  var index = 0xffffffffu;
  for (var i = thread; i < params.width; i += THREADS) {
    let k = key(x[row * params.width + i]);
    if k > best || index == 0xffffffffu { best = k; index = i; }
  }
  keys[thread] = best;
  indices[thread] = index;
  workgroupBarrier();
  if thread == 0u {
    for (var t = 1u; t < THREADS; t++) {
      if indices[t] != 0xffffffffu && (keys[t] > best || (keys[t] == best && indices[t] < index)) {
        best = keys[t];
        index = indices[t];
      }
    }
    out[row] = index;
  }
}
