
// Operations for every device. No compiler can fuse or reorder floats, because a bit operation with an unknown zero hides each result.
// An exclusive or would not do: twice on one value, as in add(0.0, mul(a, b)), it cancels, and NVIDIA's compiler then fuses
// the bare product.

fn seal(x: f32) -> f32 { return bitcast<f32>(bitcast<u32>(x) | state.zero); }
fn add(a: f32, b: f32) -> f32 { return seal(a + b); }
fn sub(a: f32, b: f32) -> f32 { return seal(a - b); }
fn mul(a: f32, b: f32) -> f32 { return seal(a * b); }

fn seal4(x: vec4<f32>) -> vec4<f32> { return bitcast<vec4<f32>>(bitcast<vec4<u32>>(x) | vec4(state.zero)); }
fn add4(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> { return seal4(a + b); }
fn mul4(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> { return seal4(a * b); }

// sum + a * b where the product is exact (24 significant bits or fewer), so that fusing it changes nothing.
fn add_exact(sum: f32, a: f32, b: f32) -> f32 { return seal(sum + a * b); }
fn add_exact4(sum: vec4<f32>, a: vec4<f32>, b: vec4<f32>) -> vec4<f32> { return seal4(sum + a * b); }

// Halves in integer code and without branches: a device may flush what unpack2x16float makes of subnormal ones.
fn f16_to_f32(h: u32) -> f32 {
  let magnitude = (h & 0x7fffu) << 13u;
  let normal = magnitude + (112u << 23u);
  let subnormal = bitcast<u32>(sub(bitcast<f32>(normal + (1u << 23u)), 0x1p-14f));
  let finite = select(normal, subnormal, magnitude < (1u << 23u));
  let bits = select(finite, normal + (112u << 23u), magnitude >= (31u << 23u));
  return bitcast<f32>(bits | ((h & 0x8000u) << 16u));
}

// Four f16 from two words.
fn f16x4(low: u32, high: u32) -> vec4<f32> {
  let h = vec4(low & 0xffffu, low >> 16u, high & 0xffffu, high >> 16u);
  let magnitude = (h & vec4(0x7fffu)) << vec4(13u);
  let normal = magnitude + vec4(112u << 23u);
  let subnormal = bitcast<vec4<u32>>(add4(bitcast<vec4<f32>>(normal + vec4(1u << 23u)), vec4(-0x1p-14f)));
  let finite = select(normal, subnormal, magnitude < vec4(1u << 23u));
  let bits = select(finite, normal + vec4(112u << 23u), magnitude >= vec4(31u << 23u));
  return bitcast<vec4<f32>>(bits | ((h & vec4(0x8000u)) << vec4(16u)));
}

// The numerics contract (numerics v1) in WGSL: the twin of src/numerics, line for line. Float `+ - *` and
// the values of halves are functions of portable.wgsl or of native.wgsl.

struct State {
  zero: u32, // always 0, but only known at run time: the seal
  position: u32, // of the first row of this batch
  row0: u32, // first row to compute
  rows: u32, // rows to compute
  ids: u32, // where the batch's token ids begin
  next: u32, // where the id that follows is stored
  slot: u32, // which row of logits a fused token writes
}
@group(0) @binding(0) var<storage, read> state: State;

const ACTIVATION_FLOOR = 0x1p-60f;
const WEIGHT_FLOOR = 0x1p-40f;
const RESULT_FLOOR = 0x1p-100f;

fn flush(x: f32, lowest: f32) -> f32 { return select(x, 0.0, abs(x) < lowest); }
fn settle(x: f32) -> f32 { return flush(x, RESULT_FLOOR); }
fn flush4(x: vec4<f32>, lowest: f32) -> vec4<f32> { return select(x, vec4(0.0), abs(x) < vec4(lowest)); }
fn settle4(x: vec4<f32>) -> vec4<f32> { return flush4(x, RESULT_FLOOR); }

fn r13(x: f32) -> f32 {
  let u = bitcast<u32>(x);
  let rounded = (u + 0x3ffu + ((u >> 11u) & 1u)) & 0xfffff800u;
  // The carry could turn a NaN into a zero.
  return bitcast<f32>(select(rounded, u, (u & 0x7f800000u) == 0x7f800000u));
}

fn f16_bits(x: f32) -> u32 {
  let u = bitcast<u32>(x);
  let sign = (u >> 16u) & 0x8000u;
  let a = u & 0x7fffffffu;
  if a > 0x7f800000u { return sign | 0x7e00u; }
  if a >= 0x477ff000u { return sign | 0x7c00u; }
  if a >= 0x38800000u {
    let r = a - (112u << 23u);
    return sign | ((r + 0xfffu + ((r >> 13u) & 1u)) >> 13u);
  }
  if a <= 0x33000000u { return sign; }
  let mantissa = (a & 0x7fffffu) | 0x800000u;
  let shift = 126u - (a >> 23u);
  let r = mantissa >> shift;
  let rest = mantissa & ((1u << shift) - 1u);
  let half = 1u << (shift - 1u);
  let up = rest > half || (rest == half && (r & 1u) == 1u);
  return sign | (r + u32(up));
}

// An i32 as the nearest f32: sums of 2^24 and more are split, so that no conversion rounds.
fn nearest(i: i32) -> f32 { return add(mul(f32(i >> 12u), 4096.0), f32(i & 4095)); }

// The same for magnitudes below 2^22, without a conversion instruction: those are slow on some devices.
fn small_integer(i: i32) -> f32 { return sub(bitcast<f32>(i + 0x4b400000), 12582912.0); }

fn exp_poly(r: f32) -> f32 {
  var p = 1.98756915e-4f;
  p = add(mul(p, r), 1.39819995e-3f);
  p = add(mul(p, r), 8.333452e-3f);
  p = add(mul(p, r), 4.1665796e-2f);
  p = add(mul(p, r), 1.6666665e-1f);
  p = add(mul(p, r), 0.5f);
  return add(add(mul(p, mul(r, r)), r), 1.0);
}

fn power_of_two(n: f32) -> f32 { return bitcast<f32>(u32(i32(n) + 127) << 23u); }

fn exp_(x0: f32) -> f32 {
  let x = max(min(flush(x0, WEIGHT_FLOOR), 88.0), -87.0);
  let n = round(mul(x, 1.442695f));
  let r = sub(sub(x, mul(n, 0.6933594f)), mul(n, -2.1219444e-4f));
  return mul(exp_poly(r), power_of_two(n));
}

fn exp2_(x0: f32) -> f32 {
  if x0 < -40.0 { return 0.0; }
  let x = flush(x0, WEIGHT_FLOOR);
  let n = round(x);
  let r = mul(sub(x, n), 0.6931472f);
  return mul(exp_poly(r), power_of_two(n));
}

fn recip(x: f32) -> f32 {
  let sign = bitcast<u32>(x) & 0x80000000u;
  let m = bitcast<f32>(bitcast<u32>(x) & 0x7fffffffu);
  var y = bitcast<f32>(0x7ef311c7u - bitcast<u32>(m));
  y = add(y, mul(y, sub(1.0, mul(m, y))));
  y = add(y, mul(y, sub(1.0, mul(m, y))));
  y = add(y, mul(y, sub(1.0, mul(m, y))));
  y = add(y, mul(y, sub(1.0, mul(m, y))));
  return bitcast<f32>(bitcast<u32>(y) | sign);
}

fn rsqrt(x: f32) -> f32 {
  let h = mul(0.5, x);
  var y = bitcast<f32>(0x5f375a86u - (bitcast<u32>(x) >> 1u));
  y = add(y, mul(y, sub(0.5, mul(mul(h, y), y))));
  y = add(y, mul(y, sub(0.5, mul(mul(h, y), y))));
  y = add(y, mul(y, sub(0.5, mul(mul(h, y), y))));
  y = add(y, mul(y, sub(0.5, mul(mul(h, y), y))));
  return y;
}

fn silu(x0: f32) -> f32 {
  let x = flush(x0, WEIGHT_FLOOR);
  return mul(x, recip(add(1.0, exp_(max(min(-x, 60.0), -60.0)))));
}

// The final tree of an S8 sum over its 8 lanes.
fn s8_tree(a: vec4<f32>, b: vec4<f32>) -> f32 {
  return add(add(add(a.x, b.x), add(a.z, b.z)), add(add(a.y, b.y), add(a.w, b.w)));
}

// Floats as integers of the same order, and back: for the largest of many by atomics.

fn key(x: f32) -> u32 {
  let u = bitcast<u32>(x);
  return select(u | 0x80000000u, ~u, (u >> 31u) == 1u);
}
fn unkey(k: u32) -> f32 { return bitcast<f32>(select(~k, k & 0x7fffffffu, (k >> 31u) == 1u)); }

// Where a cache of keys or values has what: tiles of 32 positions; in a tile, for every eight elements of a row, one position
// after the other. So threads that take neighbouring positions read neighbouring words. Twin of `cache_word` in
// src/ops/kv_store.rs.

// The word of an element of a row of `width` elements; the one with an odd number has the upper half.
fn cache_word(position: u32, element: u32, width: u32) -> u32 {
  return 4u * cache_eight(position, element / 8u, (width + 7u) / 8u) + element % 8u / 2u;
}

// The place of eight elements of a row of `eights`, in vec4.
fn cache_eight(position: u32, eight: u32, eights: u32) -> u32 {
  return (position / 32u * eights + eight) * 32u + position % 32u;
}

// What the attention kernels share: scores of a head against a key, sums over a tile of 32 positions.
// Head dimensions are multiples of 32 up to 256.

override THREADS: u32 = 64u;
override HEAD_DIM: u32 = 32u;
override QUADS: u32 = 8u; // HEAD_DIM / 4

fn query(x: vec4<f32>) -> vec4<f32> {
  let f = flush4(x, ACTIVATION_FLOOR);
  return vec4(r13(f.x), r13(f.y), r13(f.z), r13(f.w));
}

fn softmax_weight(score: f32, top: f32) -> f32 { return r13(exp2_(sub(score, top))); }

// S8 over the sums of up to 8 blocks of 32 elements.
struct Outer {
  lo: vec4<f32>,
  hi: vec4<f32>,
}
fn with_block(o: Outer, b: u32, t: f32) -> Outer {
  let at = vec4(b) == vec4(0u, 1u, 2u, 3u);
  let behind = vec4(b) == vec4(4u, 5u, 6u, 7u);
  return Outer(select(o.lo, vec4(t), at), select(o.hi, vec4(t), behind));
}

// The layout of items: how the fused kernels keep a row of activations between dispatches.
// An item is half a chunk of 32: the four vec4 of its first or of its second four lanes of S8. The vec4 of equal
// number are neighbours, so that threads with neighbouring items read neighbouring memory.

// The word of element `i` in a row of `items` items.
fn item_word(i: u32, items: u32) -> u32 {
  let quad = (i >> 2u) & 7u;
  return ((quad >> 1u) * items + 2u * (i >> 5u) + (quad & 1u)) * 4u + (i & 3u);
}

// The values of a single row's attention: weighted and added up in S8, for PART dimensions of a head, TILES tiles of 32
// positions at a time. A workgroup has TILES * PART threads. A kernel declares `v4`, the values, and `out`, in the layout of
// items. `eights` is a row of the cache in vec4, and `at` a place in it.

override TILES: u32 = 8u; // a multiple of 8
override PART: u32 = 32u; // a multiple of 8
override POSITIONS: u32 = 256u; // 32 * TILES
override INNER: u32 = 512u; // 2 * TILES * PART
override INNER_WEIGHTS: u32 = 64u; // 8 * TILES
override TERMS: u32 = 256u; // TILES * PART
override OUTER: u32 = 256u; // 8 * PART
var<workgroup> weights: array<f32, POSITIONS>; // softmax weights
var<workgroup> top_key: atomic<u32>; // the largest score
var<workgroup> inner4: array<vec4<f32>, INNER>; // lanes of S8 inside a tile: [tile][lane][quad of dimensions]
var<workgroup> inner_weights: array<f32, INNER_WEIGHTS>; // the same of the weights
var<workgroup> terms: array<f32, TERMS>; // sums of a tile: [tile][dimension]
var<workgroup> term_weights: array<f32, TILES>;
var<workgroup> outer: array<f32, OUTER>; // lanes of S8 over the tiles: [lane][dimension]
var<workgroup> outer_weights: array<f32, 8>;

// A thread weighs the positions of one lane of a tile in eight dimensions, then adds up the lanes of a tile in one. The
// first 8 * PART threads keep one lane over the tiles, in one dimension.
var<private> lane_sum: f32;
var<private> lane_weights: f32;

struct Words { // 32 numbers of the cache
  a: vec4<u32>,
  b: vec4<u32>,
  c: vec4<u32>,
  d: vec4<u32>,
}

// The first of a thread's four positions, which are eight apart.
fn own_position(thread: u32) -> u32 { return 32u * (thread / PART) + (thread / (PART / 8u) & 7u); }

// Eight dimensions of the values at the thread's positions; `first` is the first position of the tiles. Behind the last
// position it is read again: its weight is 0.
fn value_words(thread: u32, first: u32, at: u32, eights: u32) -> Words {
  let p = first + own_position(thread);
  let d = at + thread % (PART / 8u);
  let last = state.position;
  return Words(v4[cache_eight(min(p, last), d, eights)], v4[cache_eight(min(p + 8u, last), d, eights)],
               v4[cache_eight(min(p + 16u, last), d, eights)], v4[cache_eight(min(p + 24u, last), d, eights)]);
}

fn component(tile: u32, lane: u32, d: u32) -> f32 { return inner4[(8u * tile + lane) * (PART / 4u) + d / 4u][d & 3u]; }

// Adds the values of TILES tiles to the sums.
fn weigh(thread: u32, v: Words) {
  let p = own_position(thread);
  let w = vec4(weights[p], weights[p + 8u], weights[p + 16u], weights[p + 24u]);
  var lo = vec4(0.0);
  var hi = vec4(0.0);
  lo = add_exact4(lo, vec4(w.x), f16x4(v.a.x, v.a.y));
  hi = add_exact4(hi, vec4(w.x), f16x4(v.a.z, v.a.w));
  lo = add_exact4(lo, vec4(w.y), f16x4(v.b.x, v.b.y));
  hi = add_exact4(hi, vec4(w.y), f16x4(v.b.z, v.b.w));
  lo = add_exact4(lo, vec4(w.z), f16x4(v.c.x, v.c.y));
  hi = add_exact4(hi, vec4(w.z), f16x4(v.c.z, v.c.w));
  lo = add_exact4(lo, vec4(w.w), f16x4(v.d.x, v.d.y));
  hi = add_exact4(hi, vec4(w.w), f16x4(v.d.z, v.d.w));
  inner4[2u * thread] = lo;
  inner4[2u * thread + 1u] = hi;
  if thread % (PART / 8u) == 0u { inner_weights[thread / (PART / 8u)] = add(add(add(w.x, w.y), w.z), w.w); }
  workgroupBarrier();
  let t = thread / PART;
  let d = thread % PART;
  terms[thread] = s8_tree(vec4(component(t, 0u, d), component(t, 1u, d), component(t, 2u, d), component(t, 3u, d)),
                          vec4(component(t, 4u, d), component(t, 5u, d), component(t, 6u, d), component(t, 7u, d)));
  if d == 0u {
    let l = 8u * t;
    term_weights[t] = s8_tree(vec4(inner_weights[l], inner_weights[l + 1u], inner_weights[l + 2u], inner_weights[l + 3u]),
                              vec4(inner_weights[l + 4u], inner_weights[l + 5u], inner_weights[l + 6u], inner_weights[l + 7u]));
  }
  workgroupBarrier();
  if thread < OUTER {
    for (var i = thread; i < TERMS; i += OUTER) { lane_sum = add(lane_sum, terms[i]); }
    for (var i = t; i < TILES; i += 8u) { lane_weights = add(lane_weights, term_weights[i]); }
  }
}

// Stores PART dimensions, from element `first` of the row of `items` items on.
fn store_values(thread: u32, first: u32, items: u32) {
  let d = thread % PART;
  if thread < OUTER {
    outer[thread] = lane_sum;
    if d == 0u { outer_weights[thread / PART] = lane_weights; }
  }
  workgroupBarrier();
  if thread < PART {
    let total = s8_tree(vec4(outer_weights[0], outer_weights[1], outer_weights[2], outer_weights[3]),
                        vec4(outer_weights[4], outer_weights[5], outer_weights[6], outer_weights[7]));
    let sum = s8_tree(vec4(outer[d], outer[PART + d], outer[2u * PART + d], outer[3u * PART + d]),
                      vec4(outer[4u * PART + d], outer[5u * PART + d], outer[6u * PART + d], outer[7u * PART + d]));
    out[item_word(first + d, items)] = settle(mul(sum, recip(total)));
  }
}

// Attention of a single row over a short cache: a workgroup takes a head, and PART dimensions of its values; a thread takes
// 32 / PART positions. Scores, softmax and weighted values at once; every workgroup of a head computes its scores again.
// needs: order, cache, heads, layout, values

struct Params {
  heads: u32,
  kv_heads: u32,
  scale: f32, // log2(e) / sqrt(head_dim)
  items: u32, // of the output row
  blocks: u32, // HEAD_DIM / 32; no constant, so that compilers do not unroll: long code does not fit an instruction cache
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> q4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> k4: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> v4: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;

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
  return flush(mul(s8_tree(sums.lo, sums.hi), params.scale), ACTIVATION_FLOOR);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = group.x;
  let eights = params.kv_heads * HEAD_DIM / 8u;
  let kv_at = head / (params.heads / params.kv_heads) * HEAD_DIM / 8u;
  // The first words are on their way before they are needed. Threads behind the last position take it again.
  var k_at = cache_eight(min(thread, state.position), kv_at, eights);
  var keys = key_block(k_at);
  let values = value_words(thread, 0u, kv_at + group.y * (PART / 8u), eights);
  if thread == 0u { atomicStore(&top_key, 0u); }
  for (var i = thread; i < QUADS; i += THREADS) { query4[i] = query(q4[head * QUADS + i]); }
  workgroupBarrier();
  var top = 0u;
  for (var p = thread; p < POSITIONS; p += THREADS) {
    let s = score(k_at, keys);
    weights[p] = s;
    top = max(top, key(s));
    if p + THREADS < POSITIONS {
      k_at = cache_eight(min(p + THREADS, state.position), kv_at, eights);
      keys = key_block(k_at);
    }
  }
  atomicMax(&top_key, top);
  workgroupBarrier();
  let best = unkey(atomicLoad(&top_key));
  for (var p = thread; p < POSITIONS; p += THREADS) {
    let w = softmax_weight(weights[p], best);
    weights[p] = select(0.0, w, p <= state.position);
  }
  workgroupBarrier();
  weigh(thread, values);
  store_values(thread, head * HEAD_DIM + group.y * PART, params.items);
}
