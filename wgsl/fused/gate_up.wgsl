// out = silu(gate * q) * (up * q), or another gate, with q = quantised(rms_norm(x)): the first half of the feed-forward network.
// A workgroup takes the same rows of both matrices: its first loops are gate's, its last are up's.
// needs: gate

override NORM: bool = true;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

fn weight_row(group: u32, slot: u32) -> u32 {
  let pairs = SLOTS8 / 16u;
  let n = min(group * pairs + slot % pairs, params.rows - 1u);
  return n + select(params.first, params.second, slot >= pairs);
}

fn finish(group: u32, thread: u32) {
  let pairs = SLOTS8 / 16u;
  for (var slot = thread; slot < pairs; slot += STEP) {
    let n = group * pairs + slot;
    if n < params.rows {
      out[place(n, params.rows)] = gated(product(slot), product(slot + pairs));
    }
  }
}
