// Some columns of every head of one row or of two, one behind the other; twin of src/ops/columns.rs. A thread moves one element.

struct Params {
  heads: u32, // of all rows
  a_width: u32, // elements per head of the first
  a_from: u32, // the first that is taken
  a_count: u32, // how many are
  b_width: u32, // the same of the second
  b_from: u32,
  b_count: u32, // 0: there is no second
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> a: array<u32>;
@group(0) @binding(3) var<storage, read> b: array<u32>;
@group(0) @binding(4) var<storage, read_write> out: array<u32>;

override THREADS: u32 = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
  let width = params.a_count + params.b_count;
  if thread.x >= params.heads * width { return; }
  let row = thread.y * params.heads + thread.x / width; // of heads
  let column = thread.x % width;
  var word = 0u;
  if column < params.a_count {
    word = a[row * params.a_width + params.a_from + column];
  } else {
    word = b[row * params.b_width + params.b_from + column - params.a_count];
  }
  out[row * width + column] = word;
}
