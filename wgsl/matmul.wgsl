// y[row, n] = sum over k of w[n, k] * x[row, k] (+ bias[n]); twin of src/ops/matmul.rs.
// A workgroup computes 8 weight rows for one activation row: all threads make terms, 64 of them add by S8.
// needs: any format, product, term

const ROWS = 8u;
const TILE = 64u;
override THREADS: u32 = 64u;
var<workgroup> terms: array<f32, 512>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let first = group.x * ROWS;
  let x_row = group.y;
  let my_row = thread >> 3u;
  let my_lane = thread & 7u;
  var lane_sum = 0.0;
  for (var tile = 0u; tile < params.blocks; tile += TILE) {
    let count = min(TILE, params.blocks - tile);
    for (var i = thread; i < ROWS * count; i += THREADS) {
      let r = i / count;
      let b = i % count;
      if first + r < params.rows { terms[r * TILE + b] = term(params.first + first + r, tile + b, x_row); }
    }
    workgroupBarrier();
    if thread < 64u {
      for (var b = my_lane; b < count; b += 8u) { lane_sum = add(lane_sum, terms[my_row * TILE + b]); }
    }
    workgroupBarrier();
  }
  if thread < 64u { terms[thread] = lane_sum; }
  workgroupBarrier();
  let n = first + thread;
  if thread < ROWS && n < params.rows {
    let at = thread * 8u;
    var y = settle(s8_tree(vec4(terms[at], terms[at + 1u], terms[at + 2u], terms[at + 3u]),
                           vec4(terms[at + 4u], terms[at + 5u], terms[at + 6u], terms[at + 7u])));
    if params.has_bias != 0u { y = settle(add(y, bias[params.row_base + n])); }
    out[x_row * params.out_width + params.row_base + n] = y;
  }
}
