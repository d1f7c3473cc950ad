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
@group(0) @binding(3) var<storage, read> sums: array<f32>; // of weights: [tile][head]; behind the last tile those of sinks
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

const PART = 16u;
override THREADS: u32 = 128u; // always 8 * PART
var<workgroup> lanes: array<f32, THREADS>; // [lane][dimension]
var<workgroup> lane_weights: array<f32, 8>;

// The sum of a column's tiles `t`, `t + 8`, and so on up to `last`; four are on their way at once.
fn added_terms(at: u32, first: u32, last: u32, stride: u32) -> f32 {
  var sum = 0.0;
  for (var t = first; t <= last; t += 32u) {
    let a = terms[at + t * stride];
    let b = terms[at + min(t + 8u, last) * stride];
    let c = terms[at + min(t + 16u, last) * stride];
    let d = terms[at + min(t + 24u, last) * stride];
    sum = add(sum, a);
    if t + 8u <= last { sum = add(sum, b); }
    if t + 16u <= last { sum = add(sum, c); }
    if t + 24u <= last { sum = add(sum, d); }
  }
  return sum;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = group.x;
  let d = group.y * PART + thread % PART;
  let lane = thread / PART;
  let start = first_seen(state.position) / 32u;
  let first = start + ((lane - start) & 7u);
  let last = state.position / 32u;
  lanes[thread] = added_terms(head * HEAD_DIM + d, first, last, params.heads * HEAD_DIM);
  if thread % PART == 0u {
    var sum = 0.0;
    for (var t = first; t <= last; t += 8u) { sum = add(sum, sums[t * params.heads + head]); }
    lane_weights[lane] = sum;
  }
  workgroupBarrier();
  if thread < PART {
    var total = s8_tree(vec4(lane_weights[0], lane_weights[1], lane_weights[2], lane_weights[3]),
                        vec4(lane_weights[4], lane_weights[5], lane_weights[6], lane_weights[7]));
    if SINKS != 0u { total = add(total, sums[params.context / 32u * params.heads + head]); }
    let sum = s8_tree(vec4(lanes[thread], lanes[PART + thread], lanes[2u * PART + thread], lanes[3u * PART + thread]),
                      vec4(lanes[4u * PART + thread], lanes[5u * PART + thread], lanes[6u * PART + thread], lanes[7u * PART + thread]));
    out[item_word(head * HEAD_DIM + d, params.items)] = settle(mul(sum, recip(total)));
  }
}
