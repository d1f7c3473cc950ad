// out = matrix * quantised(x) (+ bias), behind a norm or not: a product that no other fused kernel takes.
// needs: rows

override NORM: bool = true;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
@group(0) @binding(7) var<storage, read> bias: array<f32>;
override HAS_BIAS: bool = false;

fn finish(group: u32, thread: u32) {
  for (var slot = thread; slot < SLOTS8 / 8u; slot += STEP) {
    let n = group * (SLOTS8 / 8u) + slot;
    if n < params.rows {
      var y = product(slot);
      if HAS_BIAS { y = settle(add(y, bias[params.out_first + n])); }
      out[(state.slot + token()) * params.stride + params.out_first + n] = y;
    }
  }
}
