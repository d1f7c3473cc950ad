// Attention of a single row over a long cache, second of three: softmax, and the weighted values of each tile of 32 positions by itself.
// A workgroup takes TILES tiles of one KV head, for up to 8 (HEADS) of the query heads that share it.
// needs: order, cache, heads

struct Params {
  heads: u32, // query heads
  kv_heads: u32, // key and value heads; divides `heads`
  context: u32, // scores per head, a multiple of 32
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> scores: array<f32>; // [head][position]
@group(0) @binding(3) var<storage, read> tops: array<u32>; // [head][tile], as keys
@group(0) @binding(4) var<storage, read> v4: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> sinks: array<f32>; // [head]
@group(0) @binding(6) var<storage, read_write> terms4: array<vec4<f32>>; // [tile][head][quad of dimensions]
@group(0) @binding(7) var<storage, read_write> sums: array<f32>; // of weights: [head][tile], that of the sink behind the last

override THREADS: u32 = 256u; // at least 32 for each of HEADS
override TILES: u32 = 4u;
override GROUP: u32 = 1u; // heads per KV head
override HEADS: u32 = select(8u, GROUP, GROUP < 8u);
override POSITIONS: u32 = 32u * TILES;
override WEIGHTS: u32 = POSITIONS * HEADS;
override VALUES: u32 = POSITIONS * (QUADS + 1u); // rows are padded so that neighbours lie in other banks
var<workgroup> weights: array<f32, WEIGHTS>; // [head][position]
var<workgroup> values: array<vec2<u32>, VALUES>; // [position][quad], as halves
var<workgroup> top_keys: array<atomic<u32>, HEADS>;

// One lane of S8 over a tile's positions, the first of them number `p` here: a quad of dimensions, weighed from `w` on.
fn lane_sum(w: u32, p: u32, quad: u32, lane: u32) -> vec4<f32> {
  var sum = vec4(0.0);
  for (var i = lane; i < 32u; i += 8u) {
    let v = values[(p + i) * (QUADS + 1u) + quad];
    sum = add_exact4(sum, vec4(weights[w + i]), f16x4(v.x, v.y));
  }
  return sum;
}

fn term(w: u32, p: u32, quad: u32) -> vec4<f32> {
  let even = add4(add4(lane_sum(w, p, quad, 0u), lane_sum(w, p, quad, 4u)), add4(lane_sum(w, p, quad, 2u), lane_sum(w, p, quad, 6u)));
  let odd = add4(add4(lane_sum(w, p, quad, 1u), lane_sum(w, p, quad, 5u)), add4(lane_sum(w, p, quad, 3u), lane_sum(w, p, quad, 7u)));
  return add4(even, odd);
}

fn weight_sum(w: u32) -> f32 {
  var lo = vec4(0.0);
  var hi = vec4(0.0);
  for (var i = w; i < w + 32u; i += 8u) {
    lo = add4(lo, vec4(weights[i], weights[i + 1u], weights[i + 2u], weights[i + 3u]));
    hi = add4(hi, vec4(weights[i + 4u], weights[i + 5u], weights[i + 6u], weights[i + 7u]));
  }
  return s8_tree(lo, hi);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let kv_head = workgroup.y % params.kv_heads;
  let in_group = workgroup.y / params.kv_heads * HEADS; // the first of the heads among those that share values
  let head = kv_head * GROUP + in_group;
  let heads = min(HEADS, GROUP - in_group);
  let last = state.position;
  let seen = first_seen(last);
  let tile = seen / 32u + workgroup.x * TILES;
  let tiles = min(TILES, last / 32u + 1u - tile);
  let eights = params.kv_heads * HEAD_DIM / 8u;
  for (var i = thread; i < POSITIONS * QUADS / 2u; i += THREADS) {
    let e = i / 32u % (QUADS / 2u);
    let p = i / (16u * QUADS) * 32u + i % 32u;
    let v = v4[cache_eight(min(32u * tile + p, last), kv_head * HEAD_DIM / 8u + e, eights)];
    values[p * (QUADS + 1u) + 2u * e] = v.xy;
    values[p * (QUADS + 1u) + 2u * e + 1u] = v.zw;
  }
  // The largest score of each head: some threads look at every tile.
  let lookers = THREADS / HEADS;
  let own = thread / lookers;
  var top = 0u;
  if own < heads {
    let row = (head + own) * (params.context / 32u);
    // Four are on their way at once; behind the last tile it is read again.
    let end = row + last / 32u;
    for (var t = row + seen / 32u + thread % lookers; t <= end; t += 4u * lookers) {
      let two = max(tops[t], tops[min(t + lookers, end)]);
      top = max(max(top, two), max(tops[min(t + 2u * lookers, end)], tops[min(t + 3u * lookers, end)]));
    }
    if SINKS != 0u { top = max(top, key(sink_score(sinks[head + own]))); }
  }
  if thread < HEADS { atomicStore(&top_keys[thread], 0u); }
  workgroupBarrier();
  if own < heads { atomicMax(&top_keys[own], top); }
  workgroupBarrier();
  for (var i = thread; i < POSITIONS * heads; i += THREADS) {
    let h = i / POSITIONS;
    let p = 32u * tile + i % POSITIONS;
    let w = softmax_weight(scores[(head + h) * params.context + min(p, last)], unkey(atomicLoad(&top_keys[h])));
    weights[i] = select(0.0, w, p <= last && (WINDOW == 0u || p >= seen));
  }
  workgroupBarrier();
  for (var i = thread; i < tiles * heads * QUADS; i += THREADS) {
    let quad = i % QUADS;
    let h = i / QUADS % heads;
    let t = i / (QUADS * heads);
    terms4[((tile + t) * params.heads + head + h) * QUADS + quad] = term(h * POSITIONS + 32u * t, 32u * t, quad);
  }
  let row = params.context / 32u + 1u;
  for (var i = thread; i < tiles * heads; i += THREADS) {
    sums[(head + i % heads) * row + tile + i / heads] = weight_sum(i % heads * POSITIONS + i / heads * 32u);
  }
  if SINKS != 0u && workgroup.x == 0u && thread < heads {
    let sink = softmax_weight(sink_score(sinks[head + thread]), unkey(atomicLoad(&top_keys[thread])));
    sums[(head + thread) * row + row - 1u] = sink;
  }
}
