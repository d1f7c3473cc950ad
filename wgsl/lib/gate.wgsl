// A gate g for u: twins silu_mul, gelu_mul and clamped_gate.

override GELU: bool = false;
override CLAMPED: bool = false;

fn gated(g: f32, u: f32) -> f32 {
  let b = flush(u, WEIGHT_FLOOR);
  if CLAMPED {
    let a = min(flush(g, WEIGHT_FLOOR), 7.0);
    return settle(mul(mul(a, sigmoid(mul(a, 1.702))), add(max(min(b, 7.0), -7.0), 1.0)));
  }
  if GELU { return settle(mul(gelu(g), b)); }
  return settle(mul(silu(g), b));
}
