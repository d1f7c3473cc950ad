// out[row] = the dequantised embedding row of ids[row]; twin of src/ops/embedding.rs. A thread makes one weight.
// needs: any format, weight, layout

struct Params {
  cols: u32, // elements per row
  row_base: u32, // first vocabulary id of this shard
  rows: u32, // in this shard
  block: u32, // weights per block of the format
  streams: vec4<u32>, // word offset of each stream in the shard
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> weights: array<u32>;
@group(0) @binding(3) var<storage, read> weights4: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> ids: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

override THREADS: u32 = 64u;
override ITEMS: u32 = 0u; // halves of chunks in a row that is stored in the layout of items; 0: stored in order

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
  let row = thread.y;
  let id = ids[state.ids + row];
  if thread.x >= params.cols || id < params.row_base || id >= params.row_base + params.rows { return; }
  var at = thread.x;
  if ITEMS != 0u { at = item_word(at, ITEMS); }
  out[row * params.cols + at] = settle(weight((id - params.row_base) * params.cols + thread.x));
}
