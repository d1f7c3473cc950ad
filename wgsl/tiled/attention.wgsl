// Causal attention for many rows: a workgroup takes one head and 32 rows, and reads the cache in tiles of 32 positions.
// A first pass over the keys finds each row's largest score, a second one weighs the values. Tiles are taken lane by lane
// of S8, and the lanes in the order 0 4 2 6 1 5 3 7, so that the tree of their sums needs three pending values.
// needs: heads

struct Params {
  heads: u32,
  kv_heads: u32,
  scale: f32, // log2(e) / sqrt(head_dim)
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> q4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> k2: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read> v2: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read_write> out4: array<vec4<f32>>;

override TILE: u32 = 288u; // 32 * (QUADS + 1): rows are padded so that neighbours lie in other banks
override PARTS: u32 = 1u; // quads of the output that a thread makes for each of two rows: 1 up to a head of 64, then 2
var<workgroup> queries: array<vec4<f32>, TILE>;
var<workgroup> tile: array<vec4<f32>, TILE>; // keys, then values
var<workgroup> weights: array<f32, 1056>; // [row][position], padded
var<workgroup> top_keys: array<atomic<u32>, 32>;
var<workgroup> totals: array<f32, 32>;
var<private> pending: array<vec4<f32>, 24>; // [level][slot]
var<private> pending_total: array<f32, 3>;

fn lane_at(i: u32) -> u32 { return ((i & 1u) << 2u) | (i & 2u) | (i >> 2u); }

// The score of a row of the tile of queries at a position of the tile of keys.
fn score(row: u32, p: u32) -> f32 {
  var sums = Outer(vec4(0.0), vec4(0.0));
  let q = row * (QUADS + 1u);
  let k = p * (QUADS + 1u);
  for (var b = 0u; b < QUADS / 8u; b++) {
    var lo = vec4(0.0);
    var hi = vec4(0.0);
    for (var j = 0u; j < 4u; j++) {
      let at = 8u * b + 2u * j;
      lo = add_exact4(lo, queries[q + at], tile[k + at]);
      hi = add_exact4(hi, queries[q + at + 1u], tile[k + at + 1u]);
    }
    sums = with_block(sums, b, s8_tree(lo, hi));
  }
  return flush(mul(s8_tree(sums.lo, sums.hi), params.scale), ACTIVATION_FLOOR);
}

fn eight(row: u32, quad: u32, lane: u32) -> vec4<f32> {
  let w = row * 33u + lane;
  let v = lane * (QUADS + 1u) + quad;
  let next = 8u * (QUADS + 1u);
  var sum = add_exact4(vec4(0.0), vec4(weights[w]), tile[v]);
  sum = add_exact4(sum, vec4(weights[w + 8u]), tile[v + next]);
  sum = add_exact4(sum, vec4(weights[w + 16u]), tile[v + 2u * next]);
  return add_exact4(sum, vec4(weights[w + 24u]), tile[v + 3u * next]);
}

// The weighted values of a row over the tile, for four dimensions.
fn weighted(row: u32, quad: u32) -> vec4<f32> {
  let even = add4(add4(eight(row, quad, 0u), eight(row, quad, 4u)), add4(eight(row, quad, 2u), eight(row, quad, 6u)));
  let odd = add4(add4(eight(row, quad, 1u), eight(row, quad, 5u)), add4(eight(row, quad, 3u), eight(row, quad, 7u)));
  return add4(even, odd);
}

// The sum of a row's weights over the tile.
fn weight_sum(row: u32) -> f32 {
  var lo = vec4(0.0);
  var hi = vec4(0.0);
  for (var j = 0u; j < 4u; j++) {
    let at = row * 33u + 8u * j;
    lo = add4(lo, vec4(weights[at], weights[at + 1u], weights[at + 2u], weights[at + 3u]));
    hi = add4(hi, vec4(weights[at + 4u], weights[at + 5u], weights[at + 6u], weights[at + 7u]));
  }
  return s8_tree(lo, hi);
}

// The sum of lane number `i` in order joins the pending ones in slot `slot`; the last returns the total.
fn merged(i: u32, slot: u32, sum0: vec4<f32>) -> vec4<f32> {
  var sum = sum0;
  var level = 0u;
  for (var n = i; (n & 1u) == 1u; n >>= 1u) {
    sum = add4(pending[level * 8u + slot], sum);
    level++;
  }
  if i == 7u { return sum; }
  pending[level * 8u + slot] = sum;
  return vec4(0.0);
}
fn merged_total(i: u32, sum0: f32) -> f32 {
  var sum = sum0;
  var level = 0u;
  for (var n = i; (n & 1u) == 1u; n >>= 1u) {
    sum = add(pending_total[level], sum);
    level++;
  }
  if i == 7u { return sum; }
  pending_total[level] = sum;
  return 0.0;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = group.x;
  let kv_head = head / (params.heads / params.kv_heads);
  let first = 32u * group.y; // row of the batch
  let rows = min(32u, state.rows - first);
  let last = state.position + state.row0 + first + rows - 1u; // the last position that any row sees
  let tiles = last / 32u + 1u;
  let cache_row = params.kv_heads * QUADS;
  for (var i = thread; i < 32u * QUADS; i += THREADS) {
    let row = state.row0 + first + min(i / QUADS, rows - 1u);
    queries[i / QUADS * (QUADS + 1u) + i % QUADS] = query(q4[(row * params.heads + head) * QUADS + i % QUADS]);
  }
  if thread < 32u { atomicStore(&top_keys[thread], 0u); }

  // Each thread makes the scores of two rows at two positions.
  let row0 = thread >> 4u;
  let p0 = thread & 15u;
  let seen0 = state.position + state.row0 + first + row0; // the last position of this thread's first row; the second's is 16 on
  var top0 = 0u;
  var top1 = 0u;
  for (var t = 0u; t < tiles; t++) {
    workgroupBarrier();
    load_keys(thread, t, last, kv_head, cache_row);
    workgroupBarrier();
    for (var h = 0u; h < 2u; h++) {
      let p = p0 + 16u * h;
      if 32u * t + p <= seen0 { top0 = max(top0, key(score(row0, p))); }
      if 32u * t + p <= seen0 + 16u { top1 = max(top1, key(score(row0 + 16u, p))); }
    }
  }
  atomicMax(&top_keys[row0], top0);
  atomicMax(&top_keys[row0 + 16u], top1);
  workgroupBarrier();
  let max0 = unkey(atomicLoad(&top_keys[row0]));
  let max1 = unkey(atomicLoad(&top_keys[row0 + 16u]));

  var a0 = vec4(0.0); var a1 = vec4(0.0); var a2 = vec4(0.0); var a3 = vec4(0.0);
  var total = 0.0;
  let quad = thread & 15u;
  for (var order = 0u; order < 8u; order++) {
    for (var t = lane_at(order); t < tiles; t += 8u) {
      workgroupBarrier();
      load_keys(thread, t, last, kv_head, cache_row);
      workgroupBarrier();
      for (var h = 0u; h < 2u; h++) {
        let p = p0 + 16u * h;
        var w0 = 0.0;
        var w1 = 0.0;
        if 32u * t + p <= seen0 { w0 = softmax_weight(score(row0, p), max0); }
        if 32u * t + p <= seen0 + 16u { w1 = softmax_weight(score(row0 + 16u, p), max1); }
        weights[row0 * 33u + p] = w0;
        weights[(row0 + 16u) * 33u + p] = w1;
      }
      workgroupBarrier();
      load_values(thread, t, last, kv_head, cache_row);
      workgroupBarrier();
      if thread < 32u { total = add(total, weight_sum(thread)); }
      if quad < QUADS {
        a0 = add4(a0, weighted(row0, quad));
        a1 = add4(a1, weighted(row0 + 16u, quad));
      }
      if PARTS > 1u && quad + 16u < QUADS {
        a2 = add4(a2, weighted(row0, quad + 16u));
        a3 = add4(a3, weighted(row0 + 16u, quad + 16u));
      }
    }
    a0 = merged(order, 0u, a0);
    a1 = merged(order, 1u, a1);
    if PARTS > 1u {
      a2 = merged(order, 2u, a2);
      a3 = merged(order, 3u, a3);
    }
    total = merged_total(order, total);
  }
  if thread < 32u { totals[thread] = total; }
  workgroupBarrier();
  if row0 < rows {
    let inverse = vec4(recip(totals[row0]));
    let at = ((state.row0 + first + row0) * params.heads + head) * QUADS + quad;
    if quad < QUADS { out4[at] = settle4(mul4(a0, inverse)); }
    if PARTS > 1u && quad + 16u < QUADS { out4[at + 16u] = settle4(mul4(a2, inverse)); }
  }
  if row0 + 16u < rows {
    let inverse = vec4(recip(totals[row0 + 16u]));
    let at = ((state.row0 + first + row0 + 16u) * params.heads + head) * QUADS + quad;
    if quad < QUADS { out4[at] = settle4(mul4(a1, inverse)); }
    if PARTS > 1u && quad + 16u < QUADS { out4[at + 16u] = settle4(mul4(a3, inverse)); }
  }
}

// Keys or values of 32 positions; behind the last one it is read again, and its weight is 0.
fn load_keys(thread: u32, t: u32, last: u32, kv_head: u32, cache_row: u32) {
  for (var i = thread; i < 32u * QUADS; i += THREADS) {
    let k = k2[min(32u * t + i / QUADS, last) * cache_row + kv_head * QUADS + i % QUADS];
    tile[i / QUADS * (QUADS + 1u) + i % QUADS] = f16x4(k.x, k.y);
  }
}
fn load_values(thread: u32, t: u32, last: u32, kv_head: u32, cache_row: u32) {
  for (var i = thread; i < 32u * QUADS; i += THREADS) {
    let v = v2[min(32u * t + i / QUADS, last) * cache_row + kv_head * QUADS + i % QUADS];
    tile[i / QUADS * (QUADS + 1u) + i % QUADS] = f16x4(v.x, v.y);
  }
}
