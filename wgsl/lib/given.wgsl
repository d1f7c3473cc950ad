// Activations of matvec.wgsl that were quantised before: rows of words, as quantize_activations in src/ops leaves them.

@group(0) @binding(4) var<storage, read> x4: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> x: array<u32>; // the same

fn x_row(row: u32) -> u32 { return min(first_row + row, state.rows - 1u) * params.x_items; }

fn prepare(group: u32, thread: u32) {
  clear_sums(thread);
  workgroupBarrier();
}

fn x_scale(row: u32, b: u32) -> f32 { return bitcast<f32>(x[x_row(row) + select(8u, 16u, PRECISE) * CHUNKS + b]); }

fn plane_at(at: u32) -> Plane { return Plane(x4[at], x4[at + 1u], half_sums(x4[at], x4[at + 1u])); }
fn activations(row: u32, chunk: u32) -> Activations {
  let at = x_row(row) / 4u + 2u * chunk;
  let high = plane_at(at);
  if PRECISE { return Activations(high, plane_at(at + 2u * CHUNKS)); }
  return Activations(high, high);
}
