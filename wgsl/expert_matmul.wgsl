// y[row, slot, n] = sum over k of w[e, n, k] * x[row, (slot,) k] (+ bias[e, n]) with the expert e of the slot; twin of
// src/ops/expert_matmul.rs. A workgroup computes 8 weight rows of one slot for one activation row, as matmul.wgsl does.
// needs: any format, term

struct Params {
  cols: u32, // of integers: elements of an activation row with all its slots; of plain numbers: weights per row
  blocks: u32, // terms per weight row
  block: u32, // weights per term
  x_stride: u32, // words per activation row
  expert_rows: u32, // weight rows of an expert
  used: u32, // slots
  slot_rows: u32, // 1: every slot has an activation row
  slot_blocks: u32, // 1: every slot has its blocks of an activation row
  streams: vec4<u32>, // word offset of each stream in the shard
  rows: u32, // weight rows in this shard
  row_base: u32, // first of them in the whole tensor
  first: u32, // the shard's first row in the buffer
  has_bias: u32, // 1: a bias is added
  all: u32, // 1: a slot's expert is that of its number
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> weights: array<u32>;
@group(0) @binding(3) var<storage, read> weights4: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> x: array<u32>;
@group(0) @binding(5) var<storage, read> x4: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read> bias: array<f32>;
@group(0) @binding(7) var<storage, read> routes: array<f32>; // [row][numbers of the used experts, their weights]
@group(0) @binding(8) var<storage, read_write> out: array<f32>;

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
