// The rows of one matrix, or of several behind each other, in the order in which the kernels made of matvec.wgsl take them.

fn weight_row(group: u32, slot: u32) -> u32 {
  return params.first + min(group * (SLOTS8 / 8u) + slot, params.rows - 1u);
}
