// y[row, slot, n] = sum over k of w[e, n, k] * x[row, (slot,) k] (+ bias[e, n]) with the expert e of the slot; twin of
// src/ops/expert_matmul.rs. A workgroup computes 8 weight rows of one slot for one activation row, as matmul.wgsl does.
// needs: any format, experts, term

@group(0) @binding(7) var<storage, read> routes: array<f32>; // [row][numbers of the used experts, their weights]

const ROWS = 8u;
const TILE = 64u;
override THREADS: u32 = 64u;
var<workgroup> terms: array<f32, 512>;

// Whether the shard has a row of an expert.
fn is_here(n: u32, row: u32) -> bool {
  return n < params.expert_rows && row >= params.row_base && row - params.row_base < params.rows;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let groups = (params.expert_rows + ROWS - 1u) / ROWS;
  let slot = group.x / groups;
  let first = group.x % groups * ROWS;
  var expert = slot;
  if params.all == 0u { expert = u32(routes[group.y * 2u * params.used + slot]); }
  let base = expert * params.expert_rows;
  let x_row = group.y * select(1u, params.used, params.slot_rows != 0u) + slot * params.slot_rows;
  // The blocks of a slot lie behind those of the slots before: a weight row that begins as many blocks earlier meets them.
  let ahead = slot * params.slot_blocks;
  let my_row = thread >> 3u;
  let my_lane = thread & 7u;
  var lane_sum = 0.0;
  for (var tile = 0u; tile < params.blocks; tile += TILE) {
    let count = min(TILE, params.blocks - tile);
    for (var i = thread; i < ROWS * count; i += THREADS) {
      let r = i / count;
      let b = i % count;
      let row = base + first + r;
      if is_here(first + r, row) {
        terms[r * TILE + b] = term(params.first + row - params.row_base - ahead, ahead * params.blocks + tile + b, x_row);
      }
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
  if thread < ROWS && is_here(n, base + n) {
    let at = thread * 8u;
    var y = settle(s8_tree(vec4(terms[at], terms[at + 1u], terms[at + 2u], terms[at + 3u]),
                           vec4(terms[at + 4u], terms[at + 5u], terms[at + 6u], terms[at + 7u])));
    if params.has_bias != 0u { y = settle(add(y, bias[base + n])); }
    out[(group.y * params.used + slot) * params.expert_rows + n] = y;
  }
}
