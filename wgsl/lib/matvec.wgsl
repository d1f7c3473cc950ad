// The core of the fused kernels of a single row, or of ROWS rows: multiplies activations with rows of a matrix and leaves the sums to
// `finish`. Its twin is matmul in src/ops. The second dimension of workgroups are groups of ROWS rows, or with one row what a kernel makes of it.
//
// A kernel declares `weight_row` (the matrix row of a workgroup's slot) and `finish`. What depends on the kind of the format, the weights and the
// terms, is in matvec_block.wgsl or in matvec_float.wgsl. Where activations come from is in prepared.wgsl (a workgroup makes them) or in given.wgsl (they
// were quantised before). A single row may consist of SECTIONS, which are multiplied with matrices of their own.

override THREADS: u32 = 64u;
override CHUNKS: u32 = 8u; // chunks of 32 in a row
override ACROSS: u32 = 1u; // rows that a workgroup takes side by side
override LOOPS: u32 = 1u; // times DEPTH rows that a thread takes
override DEPTH: u32 = 4u; // rows of a thread that are fetched together: 1, 2 or 4
override ROWS: u32 = 1u; // activation rows: 1, 2 or 4
override SLOTS: u32 = ACROSS * LOOPS * DEPTH; // rows of a workgroup
override SLOTS8: u32 = 8u * SLOTS;
override SECTIONS: u32 = 1u; // parts of the row, with ROWS = 1
override SECTION_CHUNKS: u32 = CHUNKS / SECTIONS;
override LANES: u32 = SLOTS8 * ROWS * SECTIONS;
override STEP: u32 = THREADS / ROWS; // threads that finish a row
override TERMS: u32 = select(1u, SLOTS * ROWS * CHUNKS, SPAN == 1u);
var<private> side: u32; // the workgroup's number in the second dimension; with SECTIONS the one that `weight_row` is asked for
var<workgroup> terms: array<f32, TERMS>;
var<private> first_row: u32; // the first row of the workgroup
var<private> local: u32; // the row of the workgroup that this thread finishes
var<workgroup> lane_sums: array<f32, LANES>; // [slot][row or section][lane]

// The row of the batch, and where element `n` of a result of `width` elements lies.
fn token() -> u32 {
  if ROWS == 1u { return 0u; }
  return first_row + local;
}
fn place(n: u32, width: u32) -> u32 {
  if ROWS == 1u { return item_word(n, width / 16u); }
  return token() * width + n;
}

// The section of chunk `c`.
fn section_of(c: u32) -> u32 {
  if SECTIONS == 1u { return 0u; }
  return c / SECTION_CHUNKS;
}
// The matrix row of a workgroup's slot for a section.
fn section_row(group: u32, slot: u32, section: u32) -> u32 {
  if SECTIONS > 1u { side = section; }
  return weight_row(group, slot);
}

// The product of the row of `slot`, once all threads are past the sums.
fn product(slot: u32) -> f32 { return section_product(slot * ROWS + local); }
// The same of number `n` of the slots' rows, or of their sections.
fn section_product(n: u32) -> f32 {
  let at = 8u * n;
  return settle(s8_tree(vec4(lane_sums[at], lane_sums[at + 1u], lane_sums[at + 2u], lane_sums[at + 3u]),
                        vec4(lane_sums[at + 4u], lane_sums[at + 5u], lane_sums[at + 6u], lane_sums[at + 7u])));
}

// Stores what chunk `c` of DEPTH rows gives to activation row `row`.
fn put_all(row: u32, slot: u32, c: u32, f0: Fetched, f1: Fetched, f2: Fetched, f3: Fetched) {
  let x = activations(row, c);
  put(slot * ROWS + row, row, c, f0, x);
  if DEPTH > 1u { put((slot + ACROSS) * ROWS + row, row, c, f1, x); }
  if DEPTH > 2u {
    put((slot + 2u * ACROSS) * ROWS + row, row, c, f2, x);
    put((slot + 3u * ACROSS) * ROWS + row, row, c, f3, x);
  }
}

// Multiplies rows in groups of DEPTH that are fetched together; the first are on their way while the activations are
// prepared.
fn multiply(group: u32, thread: u32) {
  let passes = (CHUNKS + THREADS - 1u) / THREADS; // over the chunks of a row longer than a workgroup
  let across = thread / CHUNKS;
  var c = min(thread % CHUNKS, CHUNKS - 1u);
  var slot = min(across, ACROSS - 1u);
  var f0 = fetch(group, slot, c);
  var f1 = f0;
  if DEPTH > 1u { f1 = fetch(group, slot + ACROSS, c); }
  var f2 = f0;
  var f3 = f0;
  if DEPTH > 2u {
    f2 = fetch(group, slot + 2u * ACROSS, c);
    f3 = fetch(group, slot + 3u * ACROSS, c);
  }
  prepare(group, thread);
  for (var step = 0u; step < LOOPS * passes; step++) {
    if across < ACROSS && thread + (step % passes) * THREADS < CHUNKS * ACROSS {
      if ROWS == 1u {
        put_all(0u, slot, c, f0, f1, f2, f3);
      } else {
        for (var row = 0u; row < ROWS; row++) { put_all(row, slot, c, f0, f1, f2, f3); }
      }
    }
    if step + 1u < LOOPS * passes {
      c = min(thread % CHUNKS + (step + 1u) % passes * THREADS, CHUNKS - 1u);
      slot = min(across, ACROSS - 1u) + (step + 1u) / passes * DEPTH * ACROSS;
      f0 = fetch(group, slot, c);
      if DEPTH > 1u { f1 = fetch(group, slot + ACROSS, c); }
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
  side = workgroup.y;
  first_row = workgroup.y * ROWS;
  multiply(group, thread);
  workgroupBarrier();
  for (var i = thread; i < LANES; i += THREADS) {
    var sum = 0.0;
    for (var b = i & 7u; b < SECTION_CHUNKS / SPAN; b += 8u) { sum = add(sum, term(group, i >> 3u, b)); }
    lane_sums[i] = sum;
  }
  workgroupBarrier();
  if ROWS == 1u {
    finish(group, thread);
  } else {
    local = thread / STEP;
    if token() < state.rows { finish(group, thread % STEP); }
  }
}
