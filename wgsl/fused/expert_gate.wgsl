// out[slot] = a gate of (gate * q) for (up * q), with q = quantised(rms_norm(x)) and the matrices of the slot's expert (+ biases). A
// workgroup takes the same rows of both matrices: its first loops are gate's, its last are up's.
// needs: any format, matvec, slots, gate

override NORM: bool = true;
@group(0) @binding(6) var<storage, read_write> out: array<f32>; // [slot][row] as one row in the layout of items
@group(0) @binding(7) var<storage, read> bias: array<f32>; // gate's of all experts, then up's
override HAS_BIAS: bool = false;

fn weight_row(group: u32, slot: u32) -> u32 {
  let pairs = SLOTS8 / 16u;
  let n = min(group * pairs + slot % pairs, params.rows - 1u);
  return expert_row() + n + select(params.first, params.second, slot >= pairs);
}

fn biased(slot: u32, n: u32) -> f32 {
  let y = product(slot);
  if HAS_BIAS { return settle(add(y, bias[expert_row() + n])); }
  return y;
}

fn finish(group: u32, thread: u32) {
  let pairs = SLOTS8 / 16u;
  for (var slot = thread; slot < pairs; slot += THREADS) {
    let n = group * pairs + slot;
    if n < params.rows {
      let y = gated(biased(slot, n), biased(slot + pairs, params.third + n));
      out[item_word(side * params.rows + n, params.out_items)] = y;
    }
  }
}
