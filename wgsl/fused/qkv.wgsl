// Queries, keys and values of a row: products behind a norm, RoPE on queries and keys, keys and values to the cache.
// The matrix has the rows of q, then k, then v; any of them may be missing. Pairs of RoPE are neighbours, or with NEOX halves.
// needs: cache

override NORM: bool = true;
@group(0) @binding(6) var<storage, read_write> q: array<f32>;
@group(0) @binding(7) var<storage, read_write> k_cache: array<u32>;
@group(0) @binding(8) var<storage, read_write> v_cache: array<u32>;
@group(0) @binding(9) var<storage, read> table: array<f32>;
@group(0) @binding(10) var<storage, read> bias: array<f32>;
override HAS_BIAS: bool = false;
override ROTATES: bool = true; // whether there are rows of q or k
override NEOX: bool = false; // pairs (i, i + pairs); then a workgroup has a multiple of four slots, and a head an even number of pairs

// The row of the matrix that the slot number n of all workgroups takes. Of halves, four slots have both elements of two pairs:
// i, i + 1, i + pairs, i + pairs + 1.
fn row_of(n: u32) -> u32 {
  let r = n % params.head_dim;
  if !NEOX || n >= params.second + params.third || r >= 2u * params.pairs { return n; }
  return n - r + r / 4u * 2u + (r & 1u) + ((r >> 1u) & 1u) * params.pairs;
}

fn weight_row(group: u32, slot: u32) -> u32 {
  return params.first + row_of(min(group * (SLOTS8 / 8u) + slot, params.rows - 1u));
}

fn biased(slot: u32, n: u32) -> f32 {
  let y = product(slot);
  if HAS_BIAS { return settle(add(y, bias[n])); }
  return y;
}

// A pair of a head, rotated.
fn rotated(pair: u32, y: vec2<f32>) -> vec2<f32> {
  if pair >= params.pairs { return y; }
  let at = 2u * ((state.position + token()) * params.pairs + pair);
  let c = table[at];
  let s = table[at + 1u];
  let a = flush(y.x, ACTIVATION_FLOOR);
  let b = flush(y.y, ACTIVATION_FLOOR);
  return vec2(settle(sub(mul(a, c), mul(b, s))), settle(add(mul(a, s), mul(b, c))));
}

// Stores the elements n and n + 1.
fn store(n: u32, y: vec2<f32>) {
  let keys = params.second; // the first row of k
  let values = params.second + params.third;
  if n < keys {
    q[token() * keys + n] = y.x;
    q[token() * keys + n + 1u] = y.y;
  } else {
    let word = f16_bits(y.x) | (f16_bits(y.y) << 16u);
    let at = cache_word(state.position + token(), n - select(keys, values, n >= values), params.kv_width);
    if n < values { k_cache[at] = word; } else { v_cache[at] = word; }
  }
}

fn finish(group: u32, thread: u32) {
  let slots = SLOTS8 / 8u;
  let values = params.second + params.third;
  let each = select(2u, 4u, NEOX);
  for (var slot = each * thread; slot < slots; slot += each * STEP) {
    let n = group * slots + slot;
    if n < params.rows {
      let first = row_of(n);
      let pair = n % params.head_dim / 2u;
      let turns = ROTATES && n < values;
      var y = vec2(biased(slot, first), biased(slot + 1u, first + 1u));
      if NEOX {
        let second = row_of(n + 2u);
        var z = vec2(biased(slot + 2u, second), biased(slot + 3u, second + 1u));
        if turns {
          let a = rotated(pair, vec2(y.x, z.x));
          let b = rotated(pair + 1u, vec2(y.y, z.y));
          y = vec2(a.x, b.x);
          z = vec2(a.y, b.y);
        }
        store(second, z);
      } else if turns {
        y = rotated(pair, y);
      }
      store(first, y);
    }
  }
}
