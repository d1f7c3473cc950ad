// Heads of one row: a norm of each query and key, RoPE on both, keys and values to the cache; queries to another row. Twins:
// rms_norm, rope and kv_store. A workgroup takes a head: those of the queries, then of the keys, then of the values.
// needs: cache

struct Params {
  heads: u32, // query heads
  kv_heads: u32, // key heads, and value heads
  head_dim: u32, // elements per head, even and at most 256
  pairs: u32, // rotated pairs per head; 0: none
  neox: u32, // 1: pairs (i, i + pairs), 0: pairs (2i, 2i + 1)
  q_eps: f32, // of the norm of queries
  k_eps: f32, // of the norm of keys
  inverse_width: f32, // 1 / head_dim
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> q: array<f32>;
@group(0) @binding(3) var<storage, read> k: array<f32>;
@group(0) @binding(4) var<storage, read> v: array<f32>;
@group(0) @binding(5) var<storage, read> norms: array<f32>; // of queries, then of keys: head_dim weights each
@group(0) @binding(6) var<storage, read> table: array<f32>; // [position][pair][cos, sin]
@group(0) @binding(7) var<storage, read_write> out: array<f32>;
@group(0) @binding(8) var<storage, read_write> k_cache: array<u32>;
@group(0) @binding(9) var<storage, read_write> v_cache: array<u32>;

override THREADS: u32 = 64u; // always 64: a thread for each lane of eight blocks
override NORM: bool = false;
var<workgroup> values: array<f32, 256>;
var<workgroup> lanes: array<f32, 64>;

// Lane l of S8 over the squares of block b.
fn lane_of(b: u32, l: u32) -> f32 {
  var sum = 0.0;
  for (var i = l; i < min(32u, params.head_dim - b * 32u); i += 8u) {
    let x = flush(values[b * 32u + i], WEIGHT_FLOOR);
    sum = add(sum, mul(x, x));
  }
  return sum;
}
fn tree(first: u32) -> f32 {
  return s8_tree(vec4(lanes[first], lanes[first + 1u], lanes[first + 2u], lanes[first + 3u]),
                 vec4(lanes[first + 4u], lanes[first + 5u], lanes[first + 6u], lanes[first + 7u]));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let keys = params.heads;
  let all_values = params.heads + params.kv_heads;
  let is_key = group.x >= keys && group.x < all_values;
  let is_value = group.x >= all_values;
  let head = group.x - select(select(0u, keys, is_key), all_values, is_value);
  let first = head * params.head_dim;
  for (var from_ = 0u; from_ < params.head_dim; from_ += THREADS) {
    let i = from_ + thread;
    if i < params.head_dim {
      var x = 0.0;
      if is_value { x = v[first + i]; } else if is_key { x = k[first + i]; } else { x = q[first + i]; }
      values[i] = x;
    }
  }
  workgroupBarrier();
  if NORM {
    let blocks = (params.head_dim + 31u) / 32u;
    lanes[thread] = 0.0;
    if thread < 8u * blocks { lanes[thread] = lane_of(thread / 8u, thread % 8u); }
    workgroupBarrier();
    var term = 0.0;
    if thread < 8u { term = tree(8u * thread); }
    workgroupBarrier();
    if thread < 8u { lanes[thread] = term; }
    workgroupBarrier();
    let r = rsqrt(add(mul(tree(0u), params.inverse_width), select(params.q_eps, params.k_eps, is_key)));
    let weights = select(0u, params.head_dim, is_key);
    for (var from_ = 0u; from_ < params.head_dim; from_ += THREADS) {
      let i = from_ + thread;
      if i < params.head_dim && !is_value {
        let x = mul(mul(flush(values[i], WEIGHT_FLOOR), r), flush(norms[weights + i], WEIGHT_FLOOR));
        values[i] = settle(x);
      }
    }
    workgroupBarrier();
  }
  for (var from_ = 0u; from_ < params.pairs; from_ += THREADS) {
    let pair = from_ + thread;
    if pair < params.pairs && !is_value {
      let i = select(2u * pair, pair, params.neox != 0u);
      let j = i + select(1u, params.pairs, params.neox != 0u);
      let at = 2u * (state.position * params.pairs + pair);
      let a = flush(values[i], ACTIVATION_FLOOR);
      let b = flush(values[j], ACTIVATION_FLOOR);
      values[i] = settle(sub(mul(a, table[at]), mul(b, table[at + 1u])));
      values[j] = settle(add(mul(a, table[at + 1u]), mul(b, table[at])));
    }
  }
  workgroupBarrier();
  if is_key || is_value {
    for (var i = 2u * thread; i < params.head_dim; i += 2u * THREADS) {
      let word = f16_bits(values[i]) | (f16_bits(values[i + 1u]) << 16u);
      let at = cache_word(state.position, first + i, params.kv_heads * params.head_dim);
      if is_key { k_cache[at] = word; } else { v_cache[at] = word; }
    }
  } else {
    for (var i = thread; i < params.head_dim; i += THREADS) { out[first + i] = values[i]; }
  }
}
