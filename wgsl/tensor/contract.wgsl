// out[batch, m, n] = the sum over k of a[batch, m, k] * b[batch, n, k]; twin of src/tensor/contract.rs. A workgroup makes a tile of
// 64 x 64, a thread 4 x 4 of it: four neighbouring rows, and columns that are 16 apart, so that threads store neighbours.
// needs: strided

struct Params {
  batches: u32, // products
  rows: u32, // m
  columns: u32, // n
  terms: u32, // k
  a_row: u32, // how far rows of a are from each other
  a_term: u32, // and their terms
  b_row: u32, // the same of b's columns
  b_term: u32, // and their terms
  slot: u32, // where a fault is told
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> a: array<u32>;
@group(0) @binding(5) var<storage, read> b: array<u32>;
@group(0) @binding(6) var<storage, read_write> out: array<u32>;

const TILE = 64u;
const BLOCK = 32u;
const CONTRACTION_FLOOR = 0x1p-50f;
override THREADS: u32 = 256u;
override QUADS: u32 = 512u; // TILE * BLOCK / 4
override LANES: u32 = 8u; // of S8 over blocks: 1, 2, 4 or all 8; the others have no terms
override GENERAL: u32 = 0u; // 1: rows or terms are several axes, so that no stride leads from one to the next
var<workgroup> a_tile: array<vec4<f32>, QUADS>;
var<workgroup> b_tile: array<vec4<f32>, QUADS>;

// 4 x 4 sums, a row each.
struct Sums { r0: vec4<f32>, r1: vec4<f32>, r2: vec4<f32>, r3: vec4<f32> }

fn zeros() -> Sums { return Sums(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0)); }

fn plus(x: Sums, y: Sums) -> Sums {
  return Sums(add4(x.r0, y.r0), add4(x.r1, y.r1), add4(x.r2, y.r2), add4(x.r3, y.r3));
}

// Where term k of a thread's four rows, or columns, of a tile is. Their order differs from term to term, so that threads which write neighbouring
// terms meet in few banks.
fn at(quad: u32, k: u32) -> u32 { return k * (TILE / 4u) + (quad ^ (k % (TILE / 4u))); }

// Where the rows and the terms of an operand are.
fn a_row(row: u32) -> u32 { if GENERAL != 0u { return place(1u, row); } return row * params.a_row; }
fn a_term(term: u32) -> u32 { if GENERAL != 0u { return place(2u, term); } return term * params.a_term; }
fn b_row(row: u32) -> u32 { if GENERAL != 0u { return place(4u, row); } return row * params.b_row; }
fn b_term(term: u32) -> u32 { if GENERAL != 0u { return place(5u, term); } return term * params.b_term; }

// A term of a row; 0 beyond the ends. What is read there is another element, as a branch would keep reads from waiting side by side.
fn a_number(start: u32, row: u32, is_term: bool) -> f32 {
  let at = start + a_row(min(row, params.rows - 1u));
  let x = flush(bitcast<f32>(element(0u, a[word_at(0u, at)], at)), CONTRACTION_FLOOR);
  return select(0.0, x, is_term && row < params.rows);
}
fn b_number(start: u32, row: u32, is_term: bool) -> f32 {
  let at = start + b_row(min(row, params.columns - 1u));
  let x = flush(bitcast<f32>(element(1u, b[word_at(1u, at)], at)), CONTRACTION_FLOOR);
  return select(0.0, x, is_term && row < params.columns);
}

// A term of the four rows, or columns, that a thread computes with.
fn a_quad(start: u32, row: u32, is_term: bool) -> vec4<f32> {
  return vec4(a_number(start, row, is_term), a_number(start, row + 1u, is_term),
              a_number(start, row + 2u, is_term), a_number(start, row + 3u, is_term));
}
fn b_quad(start: u32, row: u32, is_term: bool) -> vec4<f32> {
  return vec4(b_number(start, row, is_term), b_number(start, row + 16u, is_term),
              b_number(start, row + 32u, is_term), b_number(start, row + 48u, is_term));
}

// The sum of the terms l, l + 8, ... of a block. It begins with the first product: 0 plus that differs in the sign of zero at most, which
// no result has.
fn lane(l: u32, rows: u32, columns: u32) -> Sums {
  let first = a_tile[at(rows, l)];
  let y0 = b_tile[at(columns, l)];
  var s = Sums(mul4(vec4(first.x), y0), mul4(vec4(first.y), y0), mul4(vec4(first.z), y0), mul4(vec4(first.w), y0));
  for (var k = l + 8u; k < BLOCK; k += 8u) {
    let x = a_tile[at(rows, k)];
    let y = b_tile[at(columns, k)];
    s.r0 = add4(s.r0, mul4(vec4(x.x), y));
    s.r1 = add4(s.r1, mul4(vec4(x.y), y));
    s.r2 = add4(s.r2, mul4(vec4(x.z), y));
    s.r3 = add4(s.r3, mul4(vec4(x.w), y));
  }
  return s;
}

// S8 over a block, lanes in the order in which the tree takes them.
fn block_sum(rows: u32, columns: u32) -> Sums {
  let even = plus(
    plus(lane(0u, rows, columns), lane(4u, rows, columns)),
    plus(lane(2u, rows, columns), lane(6u, rows, columns)));
  let odd = plus(
    plus(lane(1u, rows, columns), lane(5u, rows, columns)),
    plus(lane(3u, rows, columns), lane(7u, rows, columns)));
  return plus(even, odd);
}

fn store(first: u32, row: u32, column: u32, values: vec4<f32>) {
  if row >= params.rows { return; }
  let start = first + row * params.columns;
  if column < params.columns { out[start + column] = stored(values.x); }
  if column + 16u < params.columns { out[start + column + 16u] = stored(values.y); }
  if column + 32u < params.columns { out[start + column + 32u] = stored(values.z); }
  if column + 48u < params.columns { out[start + column + 48u] = stored(values.w); }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let across = (params.columns + TILE - 1u) / TILE;
  let down = (params.rows + TILE - 1u) / TILE;
  let tile = group_number(group);
  let batch = tile / (across * down);
  let in_range = batch < params.batches;
  let first_row = tile / across % down * TILE;
  let first_column = tile % across * TILE;
  let a_base = place(0u, select(0u, batch, in_range));
  let b_base = place(3u, select(0u, batch, in_range));
  let rows = thread / 16u;
  let columns = thread % 16u;
  let blocks = (params.terms + BLOCK - 1u) / BLOCK;
  // The lanes of S8 over blocks, too, are taken in the order of the tree: three sums wait for their partners.
  var single = zeros();
  var pair = zeros();
  var half = zeros();
  var sum = zeros();
  for (var i = 0u; i < LANES; i++) {
    let step = i * (8u / LANES);
    sum = zeros();
    for (var block = ((step & 1u) << 2u) | (step & 2u) | (step >> 2u); block < blocks; block += 8u) {
      let k = thread % BLOCK;
      let term = block * BLOCK + k;
      let is_term = term < params.terms;
      let a_start = a_base + a_term(min(term, params.terms - 1u));
      let b_start = b_base + b_term(min(term, params.terms - 1u));
      let quad = thread / BLOCK;
      let a0 = a_quad(a_start, first_row + 4u * quad, is_term);
      let a1 = a_quad(a_start, first_row + 4u * quad + 32u, is_term);
      let b0 = b_quad(b_start, first_column + quad, is_term);
      let b1 = b_quad(b_start, first_column + quad + 8u, is_term);
      workgroupBarrier();
      a_tile[at(quad, k)] = a0;
      a_tile[at(quad + 8u, k)] = a1;
      b_tile[at(quad, k)] = b0;
      b_tile[at(quad + 8u, k)] = b1;
      workgroupBarrier();
      sum = plus(sum, block_sum(rows, columns));
    }
    if (i & 1u) != 0u { sum = plus(single, sum); }
    if (i & 3u) == 3u { sum = plus(pair, sum); }
    if i == 7u { sum = plus(half, sum); }
    if (i & 1u) == 0u { single = sum; }
    if (i & 3u) == 1u { pair = sum; }
    if i == 3u { half = sum; }
  }
  if in_range {
    let first = batch * params.rows * params.columns;
    let row = first_row + 4u * rows;
    let column = first_column + columns;
    store(first, row, column, sum.r0);
    store(first, row + 1u, column, sum.r1);
    store(first, row + 2u, column, sum.r2);
    store(first, row + 3u, column, sum.r3);
  }
}
