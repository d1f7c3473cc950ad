// Integer sums of a chunk of weights with activations, and what a whole block makes of them.

override PRECISE: bool = false;

struct Dots {
  s: i32, // products, times the integer scales
  m: i32, // activations, times the integer minima
}

fn plus(a: Dots, b: Dots) -> Dots { return Dots(a.s + b.s, a.m + b.m); }

fn dot16(w: vec4<u32>, x: vec4<u32>) -> i32 {
  return dot4I8Packed(w.x, x.x) + dot4I8Packed(w.y, x.y) + dot4I8Packed(w.z, x.z) + dot4I8Packed(w.w, x.w);
}

// The activations of a chunk, added up for each half: what offsets and minima multiply.
fn half_sums(x: vec4<u32>, y: vec4<u32>) -> vec2<i32> {
  if !HAS_MIN && OFFSET == 0 { return vec2(0); }
  let ones = vec4(0x01010101u);
  return vec2(dot16(ones, x), dot16(ones, y));
}

fn dots(c: Chunk, x: vec4<u32>, y: vec4<u32>, sums: vec2<i32>) -> Dots {
  let s = c.s.x * (dot16(c.a, x) - OFFSET * sums.x) + c.s.y * (dot16(c.b, y) - OFFSET * sums.y);
  return Dots(s, c.m.x * sums.x + c.m.y * sums.y);
}

// d * S + m * M with the float scales `dm` of a block, from its sums with the high and, with PRECISE, the low plane.
// `whole` turns sums of the kernel's size into the nearest f32.
fn block_value(dm: vec2<f32>, high: Dots, low: Dots) -> f32 {
  let d = flush(dm.x, WEIGHT_FLOOR);
  var s = whole(high.s);
  var m = 0.0;
  if HAS_MIN { m = whole(high.m); }
  if PRECISE {
    s = add(mul(256.0, s), whole(low.s));
    if HAS_MIN { m = add(mul(256.0, m), whole(low.m)); }
  }
  var w = mul(d, s);
  if HAS_MIN { w = add(w, mul(dm.y, m)); }
  return w;
}
