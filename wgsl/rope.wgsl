// Rotates pairs of each head in place; twin of src/ops/rope.rs. A thread turns one pair.

struct Params {
  width: u32, // heads * head_dim
  head_dim: u32, // elements per head
  pairs: u32, // rotated pairs per head
  neox: u32, // 1: pairs (i, i + pairs), 0: pairs (2i, 2i + 1)
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> table: array<f32>; // [position][pair][cos, sin]
@group(0) @binding(3) var<storage, read_write> x: array<f32>;

override THREADS: u32 = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
  let heads = params.width / params.head_dim;
  if thread.x >= heads * params.pairs { return; }
  let row = thread.y;
  let pair = thread.x % params.pairs;
  let base = row * params.width + thread.x / params.pairs * params.head_dim;
  let i = base + select(2u * pair, pair, params.neox != 0u);
  let j = i + select(1u, params.pairs, params.neox != 0u);
  let at = 2u * ((state.position + row) * params.pairs + pair);
  let c = table[at];
  let s = table[at + 1u];
  let a = flush(x[i], ACTIVATION_FLOOR);
  let b = flush(x[j], ACTIVATION_FLOOR);
  x[i] = settle(sub(mul(a, c), mul(b, s)));
  x[j] = settle(add(mul(a, s), mul(b, c)));
}
