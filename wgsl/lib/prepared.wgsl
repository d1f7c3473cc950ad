// Activations of matvec.wgsl that a workgroup prepares itself (RMSNorm, quantisation): its twins are, one after the other, rms_norm and
// quantize_activations in src/ops. Every workgroup prepares whole rows again, which costs less than a dispatch.
//
// A kernel declares NORM (whether the row is normalised first). What the row is made of is in stream.wgsl, joined.wgsl or slots.wgsl; how
// activations are kept, in prepared_block.wgsl or in matvec_float.wgsl.

@group(0) @binding(4) var<storage, read> x4: array<vec4<f32>>; // in the layout of items
@group(0) @binding(5) var<storage, read> norm4: array<vec4<f32>>; // likewise, flushed at the floor of weights

override ITEMS: u32 = 2u * CHUNKS * ROWS; // of all rows
override NORM_ITEMS: u32 = select(1u, ITEMS, NORM);

// The row of an item of all rows, and its number in that.
fn row_of_item(item: u32) -> u32 {
  if ROWS == 1u { return 0u; }
  return item / (2u * CHUNKS);
}
fn item_in_row(item: u32) -> u32 {
  if ROWS == 1u { return item; }
  return item % (2u * CHUNKS);
}

fn item_of(item: u32) -> Item {
  let v = stream_item(row_of_item(item), item_in_row(item));
  if !NORM { return v; }
  return Item(flush4(v.a, WEIGHT_FLOOR), flush4(v.b, WEIGHT_FLOOR), flush4(v.c, WEIGHT_FLOOR), flush4(v.d, WEIGHT_FLOOR));
}

// What rms_norm makes of an item. It need not be settled: what that would flush quantises to 0 just as well.
fn normalised(v: Item, item: u32, r: f32) -> Item {
  if !NORM { return v; }
  let items = 2u * CHUNKS;
  let at = item_in_row(item);
  let r4 = vec4(select(r, factor(row_of_item(item)), ROWS > 1u));
  return Item(mul4(mul4(v.a, r4), norm4[at]), mul4(mul4(v.b, r4), norm4[items + at]),
              mul4(mul4(v.c, r4), norm4[2u * items + at]), mul4(mul4(v.d, r4), norm4[3u * items + at]));
}
// What the norm multiplies a row with.
fn factor(row: u32) -> f32 { return rsqrt(add(mul(sum_of_row(row), params.inverse_width), params.eps)); }

// Prepares the activations; a thread's first item stays in registers, the others of a long row are read again.
fn prepare(group: u32, thread: u32) {
  clear(thread);
  begin(group, thread);
  var mine = item_of(min(thread, ITEMS - 1u));
  var r = 1.0;
  if NORM {
    if thread < ITEMS { lanes[thread] = squares(mine); }
    if THREADS < ITEMS {
      for (var item = thread + THREADS; item < ITEMS; item += THREADS) { lanes[item] = squares(item_of(item)); }
    }
    sum_lanes(thread, THREADS, CHUNKS, ROWS);
    if ROWS == 1u { r = factor(0u); }
    mine = normalised(mine, min(thread, ITEMS - 1u), r);
  } else {
    workgroupBarrier();
  }
  if thread < ITEMS { look(mine, thread); }
  if THREADS < ITEMS {
    for (var item = thread + THREADS; item < ITEMS; item += THREADS) { look(normalised(item_of(item), item, r), item); }
  }
  workgroupBarrier();
  if thread < ITEMS { keep(mine, thread); }
  if THREADS < ITEMS {
    for (var item = thread + THREADS; item < ITEMS; item += THREADS) { keep(normalised(item_of(item), item, r), item); }
  }
  workgroupBarrier();
}
