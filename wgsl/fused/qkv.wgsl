// Queries, keys and values of one row: products behind a norm, RoPE on queries and keys, keys and values to the cache.
// The matrix has the rows of q, then k, then v; any of them may be missing. Pairs of RoPE are neighbours.
// needs: format, dots, items, matvec, layout

const NORM = true;
@group(0) @binding(6) var<storage, read_write> q: array<f32>;
@group(0) @binding(7) var<storage, read_write> k_cache: array<u32>;
@group(0) @binding(8) var<storage, read_write> v_cache: array<u32>;
@group(0) @binding(9) var<storage, read> table: array<f32>;
@group(0) @binding(10) var<storage, read> bias: array<f32>;
override HAS_BIAS: bool = false;

fn weight_row(group: u32, slot: u32) -> u32 {
  return params.first + min(group * (SLOTS8 / 8u) + slot, params.rows - 1u);
}

fn biased(slot: u32, n: u32) -> f32 {
  let y = product(slot);
  if HAS_BIAS { return settle(add(y, bias[n])); }
  return y;
}

// Elements n and n + 1 of a row of heads, rotated.
fn rotated(n: u32, a0: f32, b0: f32) -> vec2<f32> {
  let pair = n % params.head_dim / 2u;
  if pair >= params.pairs { return vec2(a0, b0); }
  let at = 2u * (state.position * params.pairs + pair);
  let c = table[at];
  let s = table[at + 1u];
  let a = flush(a0, ACTIVATION_FLOOR);
  let b = flush(b0, ACTIVATION_FLOOR);
  return vec2(settle(sub(mul(a, c), mul(b, s))), settle(add(mul(a, s), mul(b, c))));
}

fn packed(y: vec2<f32>) -> u32 { return f16_bits(y.x) | (f16_bits(y.y) << 16u); }

fn finish(group: u32, thread: u32) {
  for (var slot = 2u * thread; slot < SLOTS8 / 8u; slot += 2u * THREADS) {
    let n = group * (SLOTS8 / 8u) + slot;
    if n < params.rows {
      let a = biased(slot, n);
      let b = biased(slot + 1u, n + 1u);
      let cache = state.position * params.kv_width;
      if n < params.second {
        let y = rotated(n, a, b);
        q[n] = y.x;
        q[n + 1u] = y.y;
      } else if n < params.second + params.third {
        let at = n - params.second;
        k_cache[(cache + at) / 2u] = packed(rotated(at, a, b));
      } else {
        let at = n - params.second - params.third;
        v_cache[(cache + at) / 2u] = packed(vec2(a, b));
      }
    }
  }
}
