// Attention of a single row over a long cache, third of three: the sums of the tiles in S8, divided by that of the weights. A workgroup
// takes 16 (PART) dimensions of a head, and of those each thread one lane of S8.
// needs: heads, layout

struct Params {
  heads: u32, // query heads
  context: u32, // scores per head, a multiple of 32
  items: u32, // of the output row
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> terms: array<f32>; // [tile][head][dimension]
@group(0) @binding(3) var<storage, read> sums: array<f32>; // of weights: [head][tile], that of the sink behind the last
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

const PART = 16u;
const ROUND = 1024u; // tiles whose sums of weights are here at once, a multiple of 8
override THREADS: u32 = 128u; // always 8 * PART
var<workgroup> tile_weights: array<f32, ROUND>;
var<workgroup> lanes: array<f32, 128>; // [lane][dimension]
var<workgroup> lane_weights: array<f32, 8>;

// A column's terms of the tiles `t`, `t + 8`, … of a lane; behind the last tile it is read again.
fn four(at: u32, t: u32, last: u32, stride: u32) -> vec4<f32> {
  return vec4(terms[at + min(t, last) * stride], terms[at + min(t + 8u, last) * stride],
              terms[at + min(t + 16u, last) * stride], terms[at + min(t + 24u, last) * stride]);
}
fn plus_four(sum0: f32, term: vec4<f32>, t: u32, last: u32) -> f32 {
  var sum = sum0;
  if t <= last { sum = add(sum, term.x); }
  if t + 8u <= last { sum = add(sum, term.y); }
  if t + 16u <= last { sum = add(sum, term.z); }
  if t + 24u <= last { sum = add(sum, term.w); }
  return sum;
}
// One lane of S8 over a column's tiles; sixteen are on their way at once.
fn lane_sum(at: u32, first: u32, last: u32, stride: u32) -> f32 {
  var sum = 0.0;
  for (var t = first; t <= last; t += 128u) {
    let a = four(at, t, last, stride);
    let b = four(at, t + 32u, last, stride);
    let c = four(at, t + 64u, last, stride);
    let d = four(at, t + 96u, last, stride);
    sum = plus_four(sum, a, t, last);
    sum = plus_four(sum, b, t + 32u, last);
    sum = plus_four(sum, c, t + 64u, last);
    sum = plus_four(sum, d, t + 96u, last);
  }
  return sum;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = group.x;
  let d = group.y * PART + thread % PART;
  let lane = thread / PART;
  let start = first_seen(state.position) / 32u;
  let last = state.position / 32u;
  lanes[thread] = lane_sum(head * HEAD_DIM + d, start + ((lane - start) & 7u), last, params.heads * HEAD_DIM);
  let row = head * (params.context / 32u + 1u);
  var weight = 0.0;
  for (var base = start & 0xfffffff8u; base <= last; base += ROUND) {
    workgroupBarrier();
    for (var t = base + thread; t <= min(last, base + ROUND - 1u); t += THREADS) { tile_weights[t - base] = sums[row + t]; }
    workgroupBarrier();
    if thread < 8u {
      for (var t = base + thread; t <= min(last, base + ROUND - 1u); t += 8u) {
        if t >= start { weight = add(weight, tile_weights[t - base]); }
      }
    }
  }
  if thread < 8u { lane_weights[thread] = weight; }
  workgroupBarrier();
  if thread < PART {
    var total = s8_tree(vec4(lane_weights[0], lane_weights[1], lane_weights[2], lane_weights[3]),
                        vec4(lane_weights[4], lane_weights[5], lane_weights[6], lane_weights[7]));
    if SINKS != 0u { total = add(total, sums[row + params.context / 32u]); }
    let sum = s8_tree(vec4(lanes[thread], lanes[PART + thread], lanes[2u * PART + thread], lanes[3u * PART + thread]),
                      vec4(lanes[4u * PART + thread], lanes[5u * PART + thread], lanes[6u * PART + thread], lanes[7u * PART + thread]));
    out[item_word(head * HEAD_DIM + d, params.items)] = settle(mul(sum, recip(total)));
  }
}
