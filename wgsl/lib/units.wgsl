// The core of the kernels for matrix units: products of TOKENS activation rows with 64 rows of a matrix whose blocks span chunks.
// The units multiply halves and add floats. All numbers are integers that both hold exactly, so no order of theirs can change a
// bit. Weights are multiplied with their integer scales first. A sum over a whole block may have more than 24 bits, so there are
// two, which are added once: over every other chunk, or, with PLANES = 2, over the scales' high and low four bits.
//
// A block is taken in pieces, a chunk each, with PLANES = 2 of a plane of its scales. A piece of both operands lies in workgroup
// memory as halves, each four numbers in the order 0 2 1 3, while four more are on their way. A subgroup multiplies UNIT tokens
// and 2 * UNIT rows. All that takes 24 KiB, so that two workgroups share a multiprocessor (docs/lab/performance.md).
//
// A kernel (wgsl/tiled/units.wgsl, units8.wgsl) declares UNIT, the rows and columns of a matrix that its units multiply, the types
// Left, Right and Sums of such matrices, and SUBGROUP, the threads that share one: UNIT * UNIT / 8, as a thread makes 16 outputs.

struct Params {
  streams: vec4<u32>, // word offset of each stream in the shard
  first: u32, // row of the weights
  blocks: u32, // of 256 columns in a row
  rows: u32, // weight rows of this product, a multiple of 4
  x_places: u32, // activation rows that `x_words` has place for
  part_places: u32, // activation rows that a part of `out4` has place for
  row_base: u32, // the first weight row in the result
  out_width: u32, // a multiple of 4
  has_bias: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> weights: array<u32>;
@group(0) @binding(3) var<storage, read> weights2: array<vec2<u32>>;
@group(0) @binding(4) var<storage, read> weights4: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> x_words: array<vec4<u32>>; // as quantize.wgsl leaves them with HALVES
@group(0) @binding(6) var<storage, read> x_floats: array<f32>; // the same buffer
@group(0) @binding(7) var<storage, read> bias4: array<vec4<f32>>;
@group(0) @binding(8) var<storage, read_write> out4: array<vec4<f32>>; // with LANES < 8 [part][place][row], for tiled/lanes.wgsl

override TOKENS: u32 = 64u; // or 32
override THREADS: u32 = 4u * TOKENS;
override PLANES: u32 = 1u; // 2: the scales' high and low four bits one after the other
const ROWS = 64u;
const STRIDE = 10u; // vec4 of a row of a piece in a tile, padded so that neighbours lie in other banks

override X_TILE: u32 = 10u * TOKENS;
override PRODUCTS: u32 = 8u * TOKENS;
override X_SLOTS: u32 = 2u * TOKENS;
var<workgroup> x_tile: array<vec4<f16>, X_TILE>; // [token][piece]
var<workgroup> w_tile: array<vec4<f16>, 640>; // [row][piece]
var<workgroup> products: array<vec4<f32>, PRODUCTS>; // [subgroup][UNIT tokens][UNIT rows]
// What belongs to a block, of this one and of the next: [slot][row or token].
var<workgroup> w_bytes: array<vec4<u32>, 128>; // a Header's
var<workgroup> w_scale: array<f32, 128>;
var<workgroup> w_min: array<f32, 128>;
var<workgroup> x_bytes: array<vec4<u32>, X_SLOTS>; // the chunks' sums modulo 64, then those by 64
var<workgroup> x_scale: array<f32, X_SLOTS>;

fn weight_vec2(stream: u32, i: u32) -> vec2<u32> { return weights2[(params.streams[stream] >> 1u) + i]; }

// What belongs to a block of a row, as the format has it, or of a token.
struct Header {
  scales: vec4<u32>, // integer scales and minima, or sums
  d: u32, // float scales
}

// Integers as halves. As with the floats of native.wgsl, a factor of one or a summand of minus zero that the compiler does not
// know keeps it from taking them apart.
var<private> half_one: f16;
var<private> half_minus_zero: f16;
fn f16x2(bits: u32) -> vec2<f16> { return vec2<f16>(unpack2x16float(bits)); }
fn sub_half(a: f16, b: f16) -> f16 { return fma(a, half_one, -b); }
fn sub_half4(a: vec4<f16>, b: f16) -> vec4<f16> { return fma(a, vec4(half_one), vec4(-b)); }
fn mul_half4(a: vec4<f16>, b: f16) -> vec4<f16> { return fma(a, vec4(b), vec4(half_minus_zero)); }
// Small integers above `zero`, which is at least 1024: from there on a half's last bit is 1.
fn integer_of(bits: u32, zero: f16) -> f16 { return sub_half(f16x2(bits | 0x6400u).x, zero); }
fn integers_of(low: u32, high: u32, zero: f16) -> vec4<f16> {
  return sub_half4(vec4(f16x2(low | 0x64006400u), f16x2(high | 0x64006400u)), zero);
}

// What a thread brings. Of a piece: a quarter of a chunk of a weight row, and of the row 32 behind where TOKENS is 32, and
// activations.
var<private> w_row: u32;
var<private> quarter: u32;
var<private> row_blocks: vec2<u32>; // where the rows begin
var<private> x_first: u32; // where the activations are in chunk 0
// Of what belongs to a block: the first threads a row's, the next a token's.
var<private> header_blocks: u32; // where the row begins
var<private> header_token: u32;

fn fetch_header(thread: u32, block: u32) -> Header {
  if thread < ROWS { return packed_header(header_blocks + block); }
  let at = block * params.x_places + header_token;
  let all = params.blocks * params.x_places;
  if thread < ROWS + TOKENS { return Header(x_words[32u * all + at], bitcast<u32>(x_floats[132u * all + at])); }
  return Header();
}
fn store_header(thread: u32, slot: u32, h: Header) {
  if thread < ROWS {
    let at = slot * ROWS + thread;
    let dm = float_scales(h.d);
    w_bytes[at] = unpack_scales(h.scales);
    w_scale[at] = flush(dm.x, WEIGHT_FLOOR);
    if HAS_MIN { w_min[at] = dm.y; }
  } else if thread < ROWS + TOKENS {
    let at = slot * TOKENS + thread - ROWS;
    x_bytes[at] = h.scales;
    x_scale[at] = bitcast<f32>(h.d);
  }
}

// What a thread brings of a piece: eight activations, and eight weights of a row or of two.
struct Part {
  x: vec4<u32>,
  w0: vec4<u32>,
  w1: vec4<u32>,
}
fn fetch(block: u32, piece: u32) -> Part {
  let chunk = piece / PLANES;
  var p: Part;
  p.x = x_words[(8u * block + chunk) * 4u * params.x_places + x_first];
  p.w0 = fetch_eight(row_blocks.x + block, chunk, quarter);
  if TOKENS == 32u { p.w1 = fetch_eight(row_blocks.y + block, chunk, quarter); }
  return p;
}

// A plane of the integer scale of a thread's weights of a chunk.
fn scale_of(row: u32, chunk: u32, plane: u32) -> f16 {
  let byte = select(chunk, 2u * chunk + quarter / 2u, HALVES);
  let all = w_bytes[row];
  let half = select(all.xy, all.zw, byte >= 8u);
  let s = ((select(half.x, half.y, (byte & 4u) != 0u) >> (8u * (byte & 3u))) & 255u) ^ 128u;
  if PLANES == 1u { return integer_of(s, 1152.0h); }
  return select(integer_of(s & 15u, 1024.0h), integer_of(s >> 4u, 1032.0h), plane == 0u);
}
fn scaled(word: u32, s: f16) -> vec4<f16> {
  return mul_half4(integers_of(word & 0x00ff00ffu, (word >> 8u) & 0x00ff00ffu, f16(1024 + OFFSET)), s);
}
fn store_weights(row: u32, slot: u32, piece: u32, packed: vec4<u32>) {
  let s = scale_of(slot * ROWS + row, piece / PLANES, piece % PLANES);
  let eight = unpack_eight(packed, piece / PLANES);
  let at = row * STRIDE + 2u * quarter;
  w_tile[at] = scaled(eight.x, s);
  w_tile[at + 1u] = scaled(eight.y, s);
}
fn store_part(thread: u32, slot: u32, piece: u32, p: Part) {
  let at = thread / 4u * STRIDE + 2u * quarter;
  x_tile[at] = vec4(f16x2(p.x.x), f16x2(p.x.y));
  x_tile[at + 1u] = vec4(f16x2(p.x.z), f16x2(p.x.w));
  store_weights(w_row, slot, piece, p.w0);
  if TOKENS == 32u { store_weights(w_row + 32u, slot, piece, p.w1); }
}

// What a subgroup adds up: UNIT tokens with UNIT rows, and with the UNIT rows behind.
struct Two {
  a: Sums,
  b: Sums,
}
fn multiplied(c: Two, left: u32, right: u32) -> Two {
  var a = c.a;
  var b = c.b;
  for (var i = 0u; i < 8u; i += UNIT / 4u) {
    let u = coopLoadT<Left>(&x_tile[left * STRIDE + i], STRIDE);
    let v = coopLoad<Right>(&w_tile[right * STRIDE + i], STRIDE);
    let w = coopLoad<Right>(&w_tile[(right + UNIT) * STRIDE + i], STRIDE);
    a = coopMultiplyAdd(u, v, a);
    b = coopMultiplyAdd(u, w, b);
  }
  return Two(a, b);
}

// The chunks' sums of a token times the minima of a row, exactly.
fn minimum_sum(row: u32, x: vec4<u32>) -> f32 {
  let m = w_bytes[row];
  let low = dot4I8Packed(m.z, x.x) + dot4I8Packed(m.w, x.y);
  let high = dot4I8Packed(m.z, x.z) + dot4I8Packed(m.w, x.w);
  return add(bitcast<f32>(low + 64 * high + 0x4b400000), -12582912.0);
}
// What a block gives to four rows of a token.
fn term(sum: vec4<f32>, row: u32, token: u32) -> vec4<f32> {
  var t = mul4(vec4(w_scale[row], w_scale[row + 1u], w_scale[row + 2u], w_scale[row + 3u]), sum);
  if HAS_MIN {
    let x = x_bytes[token];
    let sums = vec4(minimum_sum(row, x), minimum_sum(row + 1u, x), minimum_sum(row + 2u, x), minimum_sum(row + 3u, x));
    t = add4(t, mul4(vec4(w_min[row], w_min[row + 1u], w_min[row + 2u], w_min[row + 3u]), sums));
  }
  return mul4(vec4(x_scale[token]), t);
}

// A block, and the place of its lane in the order of lanes.wgsl.
fn next_block(p: Place, end: u32) -> Place {
  if p.b + 8u < params.blocks { return Place(p.b + 8u, p.lane); }
  var lane = p.lane + 1u;
  while lane < end && lane_at(lane) >= params.blocks { lane++; }
  return Place(select(params.blocks, lane_at(lane & 7u), lane < end), lane);
}

fn store(n: u32, token: u32, part: u32, sum: vec4<f32>) {
  if token >= state.rows || n >= params.rows { return; }
  let row = (params.row_base + n) / 4u;
  let width = params.out_width / 4u;
  if LANES < 8u {
    out4[(part * params.part_places + token) * width + row] = sum;
    return;
  }
  var y = settle4(sum);
  if params.has_bias != 0u { y = settle4(add4(y, bias4[row])); }
  out4[token * width + row] = y;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) thread: u32) {
  half_one = f16x2(state.zero | 0x3c00u).x;
  half_minus_zero = f16x2(state.zero | 0x8000u).x;
  // Workgroups that run at the same time have the same weights.
  let id = group.y * groups.x + group.x;
  let first_token = TOKENS * (id % groups.y);
  let part = id / groups.y % (8u / LANES);
  let first_row = ROWS * (id / groups.y / (8u / LANES));
  let last_row = params.rows - 1u - first_row;
  w_row = thread / 4u;
  quarter = thread % 4u;
  let rows = min(vec2(w_row, w_row + 32u), vec2(last_row));
  row_blocks = (vec2(params.first + first_row) + rows) * params.blocks;
  x_first = 4u * first_token + thread;
  header_blocks = (params.first + first_row + min(thread, last_row)) * params.blocks;
  header_token = first_token + thread - ROWS;
  let subgroup = thread / SUBGROUP;
  let lane = thread % SUBGROUP;
  let left = subgroup / (ROWS / (2u * UNIT)) * UNIT;
  let right = subgroup % (ROWS / (2u * UNIT)) * (2u * UNIT);
  let corner = subgroup * (UNIT * UNIT / 4u);
  // Of the outputs: four rows of two tokens, UNIT / 2 apart, then of the rows UNIT behind.
  let my_token = left + lane % (UNIT / 2u);
  let my_row = right + 4u * (lane / (UNIT / 2u));
  let mine = corner + lane % (UNIT / 2u) * (UNIT / 4u) + lane / (UNIT / 2u);
  let below = mine + UNIT / 2u * (UNIT / 4u);

  var sums = Quads(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
  let end = LANES * (part + 1u);
  var place = Place(lane_at(LANES * part), LANES * part);
  let first_b = min(place.b, params.blocks - 1u);
  var slot = 0u;
  store_header(thread, 0u, fetch_header(thread, first_b));
  workgroupBarrier();
  var p0 = fetch(first_b, 0u);
  var p1 = fetch(first_b, 1u);
  var p2 = fetch(first_b, 2u);
  var p3 = fetch(first_b, 3u);
  store_part(thread, 0u, 0u, p0);
  workgroupBarrier();
  while place.b < params.blocks {
    let next = next_block(place, end);
    let next_b = min(next.b, params.blocks - 1u);
    var even = Two(Sums(), Sums());
    var odd = Two(Sums(), Sums());
    for (var k = 0u; k < 8u * PLANES; k += 4u) {
      let ends = k + 4u == 8u * PLANES;
      let far = select(place.b, next_b, ends);
      let piece = select(k + 4u, 0u, ends);
      var header: Header;
      if k == 0u { header = fetch_header(thread, next_b); }
      p0 = fetch(far, piece);
      even = multiplied(even, left, right);
      workgroupBarrier();
      store_part(thread, slot, k + 1u, p1);
      workgroupBarrier();
      p1 = fetch(far, piece + 1u);
      odd = multiplied(odd, left, right);
      workgroupBarrier();
      store_part(thread, slot, k + 2u, p2);
      workgroupBarrier();
      p2 = fetch(far, piece + 2u);
      even = multiplied(even, left, right);
      workgroupBarrier();
      store_part(thread, slot, k + 3u, p3);
      workgroupBarrier();
      p3 = fetch(far, piece + 3u);
      odd = multiplied(odd, left, right);
      workgroupBarrier();
      store_part(thread, select(slot, 1u - slot, ends), piece, p0);
      if k == 0u { store_header(thread, 1u - slot, header); }
      workgroupBarrier();
    }
    // One rounding: times 16 is exact.
    let by = select(1.0, 16.0, PLANES == 2u);
    let a = even.a * by + odd.a;
    let b = even.b * by + odd.b;
    let row = slot * ROWS + my_row;
    let token = slot * TOKENS + my_token;
    coopStoreT(a, &products[corner], UNIT / 4u);
    workgroupBarrier();
    sums.t0 = add4(sums.t0, term(products[mine], row, token));
    sums.t1 = add4(sums.t1, term(products[below], row, token + UNIT / 2u));
    workgroupBarrier();
    coopStoreT(b, &products[corner], UNIT / 4u);
    workgroupBarrier();
    sums.t2 = add4(sums.t2, term(products[mine], row + UNIT, token));
    sums.t3 = add4(sums.t3, term(products[below], row + UNIT, token + UNIT / 2u));
    // A lane whose last block this was joins the others; lanes without blocks add nothing.
    if next.lane != place.lane {
      for (var order = place.lane; order < min(next.lane, end); order++) {
        sums = merged_quads(order, 0u, sums);
      }
    }
    place = next;
    slot = 1u - slot;
  }
  // The last lane left the total.
  let row = first_row + my_row;
  let token = first_token + my_token;
  store(row, token, part, sums.t0);
  store(row, token + UNIT / 2u, part, sums.t1);
  store(row + UNIT, token, part, sums.t2);
  store(row + UNIT, token + UNIT / 2u, part, sums.t3);
}
