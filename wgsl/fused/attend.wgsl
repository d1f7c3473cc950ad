// Attention of a single row over a short cache, a workgroup a head: scores, softmax and weighted values at once.
// needs: order, heads, layout

struct Params {
  heads: u32,
  kv_heads: u32,
  scale: f32, // log2(e) / sqrt(head_dim)
  items: u32, // of the output row
  // No constants, so that compilers do not unroll: what does not fit an instruction cache costs more than it computes.
  blocks: u32, // HEAD_DIM / 32
  eights: u32, // 4: groups of eight positions in a tile
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> q4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> k4: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> v: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>; // in the layout of items

override POSITIONS: u32 = 32u; // the longest cache, a multiple of 256
override SLOTS4: u32 = 8u; // POSITIONS / 4
override TILES: u32 = 8u; // POSITIONS / 32
override OUTER: u32 = 256u; // 8 * HEAD_DIM
var<workgroup> query4: array<vec4<f32>, QUADS>;
var<workgroup> scores: array<f32, POSITIONS>;
var<workgroup> weights4: array<vec4<f32>, SLOTS4>;
var<workgroup> tile_sums: array<f32, TILES>;
var<workgroup> outer: array<f32, OUTER>;
var<workgroup> top_key: atomic<u32>;

// A block of 32 dimensions of a key, on its way while another is multiplied.
struct Key {
  a: vec4<u32>,
  b: vec4<u32>,
  c: vec4<u32>,
  d: vec4<u32>,
}
fn key_block(at: u32) -> Key { return Key(k4[at], k4[at + 1u], k4[at + 2u], k4[at + 3u]); }

fn score(k_at: u32) -> f32 {
  var sums = Outer(vec4(0.0), vec4(0.0));
  var next = key_block(k_at);
  for (var b = 0u; b < params.blocks; b++) {
    let k = next;
    next = key_block(k_at + 4u * min(b + 1u, params.blocks - 1u));
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
  return flush(mul(s8_tree(sums.lo, sums.hi), params.scale), ACTIVATION_FLOOR);
}

// Values of eight positions, a word (two dimensions) each. Behind the last position it is read again: its weight is 0.
struct Values {
  a: vec4<u32>,
  b: vec4<u32>,
}
fn value_words(p: u32, at: u32, half: u32) -> Values {
  let last = state.position;
  return Values(vec4(v[min(p, last) * half + at], v[min(p + 1u, last) * half + at],
                     v[min(p + 2u, last) * half + at], v[min(p + 3u, last) * half + at]),
                vec4(v[min(p + 4u, last) * half + at], v[min(p + 5u, last) * half + at],
                     v[min(p + 6u, last) * half + at], v[min(p + 7u, last) * half + at]));
}

// The values of a word (two dimensions) at eight positions, weighted into the eight lanes of each dimension.
struct Lanes {
  a_lo: vec4<f32>,
  a_hi: vec4<f32>,
  b_lo: vec4<f32>,
  b_hi: vec4<f32>,
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = group.x;
  let count = state.position + 1u;
  let tiles = (count + 31u) / 32u;
  let kv_width = params.kv_heads * HEAD_DIM;
  let kv_at = head / (params.heads / params.kv_heads) * HEAD_DIM;
  if thread == 0u { atomicStore(&top_key, 0u); }
  for (var i = thread; i < QUADS; i += THREADS) { query4[i] = query(q4[head * QUADS + i]); }
  workgroupBarrier();
  for (var p = thread; p < count; p += THREADS) {
    let s = score((p * kv_width + kv_at) / 8u);
    scores[p] = s;
    atomicMax(&top_key, key(s));
  }
  workgroupBarrier();
  let top = unkey(atomicLoad(&top_key));
  for (var quad = thread; quad < 8u * tiles; quad += THREADS) {
    var w = vec4(0.0);
    for (var i = 0u; i < 4u; i++) {
      let p = 4u * quad + i;
      if p < count { w[i] = softmax_weight(scores[p], top); }
    }
    weights4[quad] = w;
  }
  workgroupBarrier();
  for (var tile = thread; tile < (tiles + 7u) / 8u * 8u; tile += THREADS) {
    var lo = vec4(0.0);
    var hi = vec4(0.0);
    if tile < tiles {
      for (var j = 0u; j < 4u; j++) {
        lo = add4(lo, weights4[8u * tile + 2u * j]);
        hi = add4(hi, weights4[8u * tile + 2u * j + 1u]);
      }
    }
    tile_sums[tile] = s8_tree(lo, hi);
  }
  // A thread takes the tiles of one outer lane, for two dimensions.
  let words = HEAD_DIM / 2u;
  let abreast = THREADS / words;
  let word = thread % words;
  for (var lane = thread / words; lane < 8u && thread < abreast * words; lane += abreast) {
    var sum = vec2(0.0);
    for (var tile = lane; tile < tiles; tile += 8u) {
      var l = Lanes(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
      var next = value_words(32u * tile, kv_at / 2u + word, kv_width / 2u);
      for (var j = 0u; j < params.eights; j++) {
        let now = next;
        next = value_words(32u * tile + 8u * min(j + 1u, 3u), kv_at / 2u + word, kv_width / 2u);
        let a = f16x4(now.a.x, now.a.y);
        let b = f16x4(now.a.z, now.a.w);
        let c = f16x4(now.b.x, now.b.y);
        let d = f16x4(now.b.z, now.b.w);
        let w = weights4[8u * tile + 2u * j];
        let x = weights4[8u * tile + 2u * j + 1u];
        l.a_lo = add_exact4(l.a_lo, w, vec4(a.xz, b.xz));
        l.a_hi = add_exact4(l.a_hi, x, vec4(c.xz, d.xz));
        l.b_lo = add_exact4(l.b_lo, w, vec4(a.yw, b.yw));
        l.b_hi = add_exact4(l.b_hi, x, vec4(c.yw, d.yw));
      }
      sum.x = add(sum.x, s8_tree(l.a_lo, l.a_hi));
      sum.y = add(sum.y, s8_tree(l.b_lo, l.b_hi));
    }
    outer[lane * HEAD_DIM + 2u * word] = sum.x;
    outer[lane * HEAD_DIM + 2u * word + 1u] = sum.y;
  }
  workgroupBarrier();
  var lo = vec4(0.0);
  var hi = vec4(0.0);
  for (var t = 0u; t < tiles; t += 8u) {
    lo = add4(lo, vec4(tile_sums[t], tile_sums[t + 1u], tile_sums[t + 2u], tile_sums[t + 3u]));
    hi = add4(hi, vec4(tile_sums[t + 4u], tile_sums[t + 5u], tile_sums[t + 6u], tile_sums[t + 7u]));
  }
  let inverse = recip(s8_tree(lo, hi));
  for (var d = thread; d < HEAD_DIM; d += THREADS) {
    let total = s8_tree(vec4(outer[d], outer[HEAD_DIM + d], outer[2u * HEAD_DIM + d], outer[3u * HEAD_DIM + d]),
                        vec4(outer[4u * HEAD_DIM + d], outer[5u * HEAD_DIM + d], outer[6u * HEAD_DIM + d], outer[7u * HEAD_DIM + d]));
    out[item_word(head * HEAD_DIM + d, params.items)] = settle(mul(total, inverse));
  }
}
