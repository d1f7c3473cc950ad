// Attention of a single row over a long cache, first of two: the scores of a tile of 32 positions.
// A workgroup takes one tile of one KV head, for GROUP of the query heads that share it.
// needs: order, cache, heads

struct Params {
  heads: u32, // query heads
  kv_heads: u32, // key and value heads; divides `heads`
  context: u32, // scores per head, a multiple of 32
  scale: f32, // of scores: `scored` in lib/heads.wgsl
  cap: f32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> q4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> k4: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read_write> scores: array<f32>; // [head][position]
@group(0) @binding(5) var<storage, read_write> tops: array<u32>; // [head][tile], as keys

override THREADS: u32 = 256u;
override GROUP: u32 = 1u; // query heads of a workgroup, which divide those of a KV head
override QUERIES: u32 = GROUP * QUADS;
override HALVES: bool = false; // whether keys are unpacked when they are used: half the memory
override KEYS: u32 = 32u * (QUADS + 1u); // rows are padded so that neighbours lie in other banks
override FLOATS: u32 = select(KEYS, 1u, HALVES);
override PAIRS: u32 = select(1u, KEYS, HALVES);
var<workgroup> query4: array<vec4<f32>, QUERIES>;
var<workgroup> keys4: array<vec4<f32>, FLOATS>;
var<workgroup> packed: array<vec2<u32>, PAIRS>;
var<workgroup> top_keys: array<atomic<u32>, GROUP>;

fn put(at: u32, words: vec2<u32>) {
  if HALVES { packed[at] = words; } else { keys4[at] = f16x4(words.x, words.y); }
}
fn key_quad(at: u32) -> vec4<f32> {
  if HALVES { return f16x4(packed[at].x, packed[at].y); }
  return keys4[at];
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let first_head = workgroup.y * GROUP;
  let kv_head = first_head / (params.heads / params.kv_heads);
  let seen = first_seen(state.position);
  let tile = seen / 32u + workgroup.x;
  let count = state.position + 1u;
  let first = 32u * tile;
  let n = min(32u, count - first);
  let eights = params.kv_heads * HEAD_DIM / 8u;
  for (var i = thread; i < GROUP; i += THREADS) { atomicStore(&top_keys[i], 0u); }
  for (var i = thread; i < QUERIES; i += THREADS) { query4[i] = query(q4[first_head * QUADS + i]); }
  for (var i = thread; i < 16u * QUADS; i += THREADS) {
    let p = i % 32u;
    let e = i / 32u;
    let k = k4[cache_eight(first + min(p, n - 1u), kv_head * HEAD_DIM / 8u + e, eights)];
    put(p * (QUADS + 1u) + 2u * e, k.xy);
    put(p * (QUADS + 1u) + 2u * e + 1u, k.zw);
  }
  workgroupBarrier();
  for (var i = thread; i < GROUP * 32u; i += THREADS) {
    let p = i % 32u;
    let h = i / 32u;
    if p < n {
      var sums = Outer(vec4(0.0), vec4(0.0));
      for (var b = 0u; b < QUADS / 8u; b++) {
        var lo = vec4(0.0);
        var hi = vec4(0.0);
        for (var j = 0u; j < 4u; j++) {
          let at = 8u * b + 2u * j;
          lo = add_exact4(lo, query4[h * QUADS + at], key_quad(p * (QUADS + 1u) + at));
          hi = add_exact4(hi, query4[h * QUADS + at + 1u], key_quad(p * (QUADS + 1u) + at + 1u));
        }
        sums = with_block(sums, b, s8_tree(lo, hi));
      }
      let s = scored(s8_tree(sums.lo, sums.hi), params.scale, params.cap);
      scores[(first_head + h) * params.context + first + p] = s;
      if WINDOW == 0u || first + p >= seen { atomicMax(&top_keys[h], key(s)); }
    }
  }
  workgroupBarrier();
  for (var h = thread; h < GROUP; h += THREADS) {
    tops[(first_head + h) * (params.context / 32u) + tile] = atomicLoad(&top_keys[h]);
  }
}
