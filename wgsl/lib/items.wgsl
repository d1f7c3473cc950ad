// Half a chunk of 32 activations at a time: the first or the second four lanes of S8. Norms and quantisation of the fused
// and tiled kernels. A kernel declares PRECISE and NORM_ITEMS, the halves of chunks in a row with a norm (or 1), and has
// `params.steps` and `params.inverse_steps`.

var<workgroup> lanes: array<vec4<f32>, NORM_ITEMS>;
var<workgroup> chunk_sums: array<f32, NORM_ITEMS>;
var<workgroup> eight: array<f32, 32>; // of up to four rows

// Four vec4: half a chunk.
struct Item {
  a: vec4<f32>,
  b: vec4<f32>,
  c: vec4<f32>,
  d: vec4<f32>,
}

// The lanes of S8 over the squares of half a chunk.
fn squares(v: Item) -> vec4<f32> {
  return add4(add4(add4(mul4(v.a, v.a), mul4(v.b, v.b)), mul4(v.c, v.c)), mul4(v.d, v.d));
}

// As integers, magnitudes have the order of the numbers, and infinity and NaN are above all of them.
fn magnitudes(x: vec4<f32>) -> vec4<u32> { return bitcast<vec4<u32>>(x) & vec4(0x7fffffffu); }
fn peak(v: Item) -> u32 {
  let top = max(max(magnitudes(v.a), magnitudes(v.b)), max(magnitudes(v.c), magnitudes(v.d)));
  return max(max(top.x, top.y), max(top.z, top.w));
}

// Four activations as integers: packed bytes of the high plane (or the only one) and of the low plane. Adding 1.5 * 2^23
// rounds to whole numbers, half to even, and leaves them in the low bits.
fn quantised(x: vec4<f32>, inverse: f32) -> vec2<u32> {
  let q = bitcast<vec4<u32>>(add4(mul4(x, vec4(inverse)), vec4(12582912.0)));
  if !PRECISE { return vec2(packed_bytes(q), 0u); }
  let high = (q + vec4(128u)) >> vec4(8u);
  return vec2(packed_bytes(high), packed_bytes(q - (high << vec4(8u))));
}
fn packed_bytes(q: vec4<u32>) -> u32 {
  return (q.x & 0xffu) | ((q.y & 0xffu) << 8u) | ((q.z & 0xffu) << 16u) | (q.w << 24u);
}

// An item as integers, from the peak of its block; the block's scale goes along.
struct Quantised {
  high: vec4<u32>,
  low: vec4<u32>,
  scale: u32,
}
fn quantise(v: Item, top: u32) -> Quantised {
  let finite = top < 0x7f800000u;
  let amax = bitcast<f32>(select(0u, top, finite));
  let empty = amax < ACTIVATION_FLOOR;
  let inverse = mul(recip(select(amax, 1.0, empty)), params.steps);
  let a = quantised(v.a, inverse);
  let b = quantised(v.b, inverse);
  let c = quantised(v.c, inverse);
  let d = quantised(v.d, inverse);
  let scale = bitcast<u32>(select(mul(amax, params.inverse_steps), 0.0, empty));
  return Quantised(select(vec4(a.x, b.x, c.x, d.x), vec4(0u), empty), select(vec4(a.y, b.y, c.y, d.y), vec4(0u), empty),
                   select(0x7fc00000u, scale, finite));
}

// S8 over the lanes of all items of so many rows of `chunks` chunks: `sum_of_row` has the result.
fn sum_lanes(thread: u32, threads: u32, chunks: u32, rows: u32) {
  workgroupBarrier();
  for (var c = thread; c < rows * chunks; c += threads) { chunk_sums[c] = s8_tree(lanes[2u * c], lanes[2u * c + 1u]); }
  workgroupBarrier();
  if thread < 8u * rows {
    let first = thread / 8u * chunks;
    var sum = 0.0;
    for (var c = thread & 7u; c < chunks; c += 8u) { sum = add(sum, chunk_sums[first + c]); }
    eight[thread] = sum;
  }
  workgroupBarrier();
}
// What they are for a row.
fn sum_of_row(row: u32) -> f32 {
  let at = row * 8u;
  return s8_tree(vec4(eight[at], eight[at + 1u], eight[at + 2u], eight[at + 3u]),
                 vec4(eight[at + 4u], eight[at + 5u], eight[at + 6u], eight[at + 7u]));
}
