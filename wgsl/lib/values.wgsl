// The values of a row's attention: weighted and added up in S8, for PART dimensions of a head, TILES tiles of 32
// positions at a time. A kernel declares `v4`, the values, and `out`, in the layout of
// items. `eights` is a row of the cache in vec4, and `at` a place in it.

override TILES: u32 = 8u; // a multiple of 8
override PART: u32 = 16u; // a multiple of 8
override THREADS: u32 = TILES * PART;
override POSITIONS: u32 = 32u * TILES;
override INNER: u32 = 2u * TILES * PART;
override INNER_WEIGHTS: u32 = 8u * TILES;
override TERMS: u32 = TILES * PART;
override OUTER: u32 = 8u * PART;
override VALUES: u32 = HEAD_DIM; // of a head in `out`, a multiple of PART
override IN_ORDER: bool = false; // whether `out` has rows in order
var<private> token: u32; // the row of the batch
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
fn own_position(thread: u32) -> u32 { return 32u * (thread / PART) + ((thread / (PART / 8u)) & 7u); }

// Eight dimensions of the values at the thread's positions; `first` is the first position of the tiles. Behind the last
// position it is read again: its weight is 0.
fn value_words(thread: u32, first: u32, at: u32, eights: u32) -> Words {
  let p = first + own_position(thread);
  let d = at + thread % (PART / 8u);
  let last = state.position + token;
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

// Stores PART dimensions of a head, from `first` on, in a row of `items` items. `sink` is the weight of a score without a value.
fn store_values(thread: u32, head: u32, first: u32, items: u32, sink: f32) {
  let d = thread % PART;
  if thread < OUTER {
    outer[thread] = lane_sum;
    if d == 0u { outer_weights[thread / PART] = lane_weights; }
  }
  workgroupBarrier();
  if thread < PART {
    var total = s8_tree(vec4(outer_weights[0], outer_weights[1], outer_weights[2], outer_weights[3]),
                        vec4(outer_weights[4], outer_weights[5], outer_weights[6], outer_weights[7]));
    if SINKS != 0u { total = add(total, sink); }
    let sum = s8_tree(vec4(outer[d], outer[PART + d], outer[2u * PART + d], outer[3u * PART + d]),
                      vec4(outer[4u * PART + d], outer[5u * PART + d], outer[6u * PART + d], outer[7u * PART + d]));
    let n = head * VALUES + first + d;
    out[select(item_word(n, items), token * 16u * items + n, IN_ORDER)] = settle(mul(sum, recip(total)));
  }
}
