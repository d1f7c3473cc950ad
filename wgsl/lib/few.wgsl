// The core of products of several rows of activations, which were quantised before: a weight is read and unpacked once for several
// of them. A thread takes a lane of S8 of DEPTH matrix rows, so that eight neighbours read neighbours; the lanes' sums meet in workgroup
// memory. Its twin is matmul in src/ops. The second dimension of workgroups are groups of ROWS activation rows.
//
// Where a block is a chunk, a thread brings its weights itself, for all ROWS activation rows. Larger blocks lie too far apart for
// that: a workgroup brings a tile of 64 chunks of each of its matrix rows to its memory, eight blocks, and a thread takes four activation rows.
//
// A kernel declares `weight_row` and `finish`, as for matvec.wgsl. The layout of activations is that of lib/lanewise.wgsl.

@group(0) @binding(4) var<storage, read> x4: array<vec4<u32>>;

override THREADS: u32 = 64u;
override CHUNKS: u32 = 8u; // chunks of 32 in a row
override ROWS: u32 = 8u; // activation rows of a workgroup: 4 or 8, of larger blocks up to 16
override DEPTH: u32 = 2u; // matrix rows of a thread: 1, 2 or 4
override PARTS: u32 = select(THREADS / 2u / ROWS, THREADS / 8u, SPAN == 1u); // threads for different matrix rows, of a lane
override STEP: u32 = THREADS / ROWS; // threads that finish a row
override SLOTS8: u32 = 8u * PARTS * DEPTH; // lanes of the matrix rows of a workgroup
override LANES: u32 = SLOTS8 * ROWS;
override TILE: u32 = select(1u, 16u * SLOTS8, SPAN > 1u);
override BLOCK_SCALES: u32 = select(1u, SLOTS8, SPAN > 1u);
override SUB_SCALES: u32 = select(1u, 8u * SLOTS8, SPAN > 1u);
var<workgroup> w_tile: array<vec4<u32>, TILE>; // [matrix row][chunk][half][lane]; lanes of a chunk are rotated, so that writers meet different banks
var<workgroup> w_scale: array<vec2<f32>, BLOCK_SCALES>; // [matrix row][lane]
var<workgroup> w_sub: array<vec2<u32>, SUB_SCALES>; // pairs of i16: [matrix row][chunk][lane]
var<workgroup> lane_sums: array<f32, LANES>; // [activation row][matrix row][lane]
var<private> first_row: u32; // the first activation row of the workgroup
var<private> local: u32; // the activation row of the workgroup that this thread finishes

// The row of the batch, and where element `n` of a result of `width` elements lies.
fn token() -> u32 { return first_row + local; }
fn place(n: u32, width: u32) -> u32 { return token() * width + n; }

// The product of the row of `slot`, once all threads are past the sums.
fn product(slot: u32) -> f32 {
  let at = local * SLOTS8 + 8u * slot;
  return settle(s8_tree(vec4(lane_sums[at], lane_sums[at + 1u], lane_sums[at + 2u], lane_sums[at + 3u]),
                        vec4(lane_sums[at + 4u], lane_sums[at + 5u], lane_sums[at + 6u], lane_sums[at + 7u])));
}

// A chunk of a matrix row.
struct Fetched {
  w: Chunk,
  dm: vec2<f32>,
}

// Number `k` of a lane's chunks. Behind the last block of a row that is taken again: its activations have the scale 0.
fn fetch(group: u32, slot: u32, k: u32, lane: u32) -> Fetched {
  let block = weight_row(group, slot) * BLOCKS + min(lane + k / SPAN * 8u, BLOCKS - 1u);
  return Fetched(unpack(block, k % SPAN), scales(block));
}

// What a thread adds up for a matrix row and four activation rows.
struct Lane {
  sum: vec4<f32>,
  block: Integers,
}

fn with_chunk(before: Lane, a: vec4<u32>, b: vec4<u32>, sub: vec4<i32>, x: Quad) -> Lane {
  var block = before.block;
  accumulate(a, b, sub, x, &block);
  return Lane(before.sum, block);
}
fn with_block(before: Lane, dm: vec2<f32>, x: Quad) -> Lane {
  return Lane(add4(before.sum, terms(dm, x.scale, before.block)), Integers(vec4(0), vec4(0), vec4(0), vec4(0)));
}

// The matrix rows of a thread.
struct Lanes {
  r0: Lane,
  r1: Lane,
  r2: Lane,
  r3: Lane,
}

fn leave(slot: u32, lane: u32, quad: u32, sum: vec4<f32>) {
  let at = 4u * quad * SLOTS8 + slot * 8u + lane;
  lane_sums[at] = sum.x;
  lane_sums[at + SLOTS8] = sum.y;
  lane_sums[at + 2u * SLOTS8] = sum.z;
  lane_sums[at + 3u * SLOTS8] = sum.w;
}

fn leave_all(slot: u32, lane: u32, quad: u32, l: Lanes) {
  leave(slot, lane, quad, l.r0.sum);
  if DEPTH > 1u { leave(slot + PARTS, lane, quad, l.r1.sum); }
  if DEPTH > 2u {
    leave(slot + 2u * PARTS, lane, quad, l.r2.sum);
    leave(slot + 3u * PARTS, lane, quad, l.r3.sum);
  }
}

fn nothing() -> Lanes {
  let empty = Lane(vec4(0.0), Integers(vec4(0), vec4(0), vec4(0), vec4(0)));
  return Lanes(empty, empty, empty, empty);
}

fn with_whole(before: Lane, w: Fetched, x: Quad) -> Lane {
  return with_block(with_chunk(before, centred(w.w.a), centred(w.w.b), vec4(1), x), w.dm, x);
}
// A chunk, which is a block, of DEPTH matrix rows with four activation rows.
fn with_all(before: Lanes, w0: Fetched, w1: Fetched, w2: Fetched, w3: Fetched, x: Quad) -> Lanes {
  var l = before;
  l.r0 = with_whole(l.r0, w0, x);
  if DEPTH > 1u { l.r1 = with_whole(l.r1, w1, x); }
  if DEPTH > 2u {
    l.r2 = with_whole(l.r2, w2, x);
    l.r3 = with_whole(l.r3, w3, x);
  }
  return l;
}

// The same with all activation rows of the workgroup.
struct Both {
  low: Lanes,
  high: Lanes,
}
fn stepped(before: Both, w0: Fetched, w1: Fetched, w2: Fetched, w3: Fetched, k: u32, lane: u32) -> Both {
  var l = before;
  if k < EACH {
    l.low = with_all(l.low, w0, w1, w2, w3, quad_of(first_row / 4u, k, lane));
    if ROWS > 4u { l.high = with_all(l.high, w0, w1, w2, w3, quad_of(first_row / 4u + 1u, k, lane)); }
  }
  return l;
}

// Four chunks are fetched together, before those that were are multiplied: number i of matrix row i % DEPTH.
fn multiply_alone(group: u32, thread: u32) {
  let lane = thread & 7u;
  let slot = thread / 8u;
  let s1 = slot + 1u % DEPTH * PARTS;
  let s2 = slot + 2u % DEPTH * PARTS;
  let s3 = slot + 3u % DEPTH * PARTS;
  var f0 = fetch(group, slot, 0u, lane);
  var f1 = fetch(group, s1, 1u / DEPTH, lane);
  var f2 = fetch(group, s2, 2u / DEPTH, lane);
  var f3 = fetch(group, s3, 3u / DEPTH, lane);
  var l = Both(nothing(), nothing());
  for (var k = 0u; k < EACH; k += 4u / DEPTH) {
    let g0 = f0;
    let g1 = f1;
    let g2 = f2;
    let g3 = f3;
    let next = k + 4u / DEPTH;
    f0 = fetch(group, slot, next, lane);
    f1 = fetch(group, s1, next + 1u / DEPTH, lane);
    f2 = fetch(group, s2, next + 2u / DEPTH, lane);
    f3 = fetch(group, s3, next + 3u / DEPTH, lane);
    if DEPTH == 1u {
      l = stepped(l, g0, g0, g0, g0, k, lane);
      l = stepped(l, g1, g1, g1, g1, k + 1u, lane);
      l = stepped(l, g2, g2, g2, g2, k + 2u, lane);
      l = stepped(l, g3, g3, g3, g3, k + 3u, lane);
    } else if DEPTH == 2u {
      l = stepped(l, g0, g1, g0, g1, k, lane);
      l = stepped(l, g2, g3, g2, g3, k + 1u, lane);
    } else {
      l = stepped(l, g0, g1, g2, g3, k, lane);
    }
  }
  leave_all(slot, lane, 0u, l.low);
  if ROWS > 4u { leave_all(slot, lane, 1u, l.high); }
}

fn tile_place(slot: u32, chunk: u32, lane: u32) -> u32 { return (slot * 8u + chunk) * 16u + ((lane + chunk) & 7u); }

// Brings number `n` of the chunks of a tile, whose neighbours are neighbours in a matrix row.
fn bring(group: u32, tile: u32, n: u32) {
  let lane = (n / 8u) & 7u;
  let chunk = n & 7u;
  let slot = n / 64u;
  let f = fetch(group, slot, 8u * tile + chunk, lane);
  let at = tile_place(slot, chunk, lane);
  w_tile[at] = centred(f.w.a);
  w_tile[at + 8u] = centred(f.w.b);
  if chunk == 0u { w_scale[slot * 8u + lane] = f.dm; }
  let low = vec2(f.w.s.x, f.w.m.x) & vec2(0xffff);
  w_sub[(slot * 8u + chunk) * 8u + lane] = bitcast<vec2<u32>>(low | (vec2(f.w.s.y, f.w.m.y) << vec2(16u)));
}

// A chunk of the tile, of matrix row `slot`.
fn with_tile(before: Lane, slot: u32, chunk: u32, lane: u32, x: Quad) -> Lane {
  let p = bitcast<vec2<i32>>(w_sub[(slot * 8u + chunk) * 8u + lane]);
  let sub = vec4((p.x << 16u) >> 16u, p.x >> 16u, (p.y << 16u) >> 16u, p.y >> 16u);
  let at = tile_place(slot, chunk, lane);
  let l = with_chunk(before, w_tile[at], w_tile[at + 8u], sub, x);
  if chunk < 7u { return l; }
  return with_block(l, w_scale[slot * 8u + lane], x);
}

fn multiply_together(group: u32, thread: u32) {
  let lane = thread & 7u;
  let slot = thread / 8u % PARTS; // the first of the thread's, which are PARTS apart
  let quad = thread / 8u / PARTS;
  var l = nothing();
  for (var tile = 0u; tile < EACH / 8u; tile++) {
    if tile > 0u { workgroupBarrier(); }
    for (var n = thread; n < 8u * SLOTS8; n += 4u * THREADS) {
      bring(group, tile, n);
      bring(group, tile, n + THREADS);
      bring(group, tile, n + 2u * THREADS);
      bring(group, tile, n + 3u * THREADS);
    }
    workgroupBarrier();
    for (var chunk = 0u; chunk < 8u; chunk++) {
      let x = quad_of(first_row / 4u + quad, 8u * tile + chunk, lane);
      l.r0 = with_tile(l.r0, slot, chunk, lane, x);
      if DEPTH > 1u { l.r1 = with_tile(l.r1, slot + PARTS, chunk, lane, x); }
      if DEPTH > 2u {
        l.r2 = with_tile(l.r2, slot + 2u * PARTS, chunk, lane, x);
        l.r3 = with_tile(l.r3, slot + 3u * PARTS, chunk, lane, x);
      }
    }
  }
  leave_all(slot, lane, quad, l);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let group = workgroup.x;
  first_row = workgroup.y * ROWS;
  if SPAN == 1u {
    multiply_alone(group, thread);
  } else {
    multiply_together(group, thread);
  }
  workgroupBarrier();
  local = thread / STEP;
  if token() < state.rows { finish(group, thread % STEP); }
}
