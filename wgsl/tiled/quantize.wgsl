// Activations of many rows to integers, with the steps before: a workgroup takes a row, without NORM a section of one. `x` is what is quantised; with
// RESIDUAL `y` is added to it first, with NORM it is normalised, with GATE it is silu(x) * y.
// needs: items, halves, lanewise

struct Params {
  stride: u32, // words per row of the result
  eps: f32, // of the norm
  inverse_width: f32, // 1 / elements per row
  steps: f32, // the integer that the largest magnitude of a block becomes
  inverse_steps: f32, // 1 / steps
  places: u32, // rows that `halves`, or `out` with LANEWISE, has place for
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read_write> x4: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read> y4: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read> norm4: array<vec4<f32>>;
@group(0) @binding(5) var<storage, read_write> out: array<u32>;
// With HALVES, for matrix units: [chunk][row][32 halves], each four in the order 0 2 1 3; then [block][row][16 bytes: the chunks'
// sums modulo 64, then those by 64]; then the scales [block][row]. Blocks have eight chunks then.
@group(0) @binding(6) var<storage, read_write> halves: array<vec2<u32>>;

override PRECISE: bool = false;
override RESIDUAL: bool = false;
override NORM: bool = false;
override GATE: bool = false;
override HALVES: bool = false;
override LANEWISE: bool = false; // whether `out` has the layout of lib/lanewise.wgsl
override THREADS: u32 = 64u;
override CHUNKS: u32 = 8u; // chunks of 32 in a row
override SPAN: u32 = 1u; // chunks that share a scale: 1 or 8
override SECTION: u32 = 2u * CHUNKS; // items that a workgroup takes: whole blocks
override SUMS: u32 = select(1u, 2u * CHUNKS, HALVES);
override NORM_ITEMS: u32 = select(1u, 2u * CHUNKS, NORM);
var<workgroup> peaks: array<atomic<u32>, BLOCKS>;
var<workgroup> sums: array<i32, SUMS>; // of items

// Where an item begins in its row; its vec4 are every other one.
fn quad_of(item: u32) -> u32 { return (item >> 1u) * 8u + (item & 1u); }

fn sum(x: vec4<f32>, y: vec4<f32>) -> vec4<f32> {
  return settle4(add4(flush4(x, RESULT_FLOOR), flush4(y, RESULT_FLOOR)));
}
fn gated(x: vec4<f32>, y: vec4<f32>) -> vec4<f32> {
  let g = vec4(silu(x.x), silu(x.y), silu(x.z), silu(x.w));
  return settle4(mul4(g, flush4(y, WEIGHT_FLOOR)));
}

// An item with its first steps done; the sum with the residual is stored.
fn first_steps(row: u32, item: u32) -> Item {
  let at = row * 8u * CHUNKS + quad_of(item);
  var v = Item(x4[at], x4[at + 2u], x4[at + 4u], x4[at + 6u]);
  if RESIDUAL {
    v = Item(sum(v.a, y4[at]), sum(v.b, y4[at + 2u]), sum(v.c, y4[at + 4u]), sum(v.d, y4[at + 6u]));
    x4[at] = v.a;
    x4[at + 2u] = v.b;
    x4[at + 4u] = v.c;
    x4[at + 6u] = v.d;
  }
  if GATE { v = Item(gated(v.a, y4[at]), gated(v.b, y4[at + 2u]), gated(v.c, y4[at + 4u]), gated(v.d, y4[at + 6u])); }
  return v;
}

// The steps before, again; a residual is already added.
fn again(row: u32, item: u32) -> Item {
  let at = row * 8u * CHUNKS + quad_of(item);
  let v = Item(x4[at], x4[at + 2u], x4[at + 4u], x4[at + 6u]);
  if !GATE { return v; }
  return Item(gated(v.a, y4[at]), gated(v.b, y4[at + 2u]), gated(v.c, y4[at + 4u]), gated(v.d, y4[at + 6u]));
}

fn floored(v: Item) -> Item {
  return Item(flush4(v.a, WEIGHT_FLOOR), flush4(v.b, WEIGHT_FLOOR), flush4(v.c, WEIGHT_FLOOR), flush4(v.d, WEIGHT_FLOOR));
}

// What rms_norm makes of an item. It need not be settled: what that would flush quantises to 0 just as well.
fn normalised(v0: Item, item: u32, r: f32) -> Item {
  if !NORM { return v0; }
  let v = floored(v0);
  let at = quad_of(item);
  let r4 = vec4(r);
  return Item(mul4(mul4(v.a, r4), flush4(norm4[at], WEIGHT_FLOOR)), mul4(mul4(v.b, r4), flush4(norm4[at + 2u], WEIGHT_FLOOR)),
              mul4(mul4(v.c, r4), flush4(norm4[at + 4u], WEIGHT_FLOOR)), mul4(mul4(v.d, r4), flush4(norm4[at + 6u], WEIGHT_FLOOR)));
}

fn byte_sum(word: u32) -> i32 { return dot4I8Packed(word, 0x01010101u); }

fn store_halves(row: u32, q: vec4<u32>, item: u32) {
  let at = 8u * (item / 2u * params.places + row) + item % 2u;
  halves[at] = four_halves(unpack4xI8(q.x).xzyw);
  halves[at + 2u] = four_halves(unpack4xI8(q.y).xzyw);
  halves[at + 4u] = four_halves(unpack4xI8(q.z).xzyw);
  halves[at + 6u] = four_halves(unpack4xI8(q.w).xzyw);
  sums[item] = byte_sum(q.x) + byte_sum(q.y) + byte_sum(q.z) + byte_sum(q.w);
}

fn store_word(at: u32, word: u32) { halves[at / 2u][at % 2u] = word; }
fn sum_of(chunk: u32) -> i32 { return sums[2u * chunk] + sums[2u * chunk + 1u]; }

fn bytes_of(i: vec4<i32>) -> u32 {
  let b = bitcast<vec4<u32>>(i) & vec4(255u);
  return b.x | (b.y << 8u) | (b.z << 16u) | (b.w << 24u);
}

// What lies behind the halves, once all sums are known.
fn store_sums(row: u32, first: u32, end: u32) {
  for (var c = first; c < end; c += 4u * THREADS) {
    let s = vec4(sum_of(c), sum_of(c + 1u), sum_of(c + 2u), sum_of(c + 3u));
    let at = (16u * CHUNKS + 4u * (c / SPAN)) * params.places + 4u * row + c % SPAN / 4u;
    store_word(at, bytes_of(s & vec4(63)));
    store_word(at + 2u, bytes_of(s >> vec4(6u)));
  }
}

fn byte_sums(q: vec4<u32>) -> u32 {
  return bitcast<u32>(byte_sum(q.x) + byte_sum(q.y) + ((byte_sum(q.z) + byte_sum(q.w)) << 16u));
}

// Half a chunk of one plane, four words and their sums.
fn store_plane(row: u32, item: u32, plane: u32, q: vec4<u32>) {
  let block = item / (2u * SPAN);
  let k = block / 8u * SPAN + item / 2u % SPAN;
  let half = (item & 1u) * 8u;
  let at = 4u * (integers_at(row / 4u, k, plane, block & 7u) + (row & 3u) * 16u + half);
  out[at] = q.x;
  out[at + 1u] = q.y;
  out[at + 2u] = q.z;
  out[at + 3u] = q.w;
  out[4u * (sums_at(params.places / 4u, row / 4u, k, plane, block & 7u) + half) + (row & 3u)] = byte_sums(q);
}

fn store_lanewise(row: u32, item: u32, q: Quantised) {
  store_plane(row, item, 0u, q.high);
  if PRECISE { store_plane(row, item, 1u, q.low); }
  if item % (2u * SPAN) == 0u { store_scale(row, item / (2u * SPAN), q.scale); }
}

fn store_scale(row: u32, block: u32, scale: u32) {
  out[4u * scales_at(params.places / 4u, row / 4u, block / 8u * SPAN, block & 7u) + (row & 3u)] = scale;
}

fn store(row: u32, v: Item, item: u32) {
  let block = item / (2u * SPAN);
  let q = quantise(v, atomicLoad(&peaks[block]));
  if LANEWISE {
    store_lanewise(row, item, q);
  } else {
    store_in_order(row, item, q);
  }
}

fn store_in_order(row: u32, item: u32, q: Quantised) {
  let block = item / (2u * SPAN);
  let at = row * params.stride + quad_of(item);
  out[at] = q.high.x;
  out[at + 2u] = q.high.y;
  out[at + 4u] = q.high.z;
  out[at + 6u] = q.high.w;
  if PRECISE {
    let low = at + 8u * CHUNKS;
    out[low] = q.low.x;
    out[low + 2u] = q.low.y;
    out[low + 4u] = q.low.z;
    out[low + 6u] = q.low.w;
  }
  if item % (2u * SPAN) == 0u {
    out[row * params.stride + select(8u, 16u, PRECISE) * CHUNKS + block] = q.scale;
    if HALVES {
      store_word((16u * CHUNKS + 4u * BLOCKS + block) * params.places + row, q.scale);
    }
  }
  if HALVES { store_halves(row, q.high, item); }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = group.y;
  let begin = SECTION * group.x;
  let items = min(begin + SECTION, 2u * CHUNKS);
  for (var b = begin / (2u * SPAN) + thread; b < items / (2u * SPAN); b += THREADS) { atomicStore(&peaks[b], 0u); }
  // A thread's first two items stay in registers; the others of a long row are made again.
  let a = begin + thread;
  let b = a + THREADS;
  var first = Item(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
  var second = first;
  if a < items { first = first_steps(row, a); }
  if b < items { second = first_steps(row, b); }
  for (var item = b + THREADS; item < items; item += THREADS) {
    let v = first_steps(row, item);
    if NORM { lanes[item] = squares(floored(v)); }
  }
  var r = 1.0;
  if NORM {
    if a < items { lanes[a] = squares(floored(first)); }
    if b < items { lanes[b] = squares(floored(second)); }
    sum_lanes(thread, THREADS, CHUNKS, 1u);
    r = rsqrt(add(mul(sum_of_row(0u), params.inverse_width), params.eps));
    if a < items { first = normalised(first, a, r); }
    if b < items { second = normalised(second, b, r); }
  } else {
    workgroupBarrier();
  }
  if a < items { atomicMax(&peaks[a / (2u * SPAN)], peak(first)); }
  if b < items { atomicMax(&peaks[b / (2u * SPAN)], peak(second)); }
  for (var item = b + THREADS; item < items; item += THREADS) {
    atomicMax(&peaks[item / (2u * SPAN)], peak(normalised(again(row, item), item, r)));
  }
  workgroupBarrier();
  if a < items { store(row, first, a); }
  if b < items { store(row, second, b); }
  for (var item = b + THREADS; item < items; item += THREADS) { store(row, normalised(again(row, item), item, r), item); }
  if LANEWISE && begin == 0u {
    for (var block = BLOCKS + thread; block < EACH / SPAN * 8u; block += THREADS) { store_scale(row, block, 0u); }
  }
  if HALVES {
    workgroupBarrier();
    store_sums(row, begin / 2u + 4u * thread, items / 2u);
  }
}
