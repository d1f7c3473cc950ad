// x = x * sigmoid(h . weight); twin of src/ops/row_gate.rs. A workgroup makes one row.
// needs: blocks

struct Params {
  width: u32, // elements per row of x
  gate_width: u32, // elements per row of h
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read_write> x: array<f32>;
@group(0) @binding(3) var<storage, read> h: array<f32>;
@group(0) @binding(4) var<storage, read> weight: array<f32>;

override THREADS: u32 = 64u;

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
  var lane = 0.0;
  for (var tile = 0u; tile < blocks; tile += THREADS) {
    if tile + thread < blocks { terms[thread] = block_term(row, tile + thread); }
    lane = with_blocks(lane, blocks - tile, thread);
  }
  let dot_ = total_of(lane, thread);
  let gate = flush(sigmoid(dot_), WEIGHT_FLOOR);
  for (var i = thread; i < params.width; i += THREADS) {
    let at = row * params.width + i;
    x[at] = settle(mul(flush(x[at], ACTIVATION_FLOOR), gate));
  }
}
