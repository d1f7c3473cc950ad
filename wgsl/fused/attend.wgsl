// Attention of each row over a short cache: a workgroup takes a row, a head, and PART dimensions of its values; a thread takes
// 32 / PART positions. Scores, softmax and weighted values at once; every workgroup of a head computes its scores again.
// needs: order, cache, heads, layout, values

struct Params {
  heads: u32, // query heads
  kv_heads: u32, // key and value heads; divides `heads`
  scale: f32, // of scores: `scored` in lib/heads.wgsl
  cap: f32,
  items: u32, // of the output row
  blocks: u32, // HEAD_DIM / 32; no constant, so that compilers do not unroll: long code does not fit an instruction cache
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> q4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> k4: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> v4: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> sinks: array<f32>; // [head]
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

var<workgroup> query4: array<vec4<f32>, QUADS>;

fn key_block(at: u32) -> Words { return Words(k4[at], k4[at + 32u], k4[at + 64u], k4[at + 96u]); }

fn score(k_at: u32, first: Words) -> f32 {
  var sums = Outer(vec4(0.0), vec4(0.0));
  var next = first;
  for (var b = 0u; b < params.blocks; b++) {
    let k = next;
    next = key_block(k_at + 128u * min(b + 1u, params.blocks - 1u));
    var lo = vec4(0.0);
    var hi = vec4(0.0);
    lo = add_exact4(lo, query4[8u * b], f16x4(k.a.x, k.a.y));
    hi = add_exact4(hi, query4[8u * b + 1u], f16x4(k.a.z, k.a.w));
    lo = add_exact4(lo, query4[8u * b + 2u], f16x4(k.b.x, k.b.y));
    hi = add_exact4(hi, query4[8u * b + 3u], f16x4(k.b.z, k.b.w));
    lo = add_exact4(lo, query4[8u * b + 4u], f16x4(k.c.x, k.c.y));
    hi = add_exact4(hi, query4[8u * b + 5u], f16x4(k.c.z, k.c.w));
    lo = add_exact4(lo, query4[8u * b + 6u], f16x4(k.d.x, k.d.y));
    hi = add_exact4(hi, query4[8u * b + 7u], f16x4(k.d.z, k.d.w));
    sums = with_block(sums, b, s8_tree(lo, hi));
  }
  return scored(s8_tree(sums.lo, sums.hi), params.scale, params.cap);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  token = group.z;
  let position = state.position + token;
  let head = group.x;
  let eights = params.kv_heads * HEAD_DIM / 8u;
  let kv_at = head / (params.heads / params.kv_heads) * HEAD_DIM / 8u;
  // The first words are on their way before they are needed. Threads behind the last position take it again.
  let seen = first_seen(position);
  let start = first_eight(position);
  var k_at = cache_eight(min(start + thread, position), kv_at, eights);
  var keys = key_block(k_at);
  let values = value_words(thread, start, kv_at + group.y * (PART / 8u), eights);
  var sink = 0.0;
  if SINKS != 0u { sink = sink_score(sinks[head]); }
  if thread == 0u { atomicStore(&top_key, select(0u, key(sink), SINKS != 0u)); }
  for (var i = thread; i < QUADS; i += THREADS) { query4[i] = query(q4[(token * params.heads + head) * QUADS + i]); }
  workgroupBarrier();
  var top = 0u;
  for (var p = thread; p < POSITIONS; p += THREADS) {
    // Whole groups of threads are behind the last position.
    if start + p <= position {
      let s = score(k_at, keys);
      weights[p] = s;
      if WINDOW == 0u || start + p >= seen { top = max(top, key(s)); }
    }
    if p + THREADS < POSITIONS {
      k_at = cache_eight(min(start + p + THREADS, position), kv_at, eights);
      keys = key_block(k_at);
    }
  }
  atomicMax(&top_key, top);
  workgroupBarrier();
  let best = unkey(atomicLoad(&top_key));
  for (var p = thread; p < POSITIONS; p += THREADS) {
    var w = 0.0;
    if start + p <= position && (WINDOW == 0u || start + p >= seen) { w = softmax_weight(weights[p], best); }
    weights[p] = w;
  }
  workgroupBarrier();
  weigh(thread, values);
  if SINKS != 0u { sink = softmax_weight(sink, best); }
  store_values(thread, head, group.y * PART, params.items, sink);
}
