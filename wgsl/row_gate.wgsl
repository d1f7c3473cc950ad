// x = x * sigmoid(h . weight); twin of src/ops/row_gate.rs. A workgroup makes one row.

struct Params {
  width: u32, // elements per row of x
  gate_width: u32, // elements per row of h
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read> h: array<f32>;
@group(0) @binding(4) var<storage, read> weight: array<f32>;

override THREADS: u32 = 64u;
var<workgroup> terms: array<f32, THREADS>;

fn block_term(row: u32, b: u32) -> f32 {
  var lo = vec4(0.0);
  var hi = vec4(0.0);
  for (var i = 0u; i < min(32u, params.gate_width - b * 32u); i++) {
    let at = b * 32u + i;
    let t = mul(flush(h[row * params.gate_width + at], ACTIVATION_FLOOR), flush(weight[at], WEIGHT_FLOOR));
    lo = add_lane(lo, i & 7u, t);
    hi = add_lane(hi, (i & 7u) - 4u, t);
  }
  return s8_tree(lo, hi);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = group.y;
  let blocks = (params.gate_width + 31u) / 32u;
  var lane_sum = 0.0;
  for (var tile = 0u; tile < blocks; tile += THREADS) {
    if tile + thread < blocks { terms[thread] = block_term(row, tile + thread); }
    workgroupBarrier();
    if thread < 8u {
      for (var b = thread; b < min(THREADS, blocks - tile); b += 8u) { lane_sum = add(lane_sum, terms[b]); }
    }
    workgroupBarrier();
  }
  if thread < 8u { terms[thread] = lane_sum; }
  workgroupBarrier();
  let dot_ = s8_tree(vec4(terms[0], terms[1], terms[2], terms[3]), vec4(terms[4], terms[5], terms[6], terms[7]));
  let gate = flush(sigmoid(dot_), WEIGHT_FLOOR);
  for (var i = thread; i < params.width; i += THREADS) {
    let at = row * params.width + i;
    x[at] = settle(mul(flush(x[at], ACTIVATION_FLOOR), gate));
  }
}
