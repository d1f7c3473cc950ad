// out = matrix * quantised(rms_norm(x)): the output matrix, or any product behind a norm.
// needs: any format, items, matvec, layout

const NORM = true;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

fn weight_row(group: u32, slot: u32) -> u32 {
  return params.first + min(group * (SLOTS8 / 8u) + slot, params.rows - 1u);
}

fn finish(group: u32, thread: u32) {
  for (var slot = thread; slot < SLOTS8 / 8u; slot += THREADS) {
    let n = group * (SLOTS8 / 8u) + slot;
    if n < params.rows { out[state.slot * params.out_width + params.out_first + n] = product(slot); }
  }
}
