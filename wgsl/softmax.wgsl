// out = softmax(x) over each row; twin of src/ops/softmax.rs. A workgroup makes one row.
// needs: blocks

struct Params {
  width: u32, // elements per row
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

override THREADS: u32 = 64u;

fn scaled(i: u32) -> f32 { return flush(mul(flush(x[i], ACTIVATION_FLOOR), 1.442695f), ACTIVATION_FLOOR); }

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let base = group.y * params.width;
  var top = -0x1p100f;
  for (var first = 0u; first < params.width; first += THREADS) {
    if first + thread < params.width { top = max(top, scaled(base + first + thread)); }
  }
  terms[thread] = top;
  workgroupBarrier();
  for (var i = 0u; i < THREADS; i++) { top = max(top, terms[i]); }
  workgroupBarrier();
  let tiles = (params.width + 31u) / 32u;
  var lane = 0.0;
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
      terms[thread] = s8_tree(lo, hi);
    }
    lane = with_blocks(lane, tiles - first, thread);
  }
  let total = total_of(lane, thread);
  let inverse = recip(total);
  for (var i = thread; i < params.width; i += THREADS) {
    out[base + i] = settle(mul(exp2_(sub(scaled(base + i), top)), inverse));
  }
}
