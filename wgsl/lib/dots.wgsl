// Integer sums of a chunk of weights with activations, and what a whole block makes of them.

override PRECISE: bool = false;

struct Dots {
  s: i32, // products, times the integer scales
  m: i32, // activations, times the integer minima
}

fn plus(a: Dots, b: Dots) -> Dots { return Dots(a.s + b.s, a.m + b.m); }

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

// d * S + m * M with the float scales `dm` of a block, from its sums with the high and, with PRECISE, the low plane.
fn block_value(dm: vec2<f32>, high: Dots, low: Dots) -> f32 {
  let d = flush(dm.x, WEIGHT_FLOOR);
  var s = nearest(high.s);
  var m = nearest(high.m);
  if PRECISE {
    s = add(mul(256.0, s), nearest(low.s));
    m = add(mul(256.0, m), nearest(low.m));
  }
  var w = mul(d, s);
  if HAS_MIN { w = add(w, mul(dm.y, m)); }
  return w;
}
