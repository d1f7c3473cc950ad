// Causal attention of one head and row over the cache; twin of src/ops/attention.rs.
// A workgroup makes one head of one row: scores, their maximum, softmax weights, weighted values.
// needs: cache, blocks

struct Params {
  heads: u32, // query heads
  kv_heads: u32, // key and value heads; divides `heads`
  head_dim: u32, // elements per head, even
  context: u32, // scores per head in the scratch buffer
  scale: f32, // log2(e) / divisor, or 1 / (divisor * cap) where scores are capped
  cap: f32, // log2(e) * cap; 0: not capped
  window: u32, // positions that a row sees
  sinks: u32, // 1: each head has a score without a value
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read> k_cache: array<u32>;
@group(0) @binding(4) var<storage, read> v_cache: array<u32>;
@group(0) @binding(5) var<storage, read> sinks: array<f32>; // [head]
@group(0) @binding(6) var<storage, read_write> scores: array<f32>;
@group(0) @binding(7) var<storage, read_write> out: array<f32>;

override THREADS: u32 = 64u;

fn half_of(word: u32, element: u32) -> f32 { return f16_to_f32((word >> (16u * (element & 1u))) & 0xffffu); }

// The score of one position in base 2: S8 over blocks of 32 of the head dimension.
fn score(q_at: u32, position: u32, kv_at: u32) -> f32 {
  let width = params.kv_heads * params.head_dim;
  var outer_lo = vec4(0.0);
  var outer_hi = vec4(0.0);
  for (var b = 0u; b * 32u < params.head_dim; b++) {
    var lo = vec4(0.0);
    var hi = vec4(0.0);
    let count = min(32u, params.head_dim - b * 32u);
    for (var i = 0u; i < count; i++) {
      let e = b * 32u + i;
      let t = mul(r13(flush(q[q_at + e], ACTIVATION_FLOOR)), half_of(k_cache[cache_word(position, kv_at + e, width)], kv_at + e));
      lo = add_lane(lo, i & 7u, t);
      hi = add_lane(hi, (i & 7u) - 4u, t);
    }
    let t = s8_tree(lo, hi);
    outer_lo = add_lane(outer_lo, b & 7u, t);
    outer_hi = add_lane(outer_hi, (b & 7u) - 4u, t);
  }
  var s = mul(s8_tree(outer_lo, outer_hi), params.scale);
  if params.cap != 0.0 { s = mul(tanh_(s), params.cap); }
  return flush(s, ACTIVATION_FLOOR);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = group.x;
  let row = group.y;
  let count = state.position + row + 1u;
  let kv_width = params.kv_heads * params.head_dim;
  let kv_at = head / (params.heads / params.kv_heads) * params.head_dim;
  let q_at = (row * params.heads + head) * params.head_dim;
  let s_at = (group.y * params.heads + head) * params.context;
  // The first position that the row sees, the first of its tile, and of that tile's eight.
  let seen = select(0u, count - params.window, count > params.window);
  let start = seen & 0xffffffe0u;
  let eight = seen & 0xffffff00u;

  var top = -0x1p100f;
  var sink = 0.0;
  if params.sinks != 0u {
    sink = flush(mul(flush(sinks[head], WEIGHT_FLOOR), 1.442695f), ACTIVATION_FLOOR);
    top = sink;
  }
  for (var first = seen; first < count; first += THREADS) {
    let p = first + thread;
    if p < count {
      let t = score(q_at, p, kv_at);
      scores[s_at + p] = t;
      top = max(top, t);
    }
  }
  terms[thread] = top;
  workgroupBarrier();
  for (var i = 0u; i < THREADS; i++) { top = max(top, terms[i]); }
  workgroupBarrier();

  // softmax weights, and their sum: tiles of 32 positions by S8, then S8 over the tiles
  let tiles = (count + 31u) / 32u;
  var lane = 0.0;
  for (var first = eight / 32u; first < tiles; first += THREADS) {
    let tile = first + thread;
    if tile < tiles {
      var lo = vec4(0.0);
      var hi = vec4(0.0);
      let n = min(32u, count - tile * 32u);
      for (var i = 0u; i < n; i++) {
        var w = 0.0;
        if tile * 32u + i >= seen { w = r13(exp2_(sub(scores[s_at + tile * 32u + i], top))); }
        scores[s_at + tile * 32u + i] = w;
        lo = add_lane(lo, i & 7u, w);
        hi = add_lane(hi, (i & 7u) - 4u, w);
      }
      terms[thread] = s8_tree(lo, hi);
    }
    lane = with_blocks(lane, tiles - first, thread);
  }
  storageBarrier();
  var total = total_of(lane, thread);
  if params.sinks != 0u { total = add(total, r13(exp2_(sub(sink, top)))); }
  let inverse = recip(total);

  // weighted values: the same order over positions, one thread per dimension
  for (var d = thread; d < params.head_dim; d += THREADS) {
    var outer_lo = vec4(0.0);
    var outer_hi = vec4(0.0);
    for (var tile = start / 32u; tile < tiles; tile++) {
      var lo = vec4(0.0);
      var hi = vec4(0.0);
      let n = min(32u, count - tile * 32u);
      for (var i = 0u; i < n; i++) {
        let p = tile * 32u + i;
        let e = kv_at + d;
        let t = mul(scores[s_at + p], half_of(v_cache[cache_word(p, e, kv_width)], e));
        lo = add_lane(lo, i & 7u, t);
        hi = add_lane(hi, (i & 7u) - 4u, t);
      }
      let t = s8_tree(lo, hi);
      outer_lo = add_lane(outer_lo, tile & 7u, t);
      outer_hi = add_lane(outer_hi, (tile & 7u) - 4u, t);
    }
    out[q_at + d] = settle(mul(s8_tree(outer_lo, outer_hi), inverse));
  }
}
