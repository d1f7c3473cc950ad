// The results of the chosen experts, weighted and added up: S8 over the slots. A kernel declares
// `slot_term`: what a slot gives to element `n`.

fn combined(used: u32, n: u32) -> f32 {
  var outer_lo = vec4(0.0);
  var outer_hi = vec4(0.0);
  for (var b = 0u; b * 32u < used; b++) {
    var lo = vec4(0.0);
    var hi = vec4(0.0);
    for (var i = 0u; i < min(32u, used - b * 32u); i++) {
      let t = slot_term(b * 32u + i, n);
      lo = add_lane(lo, i & 7u, t);
      hi = add_lane(hi, (i & 7u) - 4u, t);
    }
    outer_lo = add_lane(outer_lo, b & 7u, s8_tree(lo, hi));
    outer_hi = add_lane(outer_hi, (b & 7u) - 4u, s8_tree(lo, hi));
  }
  return settle(s8_tree(outer_lo, outer_hi));
}
// What a slot gives that weighs `weight`, with the result `x`.
fn weighed(weight: f32, x: f32) -> f32 { return mul(flush(weight, WEIGHT_FLOOR), flush(x, ACTIVATION_FLOOR)); }
