// out = softmax(x) over each row; twin of src/ops/softmax.rs. A workgroup makes one row.

struct Params {
  width: u32, // elements per row
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

override THREADS: u32 = 64u;
var<workgroup> shared_terms: array<f32, THREADS>;

fn scaled(i: u32) -> f32 { return flush(mul(flush(x[i], ACTIVATION_FLOOR), 1.442695f), ACTIVATION_FLOOR); }

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let base = group.y * params.width;
  var top = -0x1p100f;
  for (var first = 0u; first < params.width; first += THREADS) {
    if first + thread < params.width { top = max(top, scaled(base + first + thread)); }
  }
  shared_terms[thread] = top;
  workgroupBarrier();
  for (var i = 0u; i < THREADS; i++) { top = max(top, shared_terms[i]); }
  workgroupBarrier();
  let tiles = (params.width + 31u) / 32u;
  var lane_sum = 0.0;
  for (var first = 0u; first < tiles; first += THREADS) {
    let tile = first + thread;
    if tile < tiles {
      var lo = vec4(0.0);
      var hi = vec4(0.0);
      let n = min(32u, params.width - tile * 32u);
      for (var i = 0u; i < n; i++) {
        let w = exp2_(sub(scaled(base + tile * 32u + i), top));
        lo = add_lane(lo, i & 7u, w);
        hi = add_lane(hi, (i & 7u) - 4u, w);
      }
      shared_terms[thread] = s8_tree(lo, hi);
    }
    workgroupBarrier();
    if thread < 8u {
      for (var t = thread; t < min(THREADS, tiles - first); t += 8u) { lane_sum = add(lane_sum, shared_terms[t]); }
    }
    workgroupBarrier();
  }
  if thread < 8u { shared_terms[thread] = lane_sum; }
  workgroupBarrier();
  let total = s8_tree(vec4(shared_terms[0], shared_terms[1], shared_terms[2], shared_terms[3]),
                      vec4(shared_terms[4], shared_terms[5], shared_terms[6], shared_terms[7]));
  let inverse = recip(total);
  for (var i = thread; i < params.width; i += THREADS) {
    out[base + i] = settle(mul(exp2_(sub(scaled(base + i), top)), inverse));
  }
}
