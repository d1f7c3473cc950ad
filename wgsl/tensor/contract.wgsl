// out[batch, m, n] = the sum over k of a[batch, m, k] * b[batch, n, k]; twin of src/tensor/contract.rs. A workgroup makes a tile of
// 64 x 64, a thread 4 x 4 of it, with rows and columns that are 16 apart.
// needs: strided

struct Params {
  batches: u32, // products
  rows: u32, // m
  columns: u32, // n
  terms: u32, // k
  slot: u32, // where a fault is told
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> a: array<f32>;
@group(0) @binding(5) var<storage, read> b: array<f32>;
@group(0) @binding(6) var<storage, read_write> out: array<u32>;

const TILE = 64u;
const BLOCK = 32u;
const CONTRACTION_FLOOR = 0x1p-50f;
override THREADS: u32 = 256u;
override ELEMENTS: u32 = 2048u; // TILE * BLOCK
var<workgroup> a_tile: array<f32, ELEMENTS>;
var<workgroup> b_tile: array<f32, ELEMENTS>;

// 4 x 4 sums, a row each.
struct Sums { r0: vec4<f32>, r1: vec4<f32>, r2: vec4<f32>, r3: vec4<f32> }

fn zeros() -> Sums { return Sums(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0)); }

fn plus(x: Sums, y: Sums) -> Sums {
  return Sums(add4(x.r0, y.r0), add4(x.r1, y.r1), add4(x.r2, y.r2), add4(x.r3, y.r3));
}

// Where element k of a row of a tile is. Threads that write neighbours in k, or read neighbouring rows, meet in no bank.
fn at(row: u32, k: u32) -> u32 { return k * TILE + (row ^ k); }

// The sum of the terms l, l + 8, ... of a block.
fn lane(l: u32, row: u32, column: u32) -> Sums {
  var s = zeros();
  for (var k = l; k < BLOCK; k += 8u) {
    let y = vec4(b_tile[at(column, k)], b_tile[at(column + 16u, k)], b_tile[at(column + 32u, k)], b_tile[at(column + 48u, k)]);
    s.r0 = add4(s.r0, mul4(vec4(a_tile[at(row, k)]), y));
    s.r1 = add4(s.r1, mul4(vec4(a_tile[at(row + 16u, k)]), y));
    s.r2 = add4(s.r2, mul4(vec4(a_tile[at(row + 32u, k)]), y));
    s.r3 = add4(s.r3, mul4(vec4(a_tile[at(row + 48u, k)]), y));
  }
  return s;
}

// S8 over a block, lanes in the order in which the tree takes them.
fn block_sum(row: u32, column: u32) -> Sums {
  let even = plus(
    plus(lane(0u, row, column), lane(4u, row, column)),
    plus(lane(2u, row, column), lane(6u, row, column)));
  let odd = plus(
    plus(lane(1u, row, column), lane(5u, row, column)),
    plus(lane(3u, row, column), lane(7u, row, column)));
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
  let row = thread / 16u;
  let column = thread % 16u;
  let blocks = (params.terms + BLOCK - 1u) / BLOCK;
  // The lanes of S8 over blocks, too, are taken in the order of the tree: three sums wait for their partners.
  var single = zeros();
  var pair = zeros();
  var half = zeros();
  var sum = zeros();
  for (var step = 0u; step < 8u; step++) {
    sum = zeros();
    for (var block = ((step & 1u) << 2u) | (step & 2u) | (step >> 2u); block < blocks; block += 8u) {
      workgroupBarrier();
      let k = thread % BLOCK;
      let term = block * BLOCK + k;
      let a_term = a_base + place(2u, term);
      let b_term = b_base + place(5u, term);
      for (var r = thread / BLOCK; r < TILE; r += THREADS / BLOCK) {
        var x = 0.0;
        var y = 0.0;
        if term < params.terms && first_row + r < params.rows {
          x = flush(a[a_term + place(1u, first_row + r)], CONTRACTION_FLOOR);
        }
        if term < params.terms && first_column + r < params.columns {
          y = flush(b[b_term + place(4u, first_column + r)], CONTRACTION_FLOOR);
        }
        a_tile[at(r, k)] = x;
        b_tile[at(r, k)] = y;
      }
      workgroupBarrier();
      sum = plus(sum, block_sum(row, column));
    }
    if (step & 1u) != 0u { sum = plus(single, sum); }
    if (step & 3u) == 3u { sum = plus(pair, sum); }
    if step == 7u { sum = plus(half, sum); }
    if (step & 1u) == 0u { single = sum; }
    if (step & 3u) == 1u { pair = sum; }
    if step == 3u { half = sum; }
  }
  if in_range {
    let first = batch * params.rows * params.columns;
    store(first, first_row + row, first_column + column, sum.r0);
    store(first, first_row + row + 16u, first_column + column, sum.r1);
    store(first, first_row + row + 32u, first_column + column, sum.r2);
    store(first, first_row + row + 48u, first_column + column, sum.r3);
  }
}
