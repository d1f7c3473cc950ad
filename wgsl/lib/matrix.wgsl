// The core of the kernels for matrix units, for formats whose blocks span chunks: tiles of 64 activation rows and 128 weight rows.
// Both operands were made halves before (wgsl/tiled/quantize.wgsl and unpack.wgsl). The units multiply halves and add floats;
// all numbers are integers that both hold exactly, so no order of theirs can change a bit. Weights come multiplied with their
// integer scales. Where a sum over a whole block may have more than 24 bits there are two that are added once: over the halves
// of the block (TWICE), or over the scales' high and low four bits (PLANES = 2), one after the other. Blocks are taken in the
// order of wgsl/tiled/matmul.wgsl.
//
// A block is taken in PIECES of 2 * UNIT columns. A kernel (wgsl/tiled/matrix.wgsl, matrix8.wgsl) declares
// - UNIT, the rows and columns of a matrix that its units multiply, and the types Left, Right and Sums of such matrices;
// - SUBGROUP, the threads that share one: UNIT * UNIT / 8, as a thread makes 16 outputs;
// - STRIDE, of a row of a piece in a tile, in vec4. Matrix loads need addresses that are multiples of 16 bytes;
// - Part, which has at least `x` and `w0`, what a thread brings of a piece; piece_part and store_part, which read and store it.

struct Params {
  blocks: u32, // of 256 columns in a row
  rows: u32, // weight rows of this product, a multiple of 4
  places: u32, // weight rows that `w_halves` has place for
  x_places: u32, // activation rows that `x_halves` has place for
  row_base: u32, // the first weight row in the result
  out_width: u32, // a multiple of 4
  has_bias: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> w_halves: array<vec4<f16>>; // as unpack.wgsl leaves them
@group(0) @binding(3) var<storage, read> w_floats: array<f32>; // the same buffer
@group(0) @binding(4) var<storage, read> x_halves: array<vec4<f16>>; // as quantize.wgsl leaves them
@group(0) @binding(5) var<storage, read> x_floats: array<f32>; // the same buffer
@group(0) @binding(6) var<storage, read> bias4: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> out4: array<vec4<f32>>;

override PLANES: u32 = 1u;
override TWICE: bool = false;
override HAS_MIN: bool = false;
const TOKENS = 64u;
const ROWS = 128u;
const QUADS = UNIT / 2u; // of a row of a piece, in vec4
const PIECES = 128u / UNIT; // of a block

// Two tiles of each: one is multiplied while the next is stored.
var<workgroup> x_tile: array<vec4<f16>, 2u * TOKENS * STRIDE>; // [tile][token][piece]
var<workgroup> w_tile: array<vec4<f16>, 2u * ROWS * STRIDE>; // [tile][row][piece]
var<workgroup> products: array<vec4<f32>, 1024>; // [subgroup][UNIT tokens][UNIT rows]
var<workgroup> x_scale: array<f32, 64>;
var<workgroup> w_scale: array<f32, 128>;
var<workgroup> w_min: array<f32, 128>;

fn store(n: u32, token: u32, sum: vec4<f32>) {
  if token >= state.rows || n >= params.rows { return; }
  let at = (params.row_base + n) / 4u;
  var y = settle4(sum);
  if params.has_bias != 0u { y = settle4(add4(y, bias4[at])); }
  out4[token * (params.out_width / 4u) + at] = y;
}

@compute @workgroup_size(512)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let first_row = ROWS * group.x;
  let first_token = TOKENS * group.y;
  // What a thread brings of a piece: eight neighbours read what lies together.
  let x_at = 8u * first_token + thread;
  let w_at = 8u * first_row + thread;
  let tile_at = thread / QUADS * STRIDE + thread % QUADS;
  // What lies behind the halves: sums of a block's chunks and minima, 16 halves, of which a thread brings a quarter; floats,
  // brought by the first threads for a row each, by the next for a token each.
  let sums_at = 64u * params.blocks * params.x_places + 4u * first_token + min(thread, 4u * TOKENS - 1u);
  let minima_at = 64u * PLANES * params.blocks * params.places + 4u * first_row + thread;
  let small_at = thread / 4u * STRIDE + thread % 4u;
  let w_words = (128u * PLANES + select(0u, 8u, HAS_MIN)) * params.blocks;
  let w_float = w_words * params.places + first_row + thread;
  let x_float = 136u * params.blocks * params.x_places + first_token + thread - ROWS;
  // A subgroup multiplies UNIT tokens and twice as many rows.
  let subgroup = thread / SUBGROUP;
  let left = subgroup / (64u / UNIT) * UNIT;
  let right = subgroup % (64u / UNIT) * (2u * UNIT);
  let corner = subgroup * (UNIT * UNIT / 4u);
  let my_row = right + 4u * (thread % (UNIT / 4u));
  let my_token = left + thread % SUBGROUP / (UNIT / 4u);
  let mine = corner + thread % SUBGROUP;

  let none = Quads(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
  var sums = none;
  // The pending sums of lanes.wgsl, in registers, which is faster here: of one, of two and of four lanes.
  var one_lane = none;
  var two_lanes = none;
  var four_lanes = none;
  var tile = 0u; // the one that is multiplied
  var place = Place(0u, 0u);
  store_part(0u, tile_at, piece_part(0u, 0u, x_at, w_at));
  workgroupBarrier();
  for (var n = 0u; n < params.blocks; n++) {
    let next = after(place, params.blocks);
    var c0 = Sums();
    var c1 = Sums();
    var p0 = Sums();
    var p1 = Sums();
    var m0 = Sums();
    var m1 = Sums();
    var scale = 0.0;
    var minimum = 0.0;
    if thread < ROWS {
      scale = w_floats[w_float + place.b * params.places];
      if HAS_MIN { minimum = w_floats[w_float + (params.blocks + place.b) * params.places]; }
    } else if thread < ROWS + TOKENS {
      scale = x_floats[x_float + place.b * params.x_places];
    }
    for (var k = 0u; k < PIECES * PLANES; k++) {
      // The next piece is on its way while this one is multiplied; behind the last one the chunks' sums and minima.
      let ends = k + 1u == PIECES * PLANES;
      var part: Part;
      if HAS_MIN && ends {
        part.x = x_halves[sums_at + 4u * place.b * params.x_places];
        part.w0 = w_halves[minima_at + 4u * place.b * params.places];
      } else {
        let piece = select(PIECES * place.b + (k + 1u) % PIECES, PIECES * next.b, ends);
        part = piece_part(piece, select((k + 1u) / PIECES, 0u, ends), x_at, w_at);
      }
      if (TWICE || PLANES == 2u) && k == PIECES / 2u * PLANES {
        p0 = c0;
        p1 = c1;
        c0 = Sums();
        c1 = Sums();
      }
      let xs = (tile * TOKENS + left) * STRIDE;
      let ws = (tile * ROWS + right) * STRIDE;
      let u0 = coopLoadT<Left>(&x_tile[xs], STRIDE);
      let u1 = coopLoadT<Left>(&x_tile[xs + UNIT / 4u], STRIDE);
      let v0 = coopLoad<Right>(&w_tile[ws], STRIDE);
      let v1 = coopLoad<Right>(&w_tile[ws + UNIT / 4u], STRIDE);
      let v2 = coopLoad<Right>(&w_tile[ws + UNIT * STRIDE], STRIDE);
      let v3 = coopLoad<Right>(&w_tile[ws + UNIT * STRIDE + UNIT / 4u], STRIDE);
      c0 = coopMultiplyAdd(u1, v1, coopMultiplyAdd(u0, v0, c0));
      c1 = coopMultiplyAdd(u1, v3, coopMultiplyAdd(u0, v2, c1));
      tile = 1u - tile;
      if HAS_MIN && ends {
        if thread < 4u * TOKENS { x_tile[tile * TOKENS * STRIDE + small_at] = part.x; }
        w_tile[tile * ROWS * STRIDE + small_at] = part.w0;
      } else {
        store_part(tile, tile_at, part);
      }
      if HAS_MIN || !ends { workgroupBarrier(); }
    }
    if HAS_MIN {
      // The chunks' sums times their minima: low bits and high bits of eight sums.
      let part = piece_part(PIECES * next.b, 0u, x_at, w_at);
      let xs = (tile * TOKENS + left) * STRIDE;
      let ws = (tile * ROWS + right) * STRIDE;
      let u = coopLoadT<Left>(&x_tile[xs], STRIDE);
      m0 = coopMultiplyAdd(u, coopLoad<Right>(&w_tile[ws], STRIDE), m0);
      m1 = coopMultiplyAdd(u, coopLoad<Right>(&w_tile[ws + UNIT * STRIDE], STRIDE), m1);
      if UNIT == 8u {
        // The high bits.
        let u = coopLoadT<Left>(&x_tile[xs + 2u], STRIDE);
        m0 = coopMultiplyAdd(u, coopLoad<Right>(&w_tile[ws + 2u], STRIDE), m0);
        m1 = coopMultiplyAdd(u, coopLoad<Right>(&w_tile[ws + UNIT * STRIDE + 2u], STRIDE), m1);
      }
      tile = 1u - tile;
      store_part(tile, tile_at, part);
    }
    if thread < ROWS {
      w_scale[thread] = scale;
      if HAS_MIN { w_min[thread] = minimum; }
    } else if thread < ROWS + TOKENS {
      x_scale[thread - ROWS] = scale;
    }
    if TWICE || PLANES == 2u {
      // One rounding: times 16 is exact.
      let by = select(1.0, 16.0, PLANES == 2u);
      c0 = p0 * by + c0;
      c1 = p1 * by + c1;
    }
    var t: Quads;
    coopStoreT(c0, &products[corner], UNIT / 4u);
    workgroupBarrier();
    t.t0 = products[mine];
    t.t1 = products[mine + SUBGROUP];
    workgroupBarrier();
    coopStoreT(c1, &products[corner], UNIT / 4u);
    workgroupBarrier();
    t.t2 = products[mine];
    t.t3 = products[mine + SUBGROUP];
    t = by_row(t, scales_of(my_row), scales_of(my_row + UNIT));
    if HAS_MIN {
      var m: Quads;
      workgroupBarrier();
      coopStoreT(m0, &products[corner], UNIT / 4u);
      workgroupBarrier();
      m.t0 = products[mine];
      m.t1 = products[mine + SUBGROUP];
      workgroupBarrier();
      coopStoreT(m1, &products[corner], UNIT / 4u);
      workgroupBarrier();
      m.t2 = products[mine];
      m.t3 = products[mine + SUBGROUP];
      t = both(t, by_row(m, minima_of(my_row), minima_of(my_row + UNIT)));
    }
    sums = both(sums, by_token(t, x_scale[my_token], x_scale[my_token + UNIT / 2u]));
    // A lane whose last block this was joins the others; lanes without blocks add nothing.
    if place.b + 8u >= params.blocks {
      var order = place.lane;
      loop {
        if (order & 1u) == 0u {
          one_lane = sums;
        } else {
          sums = both(one_lane, sums);
          if (order & 2u) == 0u {
            two_lanes = sums;
          } else {
            sums = both(two_lanes, sums);
            if (order & 4u) == 0u { four_lanes = sums; } else { two_lanes = both(four_lanes, sums); }
          }
        }
        sums = none;
        order++;
        if order >= 8u || lane_at(order) < params.blocks { break; }
      }
    }
    place = next;
  }
  // The last lane left the total.
  let row = first_row + my_row;
  let token = TOKENS * group.y + my_token;
  store(row, token, two_lanes.t0);
  store(row, token + UNIT / 2u, two_lanes.t1);
  store(row + UNIT, token, two_lanes.t2);
  store(row + UNIT, token + UNIT / 2u, two_lanes.t3);
}
