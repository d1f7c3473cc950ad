// x = x + scale * norm(y) of one row: how a branch comes back to the stream. Twins: rms_norm, scale and add. One workgroup does it.
// needs: layout

struct Params {
  width: u32, // elements, a multiple of 32
  eps: f32, // of the norm
  inverse_width: f32, // 1 / width
  scale: f32, // what the branch is multiplied by
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> y: array<f32>;
@group(0) @binding(3) var<storage, read> weight: array<f32>;
@group(0) @binding(4) var<storage, read_write> x: array<f32>; // in the layout of items

override THREADS: u32 = 256u;
override WIDTH: u32 = 256u; // elements
override LANES: u32 = WIDTH / 4u; // lanes of S8 of all blocks
override NORM: bool = true;
override SCALED: bool = false;
var<workgroup> lanes: array<f32, LANES>;
var<workgroup> sums: array<f32, 8>;

fn tree(first: u32) -> f32 {
  return s8_tree(vec4(lanes[first], lanes[first + 1u], lanes[first + 2u], lanes[first + 3u]),
                 vec4(lanes[first + 4u], lanes[first + 5u], lanes[first + 6u], lanes[first + 7u]));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
  var r = 1.0;
  if NORM {
    for (var from_ = 0u; from_ < params.width / 4u; from_ += THREADS) {
      let t = from_ + thread;
      if t < params.width / 4u {
        let first = t / 8u * 32u + t % 8u;
        var sum = 0.0;
        for (var i = 0u; i < 32u; i += 8u) {
          let v = flush(y[first + i], WEIGHT_FLOOR);
          sum = add(sum, mul(v, v));
        }
        lanes[t] = sum;
      }
    }
    workgroupBarrier();
    if thread < 8u {
      var sum = 0.0;
      for (var b = thread; b < params.width / 32u; b += 8u) { sum = add(sum, tree(8u * b)); }
      sums[thread] = sum;
    }
    workgroupBarrier();
    let total = s8_tree(vec4(sums[0], sums[1], sums[2], sums[3]), vec4(sums[4], sums[5], sums[6], sums[7]));
    r = rsqrt(add(mul(total, params.inverse_width), params.eps));
  }
  for (var i = thread; i < params.width; i += THREADS) {
    var b = y[i];
    if NORM { b = settle(mul(mul(flush(b, WEIGHT_FLOOR), r), flush(weight[i], WEIGHT_FLOOR))); }
    if SCALED { b = settle(mul(flush(b, ACTIVATION_FLOOR), params.scale)); }
    let at = item_word(i, params.width / 16u);
    x[at] = settle(add(flush(x[at], RESULT_FLOOR), flush(b, RESULT_FLOOR)));
  }
}
