// What the attention kernels share: scores of a head against a key, sums over a tile of 32 positions.
// Head dimensions are multiples of 32 up to 256.

override HEAD_DIM: u32 = 32u;
override QUADS: u32 = HEAD_DIM / 4u;

fn query(x: vec4<f32>) -> vec4<f32> {
  let f = flush4(x, ACTIVATION_FLOOR);
  return vec4(r13(f.x), r13(f.y), r13(f.z), r13(f.w));
}

fn softmax_weight(score: f32, top: f32) -> f32 { return r13(exp2_(sub(score, top))); }

// S8 over the sums of up to 8 blocks of 32 elements.
struct Outer {
  lo: vec4<f32>,
  hi: vec4<f32>,
}
fn with_block(o: Outer, b: u32, t: f32) -> Outer {
  let at = vec4(b) == vec4(0u, 1u, 2u, 3u);
  let behind = vec4(b) == vec4(4u, 5u, 6u, 7u);
  return Outer(select(o.lo, vec4(t), at), select(o.hi, vec4(t), behind));
}
