// out = elements of x whose place along one axis is an index; twin of src/tensor/gather.rs. A thread makes one element.
// needs: strided

struct Params {
  count: u32, // elements of the result
  length: u32, // elements along the axis
  stride: u32, // how far they are from each other
  slot: u32, // where a fault is told
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> x: array<u32>;
@group(0) @binding(5) var<storage, read> indices: array<i32>;
@group(0) @binding(6) var<storage, read_write> out: array<u32>;

override THREADS: u32 = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let i = group_number(group) * THREADS + thread;
  if i >= params.count { return; }
  let index = indices[place(1u, i)];
  let n = i32(params.length);
  let from_end = select(index, index + n, index < 0);
  if from_end < 0 || from_end >= n {
    atomicMax(&faults[params.slot], OUT_OF_RANGE);
    return;
  }
  let at = place(0u, i) + u32(from_end) * params.stride;
  out[i] = element(0u, x[word_at(0u, at)], at);
}
