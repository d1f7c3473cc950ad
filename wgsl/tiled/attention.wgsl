// Causal attention for many rows: a workgroup takes one head and 32 rows, and reads the cache in tiles of 32 positions. Where it has no
// memory for whole heads, it takes them in parts of 64 dimensions.
// A first pass over the keys finds each row's largest score, a second one weighs the values. Tiles are taken lane by lane
// of S8, and the lanes in the order 0 4 2 6 1 5 3 7, so that the tree of their sums needs three pending values.
// needs: order, cache, heads, lanes, pending

struct Params {
  heads: u32, // query heads
  kv_heads: u32, // key and value heads; divides `heads`
  scale: f32, // of scores: `scored` in lib/heads.wgsl
  cap: f32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> q4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> k4: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> v4: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> sinks: array<f32>; // [head]
@group(0) @binding(6) var<storage, read_write> out4: array<vec4<f32>>;

override THREADS: u32 = 128u; // always 128
override PART_QUADS: u32 = QUADS; // of a part: all up to 32, or 16 of up to 64
override PARTS: u32 = QUADS / PART_QUADS;
override TILE: u32 = 32u * (PART_QUADS + 1u); // rows are padded so that neighbours lie in other banks
const SLOTS = 16u; // pending sums of a thread: quads of four rows, four times
var<workgroup> queries: array<vec4<f32>, TILE>;
var<workgroup> tile: array<vec4<f32>, TILE>; // keys, then values
var<workgroup> weights: array<f32, 1056>; // [row][position], padded
var<workgroup> top_keys: array<atomic<u32>, 32>;
var<workgroup> totals: array<f32, 32>;
var<private> pending_total: array<f32, 3>;

// A thread takes rows r, r + 8, r + 16 and r + 24, and positions p and p + 16: a component is a row.
struct Scores {
  a: vec4<f32>, // at p
  b: vec4<f32>, // at p + 16
}

// The sums of a block of 32 dimensions: products of the rows' queries with the keys of the two positions.
fn block_scores(r: u32, p: u32, b: u32) -> Scores {
  let none = vec4(0.0);
  var a0 = none; var a1 = none; var a2 = none; var a3 = none; // lanes 0 … 3 of S8 at p
  var b0 = none; var b1 = none; var b2 = none; var b3 = none; // at p + 16
  var c0 = none; var c1 = none; var c2 = none; var c3 = none; // lanes 4 … 7 at p
  var d0 = none; var d1 = none; var d2 = none; var d3 = none; // at p + 16
  let row = PART_QUADS + 1u;
  for (var j = 0u; j < 8u; j += 2u) {
    let q = r * row + 8u * b + j;
    let k = p * row + 8u * b + j;
    let k0 = tile[k];
    let k1 = tile[k + 16u * row];
    let q0 = queries[q];
    let q1 = queries[q + 8u * row];
    let q2 = queries[q + 16u * row];
    let q3 = queries[q + 24u * row];
    a0 = add_exact4(a0, q0, k0);
    a1 = add_exact4(a1, q1, k0);
    a2 = add_exact4(a2, q2, k0);
    a3 = add_exact4(a3, q3, k0);
    b0 = add_exact4(b0, q0, k1);
    b1 = add_exact4(b1, q1, k1);
    b2 = add_exact4(b2, q2, k1);
    b3 = add_exact4(b3, q3, k1);
    let m0 = tile[k + 1u];
    let m1 = tile[k + 16u * row + 1u];
    let n0 = queries[q + 1u];
    let n1 = queries[q + 8u * row + 1u];
    let n2 = queries[q + 16u * row + 1u];
    let n3 = queries[q + 24u * row + 1u];
    c0 = add_exact4(c0, n0, m0);
    c1 = add_exact4(c1, n1, m0);
    c2 = add_exact4(c2, n2, m0);
    c3 = add_exact4(c3, n3, m0);
    d0 = add_exact4(d0, n0, m1);
    d1 = add_exact4(d1, n1, m1);
    d2 = add_exact4(d2, n2, m1);
    d3 = add_exact4(d3, n3, m1);
  }
  return Scores(vec4(s8_tree(a0, c0), s8_tree(a1, c1), s8_tree(a2, c2), s8_tree(a3, c3)),
                vec4(s8_tree(b0, d0), s8_tree(b1, d1), s8_tree(b2, d2), s8_tree(b3, d3)));
}

fn scored4(product: vec4<f32>) -> vec4<f32> {
  let s = mul4(product, vec4(params.scale));
  if CAPPED == 0u { return flush4(s, ACTIVATION_FLOOR); }
  let capped = mul4(vec4(tanh_(s.x), tanh_(s.y), tanh_(s.z), tanh_(s.w)), vec4(params.cap));
  return flush4(capped, ACTIVATION_FLOOR);
}

fn plus(a: Scores, b: Scores) -> Scores { return Scores(add4(a.a, b.a), add4(a.b, b.b)); }

// Sums of lanes of S8 over the blocks of a head: of lanes 0 and 4, and so on. A lane has one block at most, as heads have eight.
struct Lanes {
  l0: Scores,
  l1: Scores,
  l2: Scores,
  l3: Scores,
}

// Adds a part's blocks: all of a head's, or two.
fn with_part(sums: Lanes, part: u32, r: u32, p: u32) -> Lanes {
  var l = sums;
  let first = block_scores(r, p, 0u);
  if PARTS == 1u {
    l.l0 = first;
    if PART_QUADS > 16u { l.l0 = plus(first, block_scores(r, p, 2u)); }
    if PART_QUADS > 8u { l.l1 = block_scores(r, p, 1u); }
    if PART_QUADS > 24u { l.l1 = plus(l.l1, block_scores(r, p, 3u)); }
    return l;
  }
  let second = block_scores(r, p, 1u);
  if (part & 1u) == 0u {
    l.l0 = plus(l.l0, first);
    l.l1 = plus(l.l1, second);
  } else {
    l.l2 = plus(l.l2, first);
    l.l3 = plus(l.l3, second);
  }
  return l;
}

fn no_lanes() -> Lanes {
  let none = Scores(vec4(0.0), vec4(0.0));
  return Lanes(none, none, none, none);
}

fn scores(l: Lanes) -> Scores {
  var s = l.l0;
  if PARTS > 1u { s = plus(s, l.l2); }
  if PART_QUADS > 8u {
    var odd = l.l1;
    if PARTS > 1u { odd = plus(odd, l.l3); }
    s = plus(s, odd);
  }
  return Scores(scored4(s.a), scored4(s.b));
}

// One lane of S8 over the tile's positions: four dimensions of the four rows.
fn lane_sum(r: u32, quad: u32, lane: u32) -> Quads {
  var sum = Quads(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
  for (var p = lane; p < 32u; p += 8u) {
    let v = tile[p * (PART_QUADS + 1u) + quad];
    let w = r * 33u + p;
    sum.t0 = add_exact4(sum.t0, vec4(weights[w]), v);
    sum.t1 = add_exact4(sum.t1, vec4(weights[w + 264u]), v);
    sum.t2 = add_exact4(sum.t2, vec4(weights[w + 528u]), v);
    sum.t3 = add_exact4(sum.t3, vec4(weights[w + 792u]), v);
  }
  return sum;
}

// The weighted values of the rows over the tile.
fn weighted(r: u32, quad: u32) -> Quads {
  let even = both(both(lane_sum(r, quad, 0u), lane_sum(r, quad, 4u)), both(lane_sum(r, quad, 2u), lane_sum(r, quad, 6u)));
  let odd = both(both(lane_sum(r, quad, 1u), lane_sum(r, quad, 5u)), both(lane_sum(r, quad, 3u), lane_sum(r, quad, 7u)));
  return both(even, odd);
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

// Words of a part of 32 positions of keys or values on their way: up to four times eight elements of a thread.
struct Words {
  a: vec4<u32>,
  b: vec4<u32>,
  c: vec4<u32>,
  d: vec4<u32>,
}
// Where the eight elements `i` of tile `t` are; behind the last position that is read again, and its weight is 0.
fn place(i: u32, t: u32, last: u32, at: u32) -> u32 {
  return cache_eight(min(32u * t + i % 32u, last), at + i / 32u, params.kv_heads * QUADS / 2u);
}
fn fetch_keys(thread: u32, t: u32, last: u32, at: u32) -> Words {
  var w: Words;
  w.a = k4[place(thread, t, last, at)];
  if PART_QUADS > 8u { w.b = k4[place(thread + THREADS, t, last, at)]; }
  if PART_QUADS > 16u { w.c = k4[place(thread + 2u * THREADS, t, last, at)]; }
  if PART_QUADS > 24u { w.d = k4[place(thread + 3u * THREADS, t, last, at)]; }
  return w;
}
fn fetch_values(thread: u32, t: u32, last: u32, at: u32) -> Words {
  var w: Words;
  w.a = v4[place(thread, t, last, at)];
  if PART_QUADS > 8u { w.b = v4[place(thread + THREADS, t, last, at)]; }
  if PART_QUADS > 16u { w.c = v4[place(thread + 2u * THREADS, t, last, at)]; }
  if PART_QUADS > 24u { w.d = v4[place(thread + 3u * THREADS, t, last, at)]; }
  return w;
}
fn put(i: u32, words: vec4<u32>) {
  let at = i % 32u * (PART_QUADS + 1u) + i / 32u * 2u;
  tile[at] = f16x4(words.x, words.y);
  tile[at + 1u] = f16x4(words.z, words.w);
}
fn put_all(thread: u32, w: Words) {
  put(thread, w.a);
  if PART_QUADS > 8u { put(thread + THREADS, w.b); }
  if PART_QUADS > 16u { put(thread + 2u * THREADS, w.c); }
  if PART_QUADS > 24u { put(thread + 3u * THREADS, w.d); }
}

// Rounds a part of the queries; row `first` of the batch is the first of `rows`.
fn put_queries(thread: u32, head: u32, first: u32, rows: u32, part: u32) {
  for (var i = thread; i < 32u * PART_QUADS; i += THREADS) {
    let row = first + min(i / PART_QUADS, rows - 1u);
    let quad = i % PART_QUADS;
    queries[i / PART_QUADS * (PART_QUADS + 1u) + quad] = query(q4[(row * params.heads + head) * QUADS + part * PART_QUADS + quad]);
  }
}

fn store(row: u32, rows: u32, at: u32, sum: vec4<f32>) {
  if row >= rows { return; }
  out4[row * params.heads * QUADS + at] = settle4(mul4(sum, vec4(recip(totals[row]))));
}

// The quad of the four rows of a thread, where heads have it.
fn store_rows(r: u32, rows: u32, quad: u32, at: u32, sums: Quads) {
  if quad >= QUADS { return; }
  store(r, rows, at, sums.t0);
  store(r + 8u, rows, at, sums.t1);
  store(r + 16u, rows, at, sums.t2);
  store(r + 24u, rows, at, sums.t3);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = group.x;
  let kv_at = head / (params.heads / params.kv_heads) * QUADS / 2u;
  let first = 32u * group.y; // row of the batch
  let rows = min(32u, state.rows - first);
  let seen = state.position + first; // the last position that the first row sees
  let last = seen + rows - 1u;
  // Tiles are counted from the first eight that the first row sees.
  let start = first_eight(seen) / 32u;
  let tiles = last / 32u + 1u - start;
  if PARTS == 1u { put_queries(thread, head, first, rows, 0u); }
  var sink = 0.0;
  if SINKS != 0u { sink = sink_score(sinks[head]); }
  if thread < 32u { atomicStore(&top_keys[thread], select(0u, key(sink), SINKS != 0u)); }

  let r = thread >> 4u;
  let p = thread & 15u;
  let at_row = vec4(seen + r) + vec4(0u, 8u, 16u, 24u);
  let sees = at_row - vec4(32u * start); // the last position that each row sees, and the first
  let sees_first = vec4(first_seen(at_row.x), first_seen(at_row.y), first_seen(at_row.z), first_seen(at_row.w)) - vec4(32u * start);
  var tops = vec4(0u);
  var words = fetch_keys(thread, start, last, kv_at);
  let part_eights = PART_QUADS / 2u;
  for (var t = 0u; t < tiles; t++) {
    var lanes = no_lanes();
    for (var part = 0u; part < PARTS; part++) {
      workgroupBarrier();
      put_all(thread, words);
      if PARTS > 1u { put_queries(thread, head, first, rows, part); }
      let is_last = part + 1u == PARTS;
      let next = select(t, min(t + 1u, tiles - 1u), is_last);
      words = fetch_keys(thread, start + next, last, kv_at + select(part + 1u, 0u, is_last) * part_eights);
      workgroupBarrier();
      lanes = with_part(lanes, part, r, p);
    }
    let s = scores(lanes);
    let a = vec4(key(s.a.x), key(s.a.y), key(s.a.z), key(s.a.w));
    let b = vec4(key(s.b.x), key(s.b.y), key(s.b.z), key(s.b.w));
    let at_a = vec4(32u * t + p);
    let at_b = at_a + vec4(16u);
    tops = max(tops, select(vec4(0u), a, (at_a <= sees) & (at_a >= sees_first)));
    tops = max(tops, select(vec4(0u), b, (at_b <= sees) & (at_b >= sees_first)));
  }
  atomicMax(&top_keys[r], tops.x);
  atomicMax(&top_keys[r + 8u], tops.y);
  atomicMax(&top_keys[r + 16u], tops.z);
  atomicMax(&top_keys[r + 24u], tops.w);
  workgroupBarrier();
  let top = vec4(unkey(atomicLoad(&top_keys[r])), unkey(atomicLoad(&top_keys[r + 8u])),
                 unkey(atomicLoad(&top_keys[r + 16u])), unkey(atomicLoad(&top_keys[r + 24u])));

  let none = Quads(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
  // Of quad p, p + 16, and so on.
  var sums0 = none;
  var sums1 = none;
  var sums2 = none;
  var sums3 = none;
  var total = 0.0;
  words = fetch_keys(thread, start, last, kv_at);
  for (var order = 0u; order < 8u; order++) {
    for (var t = lane_at(order); t < tiles; t += 8u) {
      var lanes = no_lanes();
      for (var part = 0u; part < PARTS; part++) {
        workgroupBarrier();
        put_all(thread, words);
        if PARTS > 1u { put_queries(thread, head, first, rows, part); }
        if part + 1u < PARTS {
          words = fetch_keys(thread, start + t, last, kv_at + (part + 1u) * part_eights);
        } else {
          words = fetch_values(thread, start + t, last, kv_at);
        }
        workgroupBarrier();
        lanes = with_part(lanes, part, r, p);
      }
      let s = scores(lanes);
      let at = r * 33u + p;
      for (var i = 0u; i < 4u; i++) {
        var a = 0.0;
        var b = 0.0;
        let at_p = 32u * t + p;
        if at_p <= sees[i] && at_p >= sees_first[i] { a = softmax_weight(s.a[i], top[i]); }
        if at_p + 16u <= sees[i] && at_p + 16u >= sees_first[i] { b = softmax_weight(s.b[i], top[i]); }
        weights[at + 264u * i] = a;
        weights[at + 264u * i + 16u] = b;
      }
      for (var part = 0u; part < PARTS; part++) {
        workgroupBarrier();
        put_all(thread, words);
        if part + 1u < PARTS {
          words = fetch_values(thread, start + t, last, kv_at + (part + 1u) * part_eights);
        } else {
          words = fetch_keys(thread, start + after(Place(t, order), tiles).b, last, kv_at);
        }
        workgroupBarrier();
        if part == 0u && thread < 32u { total = add(total, weight_sum(thread)); }
        if p < PART_QUADS {
          let w = weighted(r, p);
          if part == 0u { sums0 = both(sums0, w); }
          if PARTS > 1u && part == 1u { sums1 = both(sums1, w); }
          if PARTS > 2u && part == 2u { sums2 = both(sums2, w); }
          if PARTS > 3u && part == 3u { sums3 = both(sums3, w); }
        }
        if PARTS == 1u && p + 16u < PART_QUADS { sums1 = both(sums1, weighted(r, p + 16u)); }
      }
    }
    sums0 = merged_quads(order, 0u, sums0);
    if QUADS > 16u { sums1 = merged_quads(order, 4u, sums1); }
    if QUADS > 32u { sums2 = merged_quads(order, 8u, sums2); }
    if QUADS > 48u { sums3 = merged_quads(order, 12u, sums3); }
    total = merged_total(order, total);
  }
  if thread < 32u {
    if SINKS != 0u { total = add(total, softmax_weight(sink, unkey(atomicLoad(&top_keys[thread])))); }
    totals[thread] = total;
  }
  workgroupBarrier();
  let at = first * params.heads * QUADS + head * QUADS + p;
  store_rows(r, rows, p, at, sums0);
  if QUADS > 16u { store_rows(r, rows, p + 16u, at + 16u, sums1); }
  if QUADS > 32u { store_rows(r, rows, p + 32u, at + 32u, sums2); }
  if QUADS > 48u { store_rows(r, rows, p + 48u, at + 48u, sums3); }
}
