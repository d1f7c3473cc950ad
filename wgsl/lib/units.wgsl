// The core of the kernels for matrix units that unpack weights themselves, for formats whose blocks span chunks: a workgroup takes
// TOKENS activation rows and ROWS weight rows, a subgroup 2 * UNIT of each. Why that is exact, what SUMS and PLANES are for, and the
// layout of activations: wgsl/lib/matrix.wgsl, which is for more rows, and whose weights were unpacked before.
//
// A kernel (wgsl/tiled/units.wgsl, units8.wgsl) declares UNIT, the rows and columns of a matrix that its units multiply, the types
// Left, Right and Sums of such matrices, and SUBGROUP, the threads that share one: UNIT * UNIT / 8, as a thread makes 32 outputs.

struct Params {
  streams: vec4<u32>, // word offset of each stream in the shard
  first: u32, // row of the weights
  blocks: u32, // of 256 columns in a row
  rows: u32, // weight rows of this product, a multiple of 4
  x_places: u32, // activation rows that `x_halves` has place for
  part_places: u32, // activation rows that a part of `out4` has place for
  row_base: u32, // the first weight row in the result
  out_width: u32, // a multiple of 4
  has_bias: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> weights: array<u32>;
@group(0) @binding(3) var<storage, read> weights4: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> x_halves: array<vec4<f16>>; // as quantize.wgsl leaves them
@group(0) @binding(5) var<storage, read> x_floats: array<f32>; // the same buffer
@group(0) @binding(6) var<storage, read> bias4: array<vec4<f32>>;
@group(0) @binding(7) var<storage, read_write> out4: array<vec4<f32>>; // with LANES < 8 [part][place][row], for tiled/lanes.wgsl

const TOKENS = 4u * UNIT;
const ROWS = 8u * UNIT;
const THREADS = TOKENS * ROWS / 32u;
override LANES: u32 = 8u; // lanes of S8 that a workgroup adds up
override PLANES: u32 = 1u; // 2: the scales' high and low four bits one after the other
override SUMS: u32 = 1u; // of integers, of a block: over the planes, or over the halves of the block
override CHUNKS: u32 = 8u * PLANES / SUMS; // of a sum
const X_FROM = THREADS - ROWS; // the first thread that brings activations, where there are more threads than weight rows
const X_THREADS = THREADS - X_FROM;
const STRIDE = 10u; // vec4 of a chunk in a tile: padded so that neighbours lie in other banks

var<workgroup> x_tile: array<vec4<f16>, TOKENS * STRIDE>; // [token][chunk]
var<workgroup> w_tile: array<vec4<f16>, ROWS * STRIDE>; // [row][chunk]
var<workgroup> products: array<vec4<f32>, TOKENS * ROWS / 4u>; // [subgroup][2 x 2][UNIT tokens][UNIT rows]
var<workgroup> w_scale: array<f32, ROWS>;
var<workgroup> w_min: array<f32, ROWS>;

// What a thread makes: four rows of two tokens, UNIT / 2 apart, then of the rows UNIT behind; the same of the tokens UNIT behind.
struct Outputs {
  a: Quads,
  b: Quads,
}
fn sum_of(x: Outputs, y: Outputs) -> Outputs { return Outputs(both(x.a, y.a), both(x.b, y.b)); }
fn two_products(at: u32) -> Quads {
  return Quads(products[at], products[at + SUBGROUP], products[at + 2u * SUBGROUP], products[at + 3u * SUBGROUP]);
}

// What a thread brings of a chunk: a row's weights, some activations, or both.
struct Part {
  w: Chunk,
  x0: vec4<f16>,
  x1: vec4<f16>,
  x2: vec4<f16>,
  x3: vec4<f16>,
}
fn part_of(thread: u32, block: u32, chunk: u32, x_at: u32) -> Part {
  var p: Part;
  if thread < ROWS { p.w = unpack(block, chunk); }
  if thread >= X_FROM {
    p.x0 = x_halves[x_at];
    p.x1 = x_halves[x_at + X_THREADS];
    p.x2 = x_halves[x_at + 2u * X_THREADS];
    p.x3 = x_halves[x_at + 3u * X_THREADS];
  }
  return p;
}
// Four weights times their integer scale, by floats that hold both.
fn scaled(word: u32, s: i32) -> vec4<f16> {
  let i = s * unpack4xI8(word) + vec4(0x4b400000 - s * OFFSET);
  return vec4<f16>(add4(bitcast<vec4<f32>>(i), vec4(-12582912.0)));
}
fn in_plane(s: i32, plane: u32) -> i32 { return select(select(s & 15, s >> 4u, plane == 0u), s, PLANES == 1u); }
fn store_part(thread: u32, plane: u32, p: Part) {
  if thread < ROWS {
    let at = thread * STRIDE;
    let s = in_plane(p.w.s.x, plane);
    let t = select(s, in_plane(p.w.s.y, plane), HALVES);
    w_tile[at] = scaled(p.w.a.x, s);
    w_tile[at + 1u] = scaled(p.w.a.y, s);
    w_tile[at + 2u] = scaled(p.w.a.z, s);
    w_tile[at + 3u] = scaled(p.w.a.w, s);
    w_tile[at + 4u] = scaled(p.w.b.x, t);
    w_tile[at + 5u] = scaled(p.w.b.y, t);
    w_tile[at + 6u] = scaled(p.w.b.z, t);
    w_tile[at + 7u] = scaled(p.w.b.w, t);
  }
  if thread >= X_FROM {
    let i = thread - X_FROM;
    let at = i / 8u * STRIDE + i % 8u;
    let next = X_THREADS / 8u * STRIDE;
    x_tile[at] = p.x0;
    x_tile[at + next] = p.x1;
    x_tile[at + 2u * next] = p.x2;
    x_tile[at + 3u * next] = p.x3;
  }
}

// The minima of a row's chunks, in bytes.
fn with_minimum(minima: vec2<u32>, chunk: u32, m: i32) -> vec2<u32> {
  let byte = bitcast<u32>(m) << (8u * (chunk & 3u));
  return minima | select(vec2(0u, byte), vec2(byte, 0u), chunk < 4u);
}
// Small integers as halves.
fn four_of(word: u32, by: i32) -> vec4<f16> {
  return vec4<f16>(add4(bitcast<vec4<f32>>(by * unpack4xI8(word) + vec4(0x4b400000)), vec4(-12582912.0)));
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
  // Workgroups that run at the same time have the same weights.
  let id = group.y * groups.x + group.x;
  let first_token = TOKENS * (id % groups.y);
  let part = id / groups.y % (8u / LANES);
  let first_row = ROWS * (id / groups.y / (8u / LANES));
  let row_block = (params.first + min(first_row + thread, params.rows - 1u)) * params.blocks;
  let x_base = 8u * first_token + thread - X_FROM;
  let x_step = 8u * params.x_places;
  // What lies behind the halves: sums of a block's chunks, 16 halves; scales.
  let sums_at = 64u * params.blocks * params.x_places + 4u * first_token + thread - X_FROM;
  let subgroup = thread / SUBGROUP;
  let left = subgroup / (ROWS / (2u * UNIT)) * (2u * UNIT);
  let right = subgroup % (ROWS / (2u * UNIT)) * (2u * UNIT);
  let corner_quad = UNIT * (UNIT / 4u);
  let corner = subgroup * 4u * corner_quad;
  let mine = corner + thread % SUBGROUP;
  let my_row = right + 4u * (thread % (UNIT / 4u));
  let my_token = first_token + left + thread % SUBGROUP / (UNIT / 4u);
  let x_float = 136u * params.blocks * params.x_places + my_token;

  let none = Quads(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
  var sums = Outputs(none, none);
  // The pending sums of lanes.wgsl, of one, of two and of four lanes: in memory, as they are seldom needed.
  var pending: array<Outputs, 3>;
  let end = LANES * (part + 1u);
  var place = Place(lane_at(LANES * part), LANES * part);
  var c0 = Sums();
  var c1 = Sums();
  var c2 = Sums();
  var c3 = Sums();
  coopStoreT(c0, &products[corner], UNIT / 4u);
  coopStoreT(c1, &products[corner + corner_quad], UNIT / 4u);
  coopStoreT(c2, &products[corner + 2u * corner_quad], UNIT / 4u);
  coopStoreT(c3, &products[corner + 3u * corner_quad], UNIT / 4u);
  let first_b = min(place.b, params.blocks - 1u);
  var p = part_of(thread, row_block + first_b, 0u, 8u * first_b * x_step + x_base);
  while place.b < params.blocks {
    let next = next_block(place, end);
    let next_b = min(next.b, params.blocks - 1u);
    var minima = vec2(0u);
    var dm = vec2(0.0);
    if thread < ROWS { dm = scales(row_block + place.b); }
    let e_at = x_float + place.b * params.x_places;
    let e = vec4(x_floats[e_at], x_floats[e_at + UNIT / 2u], x_floats[e_at + UNIT], x_floats[e_at + UNIT + UNIT / 2u]);
    var s0: vec4<f16>;
    var s1: vec4<f16>;
    if HAS_MIN && thread >= X_FROM {
      s0 = x_halves[sums_at + 4u * place.b * params.x_places];
      s1 = x_halves[sums_at + 4u * place.b * params.x_places + X_THREADS];
    }
    for (var sum = 0u; sum < SUMS; sum++) {
      c0 = Sums();
      c1 = Sums();
      c2 = Sums();
      c3 = Sums();
      for (var k = sum * CHUNKS; k < (sum + 1u) * CHUNKS; k++) {
        store_part(thread, k / 8u, p);
        if HAS_MIN { minima = with_minimum(minima, k % 8u, p.w.m.x); }
        workgroupBarrier();
        // The next chunk is on its way while this one is multiplied.
        let b = select(place.b, next_b, k + 1u == SUMS * CHUNKS);
        let chunk = (k + 1u) % 8u;
        p = part_of(thread, row_block + b, chunk, (8u * b + chunk) * x_step + x_base);
        for (var i = 0u; i < 32u; i += UNIT) {
          let u0 = coopLoadT<Left>(&x_tile[left * STRIDE + i / 4u], STRIDE);
          let u1 = coopLoadT<Left>(&x_tile[(left + UNIT) * STRIDE + i / 4u], STRIDE);
          let v0 = coopLoad<Right>(&w_tile[right * STRIDE + i / 4u], STRIDE);
          let v1 = coopLoad<Right>(&w_tile[(right + UNIT) * STRIDE + i / 4u], STRIDE);
          c0 = coopMultiplyAdd(u0, v0, c0);
          c1 = coopMultiplyAdd(u0, v1, c1);
          c2 = coopMultiplyAdd(u1, v0, c2);
          c3 = coopMultiplyAdd(u1, v1, c3);
        }
        workgroupBarrier();
      }
      if SUMS == 2u {
        // One rounding: times 16 is exact. The first sum has nothing before it: what lies there counts 0 times, as naga allows no
        // matrix operation in a branch.
        let by = select(0.0, select(1.0, 16.0, PLANES == 2u), sum == 1u);
        c0 = coopLoadT<Sums>(&products[corner], UNIT / 4u) * by + c0;
        c1 = coopLoadT<Sums>(&products[corner + corner_quad], UNIT / 4u) * by + c1;
        c2 = coopLoadT<Sums>(&products[corner + 2u * corner_quad], UNIT / 4u) * by + c2;
        c3 = coopLoadT<Sums>(&products[corner + 3u * corner_quad], UNIT / 4u) * by + c3;
        workgroupBarrier();
      }
      coopStoreT(c0, &products[corner], UNIT / 4u);
      coopStoreT(c1, &products[corner + corner_quad], UNIT / 4u);
      coopStoreT(c2, &products[corner + 2u * corner_quad], UNIT / 4u);
      coopStoreT(c3, &products[corner + 3u * corner_quad], UNIT / 4u);
    }
    if thread < ROWS {
      w_scale[thread] = flush(dm.x, WEIGHT_FLOOR);
      if HAS_MIN { w_min[thread] = dm.y; }
    }
    if HAS_MIN {
      // The chunks' sums times their minima: low bits and high bits of eight sums.
      if thread < ROWS {
        let at = thread * STRIDE;
        w_tile[at] = four_of(minima.x, 1);
        w_tile[at + 1u] = four_of(minima.y, 1);
        w_tile[at + 2u] = four_of(minima.x, 64);
        w_tile[at + 3u] = four_of(minima.y, 64);
      }
      if thread >= X_FROM {
        let i = thread - X_FROM;
        let at = i / 4u * STRIDE + i % 4u;
        x_tile[at] = s0;
        x_tile[at + X_THREADS / 4u * STRIDE] = s1;
      }
      workgroupBarrier();
      c0 = Sums();
      c1 = Sums();
      c2 = Sums();
      c3 = Sums();
      for (var i = 0u; i < 16u; i += UNIT) {
        let u0 = coopLoadT<Left>(&x_tile[left * STRIDE + i / 4u], STRIDE);
        let u1 = coopLoadT<Left>(&x_tile[(left + UNIT) * STRIDE + i / 4u], STRIDE);
        let v0 = coopLoad<Right>(&w_tile[right * STRIDE + i / 4u], STRIDE);
        let v1 = coopLoad<Right>(&w_tile[(right + UNIT) * STRIDE + i / 4u], STRIDE);
        c0 = coopMultiplyAdd(u0, v0, c0);
        c1 = coopMultiplyAdd(u0, v1, c1);
        c2 = coopMultiplyAdd(u1, v0, c2);
        c3 = coopMultiplyAdd(u1, v1, c3);
      }
    }
    workgroupBarrier();
    let d0 = scales_of(my_row);
    let d1 = scales_of(my_row + UNIT);
    var t = Outputs(by_row(two_products(mine), d0, d1), by_row(two_products(mine + 2u * corner_quad), d0, d1));
    if HAS_MIN {
      let m0 = minima_of(my_row);
      let m1 = minima_of(my_row + UNIT);
      workgroupBarrier();
      coopStoreT(c0, &products[corner], UNIT / 4u);
      coopStoreT(c1, &products[corner + corner_quad], UNIT / 4u);
      coopStoreT(c2, &products[corner + 2u * corner_quad], UNIT / 4u);
      coopStoreT(c3, &products[corner + 3u * corner_quad], UNIT / 4u);
      workgroupBarrier();
      t = sum_of(t, Outputs(by_row(two_products(mine), m0, m1), by_row(two_products(mine + 2u * corner_quad), m0, m1)));
    }
    sums = sum_of(sums, Outputs(by_token(t.a, e.x, e.y), by_token(t.b, e.z, e.w)));
    workgroupBarrier();
    // A lane whose last block this was joins the others; lanes without blocks add nothing.
    if next.lane != place.lane {
      for (var order = place.lane; order < min(next.lane, end); order++) {
        var level = 0u;
        while ((order >> level) & 1u) == 1u && (1u << level) < LANES {
          sums = sum_of(pending[level], sums);
          level++;
        }
        if (1u << level) < LANES {
          pending[level] = sums;
          sums = Outputs(none, none);
        }
      }
    }
    place = next;
  }
  // The last lane left the total.
  let row = first_row + my_row;
  store(row, my_token, part, sums.a.t0);
  store(row, my_token + UNIT / 2u, part, sums.a.t1);
  store(row + UNIT, my_token, part, sums.a.t2);
  store(row + UNIT, my_token + UNIT / 2u, part, sums.a.t3);
  store(row, my_token + UNIT, part, sums.b.t0);
  store(row, my_token + UNIT + UNIT / 2u, part, sums.b.t1);
  store(row + UNIT, my_token + UNIT, part, sums.b.t2);
  store(row + UNIT, my_token + UNIT + UNIT / 2u, part, sums.b.t3);
}
