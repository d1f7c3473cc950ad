// Queries, keys and values of one row: products behind a norm, RoPE on queries and keys, keys and values to the cache.
// The matrix has the rows of q, then k, then v; any of them may be missing. Pairs of RoPE are neighbours.
// needs: any format, items, matvec, layout, cache

override NORM: bool = true;
@group(0) @binding(6) var<storage, read_write> q: array<f32>;
@group(0) @binding(7) var<storage, read_write> k_cache: array<u32>;
@group(0) @binding(8) var<storage, read_write> v_cache: array<u32>;
@group(0) @binding(9) var<storage, read> table: array<f32>;
@group(0) @binding(10) var<storage, read> bias: array<f32>;
override HAS_BIAS: bool = false;
override ROTATES: bool = true; // whether there are rows of q or k

fn weight_row(group: u32, slot: u32) -> u32 {
  return params.first + min(group * (SLOTS8 / 8u) + slot, params.rows - 1u);
}

fn biased(slot: u32, n: u32) -> f32 {
  let y = product(slot);
  if HAS_BIAS { return settle(add(y, bias[n])); }
  return y;
}

// Elements n and n + 1 of a row of heads, rotated.
fn rotated(n: u32, y: vec2<f32>) -> vec2<f32> {
  let pair = n % params.head_dim / 2u;
  if pair >= params.pairs { return y; }
  let at = 2u * (state.position * params.pairs + pair);
  let c = table[at];
  let s = table[at + 1u];
  let a = flush(y.x, ACTIVATION_FLOOR);
  let b = flush(y.y, ACTIVATION_FLOOR);
  return vec2(settle(sub(mul(a, c), mul(b, s))), settle(add(mul(a, s), mul(b, c))));
}

fn finish(group: u32, thread: u32) {
  for (var slot = 2u * thread; slot < SLOTS8 / 8u; slot += 2u * THREADS) {
    let n = group * (SLOTS8 / 8u) + slot;
    if n < params.rows {
      var y = vec2(biased(slot, n), biased(slot + 1u, n + 1u));
      let keys = params.second; // the first row of k
      let values = params.second + params.third;
      if ROTATES && n < values { y = rotated(n - select(0u, keys, n >= keys), y); }
      if n < keys {
        q[n] = y.x;
        q[n + 1u] = y.y;
      } else {
        let word = f16_bits(y.x) | (f16_bits(y.y) << 16u);
        let at = cache_word(state.position, n - select(keys, values, n >= values), params.kv_width);
        if n < values { k_cache[at] = word; } else { v_cache[at] = word; }
      }
    }
  }
}
