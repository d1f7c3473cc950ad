// Integer sums of a chunk of weights with four activation rows, and what a block makes of them: for kernels of several rows.

// Integer sums of a block that spans chunks.
struct Integers {
  s: vec4<i32>,
  m: vec4<i32>,
  s_low: vec4<i32>,
  m_low: vec4<i32>,
}

// Where a block is a chunk, sums begin at the bits of 1.5 * 2^23, so that they end as the bits of a float.
fn dot32(a: vec4<u32>, b: vec4<u32>, x: vec4<u32>, y: vec4<u32>) -> i32 {
  return select(0, 0x4b400000, SPAN == 1u) + dot4I8Packed(a.x, x.x) + dot4I8Packed(a.y, x.y) + dot4I8Packed(a.z, x.z) + dot4I8Packed(a.w, x.w)
       + dot4I8Packed(b.x, y.x) + dot4I8Packed(b.y, y.y) + dot4I8Packed(b.z, y.z) + dot4I8Packed(b.w, y.w);
}
// Subtracts OFFSET from each byte; the set top bits keep borrows inside a byte.
fn centred(q: vec4<u32>) -> vec4<u32> {
  if OFFSET == 0 { return q; }
  return ((q | vec4(0x80808080u)) - vec4(u32(OFFSET) * 0x01010101u)) ^ vec4(0x80808080u);
}

fn whole(i: i32) -> f32 { return nearest(i); }

// Four activation rows of a chunk.
struct Activations {
  a0: vec4<u32>, a1: vec4<u32>, a2: vec4<u32>, a3: vec4<u32>, // the first 16 of each
  b0: vec4<u32>, b1: vec4<u32>, b2: vec4<u32>, b3: vec4<u32>, // the last 16
}

fn products(a: vec4<u32>, b: vec4<u32>, sub: vec4<i32>, v: Activations) -> vec4<i32> {
  if SPAN > 1u && HALVES {
    return vec4(sub.x * dot16(a, v.a0) + sub.y * dot16(b, v.b0), sub.x * dot16(a, v.a1) + sub.y * dot16(b, v.b1),
                sub.x * dot16(a, v.a2) + sub.y * dot16(b, v.b2), sub.x * dot16(a, v.a3) + sub.y * dot16(b, v.b3));
  }
  let s = vec4(dot32(a, b, v.a0, v.b0), dot32(a, b, v.a1, v.b1), dot32(a, b, v.a2, v.b2), dot32(a, b, v.a3, v.b3));
  if SPAN > 1u { return s * sub.x; }
  return s;
}

fn as_float(s: vec4<i32>) -> vec4<f32> {
  if SPAN == 1u { return add4(bitcast<vec4<f32>>(s), vec4(-12582912.0)); }
  return vec4(nearest(s.x), nearest(s.y), nearest(s.z), nearest(s.w));
}

// Four terms of a weight row with the scales `dm`, from its integer sums.
fn terms(dm: vec2<f32>, scale: vec4<f32>, block: Integers) -> vec4<f32> {
  var fs = as_float(block.s);
  var fm = as_float(block.m);
  if PRECISE {
    fs = add4(mul4(vec4(256.0), fs), as_float(block.s_low));
    fm = add4(mul4(vec4(256.0), fm), as_float(block.m_low));
  }
  var w = mul4(vec4(flush(dm.x, WEIGHT_FLOOR)), fs);
  if HAS_MIN { w = add4(w, mul4(vec4(dm.y), fm)); }
  return mul4(scale, w);
}

// Sums of the activations of a chunk in four rows, of its first and of its last half: what minima multiply.
struct Sums {
  a: vec4<i32>,
  b: vec4<i32>,
}
fn minima(sub: vec4<i32>, v: Sums) -> vec4<i32> {
  if SPAN == 1u { return vec4(0x4b400000) + v.a + v.b; }
  if HALVES { return sub.z * v.a + sub.w * v.b; }
  return sub.z * (v.a + v.b);
}

// What a chunk has for all weight rows of a thread: four activation rows.
struct Quad {
  hi: Activations,
  lo: Activations,
  hi_sums: Sums,
  lo_sums: Sums,
  scale: vec4<f32>, // of their block
}

// Adds the chunk (a, b) of a weight row, with the integer scales `sub`, to the sums of its block.
fn accumulate(a: vec4<u32>, b: vec4<u32>, sub: vec4<i32>, x: Quad, block: ptr<function, Integers>) {
  (*block).s += products(a, b, sub, x.hi);
  if HAS_MIN { (*block).m += minima(sub, x.hi_sums); }
  if PRECISE {
    (*block).s_low += products(a, b, sub, x.lo);
    if HAS_MIN { (*block).m_low += minima(sub, x.lo_sums); }
  }
}
