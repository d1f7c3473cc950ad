// The core of the fused kernels of a single row: prepares the activations (RMSNorm, quantisation), multiplies them with
// rows of a matrix and leaves the sums to `finish`. Its twins are, one after the other, rms_norm, quantize_activations
// and matmul in src/ops. Every workgroup prepares the whole row again, which costs less than a dispatch.
//
// A kernel declares NORM (whether the row is normalised first), `weight_row` (the matrix row of a workgroup's slot) and `finish`. What depends on the kind of the
// format, the activations and the terms, is in matvec_block.wgsl or in matvec_float.wgsl; what the row is made of, in stream.wgsl,
// joined.wgsl or slots.wgsl.

struct Params {
  streams: vec4<u32>, // word offset of each stream in the shard
  rows: u32, // rows of the product
  first: u32, // the first of them in the weights
  second: u32, // gate_up: the first row of the second matrix; qkv, siblings: rows of the first product
  third: u32, // qkv, siblings: rows of the second product; experts: rows of the first tensor
  eps: f32, // of the norm
  inverse_width: f32, // 1 / elements per row
  branch_eps: f32, // of the norm of the branch that joins the row
  branch_scale: f32, // what that branch is multiplied by
  steps: f32, // activations: the integer of the largest magnitude
  inverse_steps: f32, // 1 / steps
  x_items: u32, // experts: items of the input row
  out_items: u32, // experts: items of the output row
  out_first: u32, // products: where the first output is stored in a row
  stride: u32, // products: words between the rows of the tokens of a submission; 0 where each replaces the one before
  head_dim: u32, // elements per head
  pairs: u32, // rotated pairs per head
  kv_width: u32, // elements of a row of the cache
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> weights: array<u32>;
@group(0) @binding(3) var<storage, read> weights4: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> x4: array<vec4<f32>>; // in the layout of items
@group(0) @binding(5) var<storage, read> norm4: array<vec4<f32>>; // likewise, flushed at the floor of weights

override THREADS: u32 = 64u;
override CHUNKS: u32 = 8u; // chunks of 32 in a row
override ACROSS: u32 = 1u; // rows that a workgroup takes side by side
override LOOPS: u32 = 1u; // times DEPTH rows that a thread takes
override DEPTH: u32 = 4u; // rows of a thread that are fetched together: 2 or 4
override SLOTS: u32 = ACROSS * LOOPS * DEPTH; // rows of a workgroup
override SLOTS8: u32 = 8u * SLOTS;
override TERMS: u32 = select(1u, SLOTS * CHUNKS, SPAN == 1u);
override NORM_ITEMS: u32 = select(1u, 2u * CHUNKS, NORM);
var<private> side: u32; // the workgroup's number in the second dimension
var<workgroup> terms: array<f32, TERMS>;
var<workgroup> lane_sums: array<f32, SLOTS8>;

fn item_of(item: u32) -> Item {
  let v = stream_item(item);
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

// Prepares the activations; a thread's first item stays in registers, the others of a long row are read again.
fn prepare(group: u32, thread: u32) {
  let items = 2u * CHUNKS;
  clear(thread);
  begin(group, thread);
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
  if thread < items { look(mine, thread); }
  if THREADS < 2u * CHUNKS {
    for (var item = thread + THREADS; item < items; item += THREADS) { look(normalised(item_of(item), item, r), item); }
  }
  workgroupBarrier();
  if thread < items { keep(mine, thread); }
  if THREADS < 2u * CHUNKS {
    for (var item = thread + THREADS; item < items; item += THREADS) { keep(normalised(item_of(item), item, r), item); }
  }
  workgroupBarrier();
}

// The product of the row of `slot`, once all threads are past the sums.
fn product(slot: u32) -> f32 {
  let at = 8u * slot;
  return settle(s8_tree(vec4(lane_sums[at], lane_sums[at + 1u], lane_sums[at + 2u], lane_sums[at + 3u]),
                        vec4(lane_sums[at + 4u], lane_sums[at + 5u], lane_sums[at + 6u], lane_sums[at + 7u])));
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
  prepare(group, thread);
  for (var step = 0u; step < LOOPS * passes; step++) {
    if across < ACROSS && thread + (step % passes) * THREADS < CHUNKS * ACROSS {
      let x = activations(c);
      put(slot, c, f0, x);
      put(slot + ACROSS, c, f1, x);
      if DEPTH > 2u {
        put(slot + 2u * ACROSS, c, f2, x);
        put(slot + 3u * ACROSS, c, f3, x);
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
  side = workgroup.y;
  multiply(group, thread);
  workgroupBarrier();
  for (var i = thread; i < SLOTS8; i += THREADS) {
    var sum = 0.0;
    for (var b = i & 7u; b < CHUNKS / SPAN; b += 8u) { sum = add(sum, term(group, i >> 3u, b)); }
    lane_sums[i] = sum;
  }
  workgroupBarrier();
  finish(group, thread);
}
