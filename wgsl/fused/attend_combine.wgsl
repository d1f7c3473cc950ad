// Attention of a single row over a long cache, last of three: S8 over the tiles, a workgroup a head.
// needs: order, heads, layout

struct Params {
  context: u32, // scores per head, a multiple of 32
  items: u32, // of the output row
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> tile_sums: array<f32>; // [head][tile]
@group(0) @binding(3) var<storage, read> terms: array<f32>; // [head][tile][dimension]
@group(0) @binding(4) var<storage, read_write> out: array<f32>; // in the layout of items

override OUTER: u32 = 256u; // 8 * HEAD_DIM
var<workgroup> outer: array<f32, OUTER>; // [lane][dimension]
var<workgroup> eight: array<f32, 8>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = group.x;
  let tiles = (state.position + 32u) / 32u;
  let first = head * (params.context / 32u);
  for (var i = thread; i < OUTER; i += THREADS) {
    let d = i % HEAD_DIM;
    var sum = 0.0;
    for (var t = i / HEAD_DIM; t < tiles; t += 8u) { sum = add(sum, terms[(first + t) * HEAD_DIM + d]); }
    outer[i] = sum;
  }
  if thread < 8u {
    var sum = 0.0;
    for (var t = thread; t < tiles; t += 8u) { sum = add(sum, tile_sums[first + t]); }
    eight[thread] = sum;
  }
  workgroupBarrier();
  let total = s8_tree(vec4(eight[0], eight[1], eight[2], eight[3]), vec4(eight[4], eight[5], eight[6], eight[7]));
  let inverse = recip(total);
  for (var d = thread; d < HEAD_DIM; d += THREADS) {
    let sum = s8_tree(vec4(outer[d], outer[HEAD_DIM + d], outer[2u * HEAD_DIM + d], outer[3u * HEAD_DIM + d]),
                      vec4(outer[4u * HEAD_DIM + d], outer[5u * HEAD_DIM + d], outer[6u * HEAD_DIM + d], outer[7u * HEAD_DIM + d]));
    out[item_word(head * HEAD_DIM + d, params.items)] = settle(mul(sum, inverse));
  }
}
