// Four activation rows in the layout of lib/lanewise.wgsl: `params.x_items` is how many rows there is place for.

// 16 and 16 activations of both halves of a chunk.
fn first_words(p: vec4<u32>, q: vec4<u32>) -> vec4<u32> { return vec4(p.x, q.x, p.y, q.y); }
fn last_words(p: vec4<u32>, q: vec4<u32>) -> vec4<u32> { return vec4(p.z, q.z, p.w, q.w); }

fn activations_at(at: u32) -> Activations {
  var v: Activations;
  let p0 = x4[at];
  let q0 = x4[at + 8u];
  let p1 = x4[at + 16u];
  let q1 = x4[at + 24u];
  let p2 = x4[at + 32u];
  let q2 = x4[at + 40u];
  let p3 = x4[at + 48u];
  let q3 = x4[at + 56u];
  v.a0 = first_words(p0, q0);
  v.b0 = last_words(p0, q0);
  v.a1 = first_words(p1, q1);
  v.b1 = last_words(p1, q1);
  v.a2 = first_words(p2, q2);
  v.b2 = last_words(p2, q2);
  v.a3 = first_words(p3, q3);
  v.b3 = last_words(p3, q3);
  return v;
}

fn sums_of(at: u32) -> Sums {
  let both = bitcast<vec4<i32>>(x4[at]) + bitcast<vec4<i32>>(x4[at + 8u]);
  let a = (both << vec4(16u)) >> vec4(16u);
  return Sums(a, (both - a) >> vec4(16u));
}

fn quad_of(quad: u32, k: u32, lane: u32) -> Quad {
  let quads = params.x_items / 4u;
  var q: Quad;
  q.hi = activations_at(integers_at(quad, k, 0u, lane));
  if PRECISE { q.lo = activations_at(integers_at(quad, k, 1u, lane)); }
  if HAS_MIN {
    q.hi_sums = sums_of(sums_at(quads, quad, k, 0u, lane));
    if PRECISE { q.lo_sums = sums_of(sums_at(quads, quad, k, 1u, lane)); }
  }
  q.scale = bitcast<vec4<f32>>(x4[scales_at(quads, quad, k, lane)]);
  return q;
}
