// One term of a matrix product for plain numbers: 32 products, added by S8.

fn term(row: u32, b: u32, x_row: u32) -> f32 {
  let count = min(32u, params.cols - b * 32u);
  var lo = vec4(0.0);
  var hi = vec4(0.0);
  for (var i = 0u; i < count; i++) {
    let w = flush(load(row * params.cols + b * 32u + i), WEIGHT_FLOOR);
    var v = bitcast<f32>(x[x_row * params.x_stride + b * 32u + i]);
    if EXACT { v = r13(v); }
    let t = mul(w, flush(v, ACTIVATION_FLOOR));
    lo = add_lane(lo, i & 7u, t);
    hi = add_lane(hi, (i & 7u) - 4u, t);
  }
  return s8_tree(lo, hi);
}
