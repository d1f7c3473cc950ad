// The core of the fused kernels of a single row: prepares the activations (RMSNorm, quantisation), multiplies them with
// rows of a matrix and leaves the sums to `finish`. Its twins are, one after the other, rms_norm, quantize_activations
// and matmul in src/ops. Every workgroup prepares the whole row again, which costs less than a dispatch.
//
// A kernel declares NORM, `weight_row` (the matrix row of a workgroup's slot) and `finish`.

struct Params {
  streams: vec4<u32>,
  rows: u32, // rows of the product
  first: u32, // the first of them in the weights
  second: u32, // gate_up: the first row of the second matrix; qkv: rows of q
  third: u32, // qkv: rows of k
  eps: f32,
  inverse_width: f32,
  steps: f32, // activations: the integer of the largest magnitude
  inverse_steps: f32,
  out_first: u32, // logits: where the first output is stored in a row
  out_width: u32, // logits: elements per row
  head_dim: u32,
  pairs: u32, // rotated pairs per head
  kv_width: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> weights: array<u32>;
@group(0) @binding(3) var<storage, read> weights4: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> x4: array<vec4<f32>>; // in the layout of items
@group(0) @binding(5) var<storage, read> norm4: array<vec4<f32>>; // likewise, flushed at the floor of weights

override THREADS: u32 = 64u;
override CHUNKS: u32 = 1u; // chunks of 32 in a row
override SPAN: u32 = 1u; // chunks that share an activation scale: 1 or 8
override ACROSS: u32 = 1u; // rows that a workgroup takes side by side
override LOOPS: u32 = 1u; // times DEPTH rows that a thread takes
override DEPTH: u32 = 4u; // rows of a thread that are fetched together: 2 or 4
// Lengths of the arrays.
override BLOCKS: u32 = 1u; // CHUNKS / SPAN
override PLANES: u32 = 2u; // halves of chunks, twice that many with PRECISE
override SLOTS8: u32 = 32u; // 8 * rows of a workgroup
override TERMS: u32 = 4u; // rows of a workgroup * CHUNKS where a block is a chunk, or 1
override SUMS: u32 = 1u; // rows of a workgroup * BLOCKS where blocks span chunks, or 1
override MINS: u32 = 1u; // the same where weights have minima, or 1
override LOWS: u32 = 1u; // SUMS with PRECISE, or 1
override LOW_MINS: u32 = 1u; // MINS with PRECISE, or 1

var<workgroup> xq: array<vec4<u32>, PLANES>;
var<workgroup> peaks: array<atomic<u32>, BLOCKS>;
var<workgroup> x_scale: array<f32, BLOCKS>;
var<workgroup> terms: array<f32, TERMS>;
// Integer sums of blocks that span chunks: exact in any order.
var<workgroup> sums: array<atomic<i32>, SUMS>;
var<workgroup> mins: array<atomic<i32>, MINS>;
var<workgroup> lows: array<atomic<i32>, LOWS>;
var<workgroup> low_mins: array<atomic<i32>, LOW_MINS>;
var<workgroup> lane_sums: array<f32, SLOTS8>;

fn item_of(item: u32) -> Item {
  let items = 2u * CHUNKS;
  let v = Item(x4[item], x4[items + item], x4[2u * items + item], x4[3u * items + item]);
  if !NORM { return v; }
  return Item(flush4(v.a, WEIGHT_FLOOR), flush4(v.b, WEIGHT_FLOOR), flush4(v.c, WEIGHT_FLOOR), flush4(v.d, WEIGHT_FLOOR));
}

// What rms_norm makes of an item. It need not be settled: what that would flush quantises to 0 just as well.
fn normalised(v: Item, item: u32, r: f32) -> Item {
  if !NORM { return v; }
  let items = 2u * CHUNKS;
  let r4 = vec4(r);
  return Item(mul4(mul4(v.a, r4), norm4[item]), mul4(mul4(v.b, r4), norm4[items + item]),
              mul4(mul4(v.c, r4), norm4[2u * items + item]), mul4(mul4(v.d, r4), norm4[3u * items + item]));
}

fn keep(v: Item, item: u32) {
  let block = item / (2u * SPAN);
  let q = quantise(v, atomicLoad(&peaks[block]));
  xq[item] = q.high;
  if PRECISE { xq[2u * CHUNKS + item] = q.low; }
  if item % (2u * SPAN) == 0u { x_scale[block] = bitcast<f32>(q.scale); }
}

fn prepare(thread: u32) {
  let items = 2u * CHUNKS;
  for (var b = thread; b < BLOCKS; b += THREADS) { atomicStore(&peaks[b], 0u); }
  if SPAN > 1u {
    for (var i = thread; i < SUMS; i += THREADS) { atomicStore(&sums[i], 0); }
    if HAS_MIN { for (var i = thread; i < MINS; i += THREADS) { atomicStore(&mins[i], 0); } }
    if PRECISE { for (var i = thread; i < LOWS; i += THREADS) { atomicStore(&lows[i], 0); } }
    if PRECISE && HAS_MIN { for (var i = thread; i < LOW_MINS; i += THREADS) { atomicStore(&low_mins[i], 0); } }
  }
  // A thread's first item stays in registers; the others of a long row are read again.
  var mine = item_of(min(thread, items - 1u));
  var r = 1.0;
  if NORM {
    if thread < items { lanes[thread] = squares(mine); }
    if THREADS < 2u * CHUNKS {
      for (var item = thread + THREADS; item < items; item += THREADS) { lanes[item] = squares(item_of(item)); }
    }
    let total = sum_lanes(thread, THREADS, CHUNKS);
    r = rsqrt(add(mul(total, params.inverse_width), params.eps));
    mine = normalised(mine, min(thread, items - 1u), r);
  } else {
    workgroupBarrier();
  }
  if thread < items { atomicMax(&peaks[thread / (2u * SPAN)], peak(mine)); }
  if THREADS < 2u * CHUNKS {
    for (var item = thread + THREADS; item < items; item += THREADS) {
      atomicMax(&peaks[item / (2u * SPAN)], peak(normalised(item_of(item), item, r)));
    }
  }
  workgroupBarrier();
  if thread < items { keep(mine, thread); }
  if THREADS < 2u * CHUNKS {
    for (var item = thread + THREADS; item < items; item += THREADS) { keep(normalised(item_of(item), item, r), item); }
  }
  workgroupBarrier();
}

fn whole(i: i32) -> f32 {
  if SPAN == 1u { return small_integer(i); }
  return nearest(i);
}

struct Fetched {
  w: Chunk,
  dm: vec2<f32>, // the block's float scales, where a block is a chunk
}

fn fetch(group: u32, slot: u32, c: u32) -> Fetched {
  let block = weight_row(group, slot) * BLOCKS + c / SPAN;
  var dm = vec2(0.0);
  if SPAN == 1u { dm = scales(block); }
  return Fetched(unpack(block, c % SPAN), dm);
}

// A chunk of activations: items hold every other word of it.
struct Activations {
  a: vec4<u32>, // 0 … 15
  b: vec4<u32>, // 16 … 31
  sums: vec2<i32>,
}

fn activations(plane: u32, c: u32) -> Activations {
  let p = xq[plane + 2u * c];
  let q = xq[plane + 2u * c + 1u];
  let a = vec4(p.x, q.x, p.y, q.y);
  let b = vec4(p.z, q.z, p.w, q.w);
  return Activations(a, b, half_sums(a, b));
}

// Stores what chunk `c` gives to the row of `slot`.
fn put(slot: u32, c: u32, f: Fetched, x: Activations, x_low: Activations) {
  let high = dots(f.w, x.a, x.b, x.sums);
  var low = Dots(0, 0);
  if PRECISE { low = dots(f.w, x_low.a, x_low.b, x_low.sums); }
  if SPAN == 1u {
    terms[slot * CHUNKS + c] = mul(x_scale[c], block_value(f.dm, high, low));
  } else {
    let at = slot * BLOCKS + c / SPAN;
    atomicAdd(&sums[at], high.s);
    if HAS_MIN { atomicAdd(&mins[at], high.m); }
    if PRECISE { atomicAdd(&lows[at], low.s); }
    if PRECISE && HAS_MIN { atomicAdd(&low_mins[at], low.m); }
  }
}

// The term of block `b` of the row of `slot`.
fn term(group: u32, slot: u32, b: u32) -> f32 {
  if SPAN == 1u { return terms[slot * CHUNKS + b]; }
  let at = slot * BLOCKS + b;
  var high = Dots(atomicLoad(&sums[at]), 0);
  var low = Dots(0, 0);
  if HAS_MIN { high.m = atomicLoad(&mins[at]); }
  if PRECISE { low.s = atomicLoad(&lows[at]); }
  if PRECISE && HAS_MIN { low.m = atomicLoad(&low_mins[at]); }
  return mul(x_scale[b], block_value(scales(weight_row(group, slot) * BLOCKS + b), high, low));
}

// The product of the row of `slot`, once all threads are past the sums.
fn product(slot: u32) -> f32 {
  let at = 8u * slot;
  return settle(s8_tree(vec4(lane_sums[at], lane_sums[at + 1u], lane_sums[at + 2u], lane_sums[at + 3u]),
                        vec4(lane_sums[at + 4u], lane_sums[at + 5u], lane_sums[at + 6u], lane_sums[at + 7u])));
}

// Low activations of a chunk, where there are any.
fn low_activations(c: u32, x: Activations) -> Activations {
  if PRECISE { return activations(2u * CHUNKS, c); }
  return x;
}

// Multiplies rows in groups of DEPTH that are fetched together; the first are on their way while the activations are
// prepared.
fn multiply(group: u32, thread: u32) {
  let passes = (CHUNKS + THREADS - 1u) / THREADS; // over the chunks of a row longer than a workgroup
  let across = thread / CHUNKS;
  var c = min(thread % CHUNKS, CHUNKS - 1u);
  var slot = min(across, ACROSS - 1u);
  var f0 = fetch(group, slot, c);
  var f1 = fetch(group, slot + ACROSS, c);
  var f2 = f0;
  var f3 = f0;
  if DEPTH > 2u {
    f2 = fetch(group, slot + 2u * ACROSS, c);
    f3 = fetch(group, slot + 3u * ACROSS, c);
  }
  prepare(thread);
  for (var step = 0u; step < LOOPS * passes; step++) {
    if across < ACROSS && thread + (step % passes) * THREADS < CHUNKS * ACROSS {
      let x = activations(0u, c);
      let low = low_activations(c, x);
      put(slot, c, f0, x, low);
      put(slot + ACROSS, c, f1, x, low);
      if DEPTH > 2u {
        put(slot + 2u * ACROSS, c, f2, x, low);
        put(slot + 3u * ACROSS, c, f3, x, low);
      }
    }
    if step + 1u < LOOPS * passes {
      c = min(thread % CHUNKS + (step + 1u) % passes * THREADS, CHUNKS - 1u);
      slot = min(across, ACROSS - 1u) + (step + 1u) / passes * DEPTH * ACROSS;
      f0 = fetch(group, slot, c);
      f1 = fetch(group, slot + ACROSS, c);
      if DEPTH > 2u {
        f2 = fetch(group, slot + 2u * ACROSS, c);
        f3 = fetch(group, slot + 3u * ACROSS, c);
      }
    }
  }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let group = workgroup.x;
  multiply(group, thread);
  workgroupBarrier();
  for (var i = thread; i < SLOTS8; i += THREADS) {
    var sum = 0.0;
    for (var b = i & 7u; b < BLOCKS; b += 8u) { sum = add(sum, term(group, i >> 3u, b)); }
    lane_sums[i] = sum;
  }
  workgroupBarrier();
  finish(group, thread);
}
