// Reads all of `data` and writes nothing: no op, but a measure of how fast a device reads. Run by
// src/backend/gpu/bandwidth.rs.

struct Params {
  count: u32, // elements of data
  threads: u32, // in the dispatch
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> data: array<vec4<u32>>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;

override THREADS: u32 = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
  var sums = vec4(state.zero);
  for (var i = thread.x; i < params.count; i += params.threads) {
    sums += data[i];
  }
  // Never so, as the data is all zeros; but no compiler can know.
  if (sums.x | sums.y | sums.z | sums.w) != 0u { out[0] = sums.x; }
}
