// One term of a matrix product for a format of integers with scales: a whole block times its activations.
// Activation rows are words: the high plane, with PRECISE the low plane, then the scales as f32 bits.

override PRECISE: bool = false;

struct Dots {
  s: i32,
  m: i32,
}

fn dots(c: Chunk, x: vec4<u32>, y: vec4<u32>) -> Dots {
  let a = dot4I8Packed(c.a.x, x.x) + dot4I8Packed(c.a.y, x.y) + dot4I8Packed(c.a.z, x.z) + dot4I8Packed(c.a.w, x.w);
  let b = dot4I8Packed(c.b.x, y.x) + dot4I8Packed(c.b.y, y.y) + dot4I8Packed(c.b.z, y.z) + dot4I8Packed(c.b.w, y.w);
  var m = 0;
  if HAS_MIN {
    let ones = 0x01010101u;
    m = c.m.x * (dot4I8Packed(x.x, ones) + dot4I8Packed(x.y, ones) + dot4I8Packed(x.z, ones) + dot4I8Packed(x.w, ones))
      + c.m.y * (dot4I8Packed(y.x, ones) + dot4I8Packed(y.y, ones) + dot4I8Packed(y.z, ones) + dot4I8Packed(y.w, ones));
  }
  return Dots(c.s.x * a + c.s.y * b, m);
}

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
    let h = dots(w, x4[at], x4[at + 1u]);
    high = Dots(high.s + h.s, high.m + h.m);
    if PRECISE {
      let l = dots(w, x4[at + (lo_plane >> 2u)], x4[at + (lo_plane >> 2u) + 1u]);
      low = Dots(low.s + l.s, low.m + l.m);
    }
  }
  let dm = scales(block);
  let d = flush(dm.x, WEIGHT_FLOOR);
  var s = nearest(high.s);
  var m = nearest(high.m);
  if PRECISE {
    s = add(mul(256.0, s), nearest(low.s));
    m = add(mul(256.0, m), nearest(low.m));
  }
  var w = mul(d, s);
  if HAS_MIN { w = add(w, mul(dm.y, m)); }
  let planes = select(1u, 2u, PRECISE);
  return mul(bitcast<f32>(x[base + planes * lo_plane + b]), w);
}
