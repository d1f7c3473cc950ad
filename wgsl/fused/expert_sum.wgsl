// out = sum over the slots of weight * (matrix * quantised(x) (+ bias)), with the slot's section of the row and its expert's matrix;
// or that is added to out: the down projection of the chosen experts, and combine.
// needs: any format, matvec, stream, combined

override NORM: bool = false;
@group(0) @binding(6) var<storage, read_write> out: array<f32>; // in order, or with RESIDUAL in the layout of items
@group(0) @binding(7) var<storage, read> bias: array<f32>; // of all experts
@group(0) @binding(8) var<storage, read> routes: array<f32>; // numbers of the used experts, then their weights
override HAS_BIAS: bool = false;
override RESIDUAL: bool = false;

// The first row in its tensor of the expert of a slot, which is a section.
fn expert_row(slot: u32) -> u32 { return u32(routes[slot]) * params.rows; }
fn weight_row(group: u32, slot: u32) -> u32 {
  return params.first + expert_row(side) + min(group * (SLOTS8 / 8u) + slot, params.rows - 1u);
}

fn slot_term(slot: u32, n: u32) -> f32 {
  var y = section_product(n % (SLOTS8 / 8u) * SECTIONS + slot);
  if HAS_BIAS { y = settle(add(y, bias[expert_row(slot) + n])); }
  return weighed(routes[SECTIONS + slot], y);
}

fn finish(group: u32, thread: u32) {
  for (var slot = thread; slot < SLOTS8 / 8u; slot += THREADS) {
    let n = group * (SLOTS8 / 8u) + slot;
    if n < params.rows {
      let y = combined(SECTIONS, n);
      if RESIDUAL {
        let at = item_word(n, params.rows / 16u);
        out[at] = settle(add(flush(out[at], RESULT_FLOOR), flush(y, RESULT_FLOOR)));
      } else {
        out[n] = y;
      }
    }
  }
}
