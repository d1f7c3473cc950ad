// Attention of a single row over a long cache, second of three: a tile's softmax weights, their sum, and its weighted values.
// A workgroup takes one tile of one KV head, for all query heads that share it.
// needs: order, heads

struct Params {
  heads: u32,
  kv_heads: u32,
  context: u32, // scores per head, a multiple of 32
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> scores: array<f32>; // [head][position]
@group(0) @binding(3) var<storage, read> tops: array<u32>; // [head][tile], as keys
@group(0) @binding(4) var<storage, read> v2: array<vec2<u32>>;
@group(0) @binding(5) var<storage, read_write> tile_sums: array<f32>; // [head][tile]
@group(0) @binding(6) var<storage, read_write> terms: array<f32>; // [head][tile][dimension]

override GROUP: u32 = 1u; // heads per KV head
override WEIGHTS: u32 = 8u; // 8 * GROUP
override VALUES: u32 = 256u; // 32 * QUADS
var<workgroup> values4: array<vec4<f32>, VALUES>; // [position][quad]
var<workgroup> weights4: array<vec4<f32>, WEIGHTS>; // [head][quad of positions]
var<workgroup> top_keys: array<atomic<u32>, GROUP>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let kv_head = workgroup.y;
  let tile = workgroup.x;
  let count = state.position + 1u;
  let tiles = (count + 31u) / 32u;
  let all_tiles = params.context / 32u;
  let first = 32u * tile;
  let row = params.kv_heads * QUADS;
  for (var i = thread; i < GROUP; i += THREADS) { atomicStore(&top_keys[i], 0u); }
  for (var i = thread; i < VALUES; i += THREADS) {
    // Behind the last position weights are 0, and its value is read again.
    let p = min(first + i / QUADS, count - 1u);
    let v = v2[p * row + kv_head * QUADS + i % QUADS];
    values4[i] = f16x4(v.x, v.y);
  }
  workgroupBarrier();
  for (var i = thread; i < GROUP * tiles; i += THREADS) {
    let h = i / tiles;
    atomicMax(&top_keys[h], tops[(kv_head * GROUP + h) * all_tiles + i % tiles]);
  }
  workgroupBarrier();
  for (var i = thread; i < WEIGHTS; i += THREADS) {
    let h = i / 8u;
    let top = unkey(atomicLoad(&top_keys[h]));
    var w = vec4(0.0);
    for (var e = 0u; e < 4u; e++) {
      let p = first + 4u * (i & 7u) + e;
      if p < count { w[e] = softmax_weight(scores[(kv_head * GROUP + h) * params.context + p], top); }
    }
    weights4[i] = w;
  }
  workgroupBarrier();
  for (var h = thread; h < GROUP; h += THREADS) {
    var lo = vec4(0.0);
    var hi = vec4(0.0);
    for (var j = 0u; j < 4u; j++) {
      lo = add4(lo, weights4[8u * h + 2u * j]);
      hi = add4(hi, weights4[8u * h + 2u * j + 1u]);
    }
    tile_sums[(kv_head * GROUP + h) * all_tiles + tile] = s8_tree(lo, hi);
  }
  for (var i = thread; i < GROUP * QUADS; i += THREADS) {
    let h = i / QUADS;
    let quad = i % QUADS;
    // A vec4 is four dimensions here; l0 … l7 are the lanes of S8 over positions.
    var l0 = vec4(0.0); var l1 = vec4(0.0); var l2 = vec4(0.0); var l3 = vec4(0.0);
    var l4 = vec4(0.0); var l5 = vec4(0.0); var l6 = vec4(0.0); var l7 = vec4(0.0);
    for (var j = 0u; j < 4u; j++) {
      let w = weights4[8u * h + 2u * j];
      let x = weights4[8u * h + 2u * j + 1u];
      let at = 8u * j * QUADS + quad;
      l0 = add_exact4(l0, vec4(w.x), values4[at]);
      l1 = add_exact4(l1, vec4(w.y), values4[at + QUADS]);
      l2 = add_exact4(l2, vec4(w.z), values4[at + 2u * QUADS]);
      l3 = add_exact4(l3, vec4(w.w), values4[at + 3u * QUADS]);
      l4 = add_exact4(l4, vec4(x.x), values4[at + 4u * QUADS]);
      l5 = add_exact4(l5, vec4(x.y), values4[at + 5u * QUADS]);
      l6 = add_exact4(l6, vec4(x.z), values4[at + 6u * QUADS]);
      l7 = add_exact4(l7, vec4(x.w), values4[at + 7u * QUADS]);
    }
    let sum = add4(add4(add4(l0, l4), add4(l2, l6)), add4(add4(l1, l5), add4(l3, l7)));
    let out = ((kv_head * GROUP + h) * all_tiles + tile) * HEAD_DIM + 4u * quad;
    terms[out] = sum.x;
    terms[out + 1u] = sum.y;
    terms[out + 2u] = sum.z;
    terms[out + 3u] = sum.w;
  }
}
