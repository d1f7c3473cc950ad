// One term of a matrix product for a format of integers with scales: a whole block times its activations.
// Activation rows are words: the high plane, with PRECISE the low plane, then the scales as f32 bits.

fn whole(i: i32) -> f32 { return nearest(i); }

// The term of block `b` of weight row `row` with activation row `x_row`.
fn term(row: u32, b: u32, x_row: u32) -> f32 {
  let chunks = params.block / 32u;
  let block = row * params.blocks + b;
  let base = x_row * params.x_stride;
  let lo_plane = params.cols >> 2u;
  var high = Dots(0, 0);
  var low = Dots(0, 0);
  for (var c = 0u; c < chunks; c++) {
    let w = unpack(block, c);
    let at = (base + (b * params.block + c * 32u) / 4u) >> 2u;
    high = plus(high, dots(w, x4[at], x4[at + 1u], half_sums(x4[at], x4[at + 1u])));
    if PRECISE {
      let l = at + (lo_plane >> 2u);
      low = plus(low, dots(w, x4[l], x4[l + 1u], half_sums(x4[l], x4[l + 1u])));
    }
  }
  let planes = select(1u, 2u, PRECISE);
  return mul(bitcast<f32>(x[base + planes * lo_plane + b]), block_value(scales(block), high, low));
}
