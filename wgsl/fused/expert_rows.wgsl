// out[slot] = matrix * quantised(x) (+ bias), behind a norm or not, with the matrix of the slot's expert.
// needs: any format, matvec, slots

override NORM: bool = false;
@group(0) @binding(6) var<storage, read_write> out: array<f32>; // [slot][row]
@group(0) @binding(7) var<storage, read> bias: array<f32>; // of all experts
override HAS_BIAS: bool = false;

fn weight_row(group: u32, slot: u32) -> u32 {
  return params.first + expert_row() + min(group * (SLOTS8 / 8u) + slot, params.rows - 1u);
}

fn finish(group: u32, thread: u32) {
  for (var slot = thread; slot < SLOTS8 / 8u; slot += THREADS) {
    let n = group * (SLOTS8 / 8u) + slot;
    if n < params.rows {
      var y = product(slot);
      if HAS_BIAS { y = settle(add(y, bias[expert_row() + n])); }
      out[side * params.rows + n] = y;
    }
  }
}
