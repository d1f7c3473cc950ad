// Products of plain numbers with activations. A format declares EXACT: whether products with rounded activations are exact.

fn ready(x: vec4<f32>) -> vec4<f32> {
  var v = x;
  if EXACT { v = vec4(r13(x.x), r13(x.y), r13(x.z), r13(x.w)); }
  return flush4(v, ACTIVATION_FLOOR);
}

// sum + w * x; `w` is flushed at the floor of weights.
fn with_product(sum: vec4<f32>, w: vec4<f32>, x: vec4<f32>) -> vec4<f32> {
  if EXACT { return add_exact4(sum, w, x); }
  return add4(sum, mul4(w, x));
}
