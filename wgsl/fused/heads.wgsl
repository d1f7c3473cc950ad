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

override THREADS: u32 = 64u; // as many as a head has elements, and at least 64: a thread for each lane of eight blocks
override NORM: bool = false;
var<workgroup> values: array<f32, THREADS>;
var<workgroup> lanes: array<f32, 64>;
var<workgroup> terms: array<f32, 8>;

// Lane l of S8 over the squares of block b.
fn lane_of(b: u32, l: u32) -> f32 {
  var sum = 0.0;
  for (var i = l; i < min(32u, params.head_dim - b * 32u); i += 8u) {
    let x = flush(values[b * 32u + i], WEIGHT_FLOOR);
    sum = add(sum, mul(x, x));
  }
  return sum;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let keys = params.heads;
  let all_values = params.heads + params.kv_heads;
  let is_key = group.x >= keys && group.x < all_values;
  let is_value = group.x >= all_values;
  let head = group.x - select(select(0u, keys, is_key), all_values, is_value);
  let first = head * params.head_dim;
  let turns = thread < params.pairs && !is_value;
  // All that a thread reads is on its way at once.
  let n = min(thread, params.head_dim - 1u);
  var x = 0.0;
  if is_value { x = v[first + n]; } else if is_key { x = k[first + n]; } else { x = q[first + n]; }
  var weight = 1.0;
  if NORM { weight = norms[select(0u, params.head_dim, is_key) + n]; }
  var cosine = 1.0;
  var sine = 0.0;
  if turns {
    let at = 2u * (state.position * params.pairs + thread);
    cosine = table[at];
    sine = table[at + 1u];
  }
  values[thread] = x;
  workgroupBarrier();
  if NORM {
    let blocks = (params.head_dim + 31u) / 32u;
    if thread < 64u {
      var lane = 0.0;
      if thread < 8u * blocks { lane = lane_of(thread / 8u, thread % 8u); }
      lanes[thread] = lane;
    }
    workgroupBarrier();
    if thread < 8u {
      let at = 8u * thread;
      terms[thread] = s8_tree(vec4(lanes[at], lanes[at + 1u], lanes[at + 2u], lanes[at + 3u]),
                              vec4(lanes[at + 4u], lanes[at + 5u], lanes[at + 6u], lanes[at + 7u]));
    }
    workgroupBarrier();
    let total = s8_tree(vec4(terms[0], terms[1], terms[2], terms[3]), vec4(terms[4], terms[5], terms[6], terms[7]));
    let r = rsqrt(add(mul(total, params.inverse_width), select(params.q_eps, params.k_eps, is_key)));
    if !is_value { values[thread] = settle(mul(mul(flush(x, WEIGHT_FLOOR), r), flush(weight, WEIGHT_FLOOR))); }
    workgroupBarrier();
  }
  if turns {
    let i = select(2u * thread, thread, params.neox != 0u);
    let j = i + select(1u, params.pairs, params.neox != 0u);
    let a = flush(values[i], ACTIVATION_FLOOR);
    let b = flush(values[j], ACTIVATION_FLOOR);
    values[i] = settle(sub(mul(a, cosine), mul(b, sine)));
    values[j] = settle(add(mul(a, sine), mul(b, cosine)));
  }
  workgroupBarrier();
  if is_key || is_value {
    let i = 2u * thread;
    if i < params.head_dim {
      let word = f16_bits(values[i]) | (f16_bits(values[i + 1u]) << 16u);
      let at = cache_word(state.position, first + i, params.kv_heads * params.head_dim);
      if is_key { k_cache[at] = word; } else { v_cache[at] = word; }
    }
  } else if thread < params.head_dim {
    out[first + thread] = values[thread];
  }
}
