// out = x / rms(x) * weight; twin of src/ops/rms_norm.rs. A workgroup makes one head of a row.
// needs: blocks

struct Params {
  width: u32, // elements per head
  heads: u32, // heads per row, each normalised by itself
  eps: f32, // added to the mean square
  inverse_width: f32, // 1 / width
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

override THREADS: u32 = 64u;

// S8 over the squares of one block of 32.
fn block_term(row: u32, b: u32) -> f32 {
  let count = min(32u, params.width - b * 32u);
  var lo = vec4(0.0);
  var hi = vec4(0.0);
  for (var i = 0u; i < count; i++) {
    let v = flush(x[row * params.width + b * 32u + i], WEIGHT_FLOOR);
    lo = add_lane(lo, i & 7u, mul(v, v));
    hi = add_lane(hi, (i & 7u) - 4u, mul(v, v));
  }
  return s8_tree(lo, hi);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = group.y * params.heads + group.x;
  let blocks = (params.width + 31u) / 32u;
  var lane = 0.0;
  for (var tile = 0u; tile < blocks; tile += THREADS) {
    if tile + thread < blocks { terms[thread] = block_term(row, tile + thread); }
    lane = with_blocks(lane, blocks - tile, thread);
  }
  let total = total_of(lane, thread);
  let r = rsqrt(add(mul(total, params.inverse_width), params.eps));
  for (var i = thread; i < params.width; i += THREADS) {
    let v = flush(x[row * params.width + i], WEIGHT_FLOOR);
    out[row * params.width + i] = settle(mul(mul(v, r), flush(weight[i], WEIGHT_FLOOR)));
  }
}
