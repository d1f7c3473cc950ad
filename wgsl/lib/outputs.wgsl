// What a thread of a kernel for matrix units makes of the sums of a block: times the scales of weight rows, which the kernel has in
// w_scale and w_min, and of activation rows.

// Of a thread: four rows of two tokens, UNIT / 2 apart, then of the rows UNIT behind.
fn by_row(a: Quads, d0: vec4<f32>, d1: vec4<f32>) -> Quads {
  return Quads(mul4(d0, a.t0), mul4(d0, a.t1), mul4(d1, a.t2), mul4(d1, a.t3));
}
fn by_token(a: Quads, e0: f32, e1: f32) -> Quads {
  return Quads(mul4(vec4(e0), a.t0), mul4(vec4(e1), a.t1), mul4(vec4(e0), a.t2), mul4(vec4(e1), a.t3));
}
fn scales_of(row: u32) -> vec4<f32> { return vec4(w_scale[row], w_scale[row + 1u], w_scale[row + 2u], w_scale[row + 3u]); }
fn minima_of(row: u32) -> vec4<f32> { return vec4(w_min[row], w_min[row + 1u], w_min[row + 2u], w_min[row + 3u]); }
