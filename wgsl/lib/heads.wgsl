// What the attention kernels share: scores of a head against a key, sums over a tile of 32 positions.
// Head dimensions are multiples of 32 up to 1,024.

override HEAD_DIM: u32 = 32u;
override QUADS: u32 = HEAD_DIM / 4u;
override WINDOW: u32 = 0u; // positions that a row sees; 0: all
override CAPPED: u32 = 0u; // 1: scores are capped
override SINKS: u32 = 0u; // 1: each head has a score without a value

// The first position that is seen from another.
fn first_seen(position: u32) -> u32 {
  if WINDOW == 0u { return 0u; }
  return select(0u, position + 1u - WINDOW, position >= WINDOW);
}
// The same, down to the first tile of eight: lanes of S8 over the tiles begin with such.
fn first_eight(position: u32) -> u32 { return first_seen(position) & 0xffffff00u; }

// A product of a query and a key as a score. `scale` is log2(e) / divisor, or 1 / (divisor * cap) where scores are capped; `cap` is
// log2(e) * cap.
fn scored(product: f32, scale: f32, cap: f32) -> f32 {
  let s = mul(product, scale);
  if CAPPED == 0u { return flush(s, ACTIVATION_FLOOR); }
  return flush(mul(tanh_(s), cap), ACTIVATION_FLOOR);
}

// A head's score without a value, as the others are.
fn sink_score(sink: f32) -> f32 { return flush(mul(flush(sink, WEIGHT_FLOOR), 1.442695f), ACTIVATION_FLOOR); }

fn query(x: vec4<f32>) -> vec4<f32> {
  let f = flush4(x, ACTIVATION_FLOOR);
  return vec4(r13(f.x), r13(f.y), r13(f.z), r13(f.w));
}

fn softmax_weight(score: f32, top: f32) -> f32 { return r13(exp2_(sub(score, top))); }

// S8 over the sums of blocks of 32 elements.
struct Outer {
  lo: vec4<f32>,
  hi: vec4<f32>,
}
fn with_block(o: Outer, b: u32, t: f32) -> Outer {
  let at = vec4(b & 7u) == vec4(0u, 1u, 2u, 3u);
  let behind = vec4(b & 7u) == vec4(4u, 5u, 6u, 7u);
  // A lane has a single block in heads of up to 256.
  if HEAD_DIM <= 256u { return Outer(select(o.lo, vec4(t), at), select(o.hi, vec4(t), behind)); }
  return Outer(select(o.lo, add4(o.lo, vec4(t)), at), select(o.hi, add4(o.hi, vec4(t)), behind));
}
