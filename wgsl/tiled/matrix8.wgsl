// The matrix product for many activation rows on matrix units of 8 x 8, for subgroups of 8 threads and 32 KiB of workgroup memory.
// needs: matrix units, lanes, outputs, matrix

const UNIT = 8u;
const SUBGROUP = 8u;
const STRIDE = 4u; // not padded: more would not fit
alias Left = coop_mat8x8<f16,A>;
alias Right = coop_mat8x8<f16,B>;
alias Sums = coop_mat8x8<f32,C>;

// A quarter of a row of weights, in the first threads also of a row of activations.
struct Part {
  x: vec4<f16>,
  w0: vec4<f16>,
}
// Of piece `c`, half of a chunk, from a plane of the weights. The places are those of whole chunks with 8 threads a row: their
// remainder is the thread.
fn piece_part(c: u32, plane: u32, x_at: u32, w_at: u32) -> Part {
  let thread = w_at % 512u;
  let token = min(thread, 4u * TOKENS - 1u);
  let chunk = 8u * (c / 2u);
  let half = 4u * (c % 2u);
  let x = x_at - thread + 8u * (token / 4u) + token % 4u + half;
  let w = w_at - thread + 8u * (thread / 4u) + thread % 4u + half;
  let plane_at = 64u * plane * params.blocks;
  return Part(x_halves[chunk * params.x_places + x], w_halves[(chunk + plane_at) * params.places + w]);
}
fn store_part(tile: u32, at: u32, p: Part) {
  if at < TOKENS * STRIDE { x_tile[tile * TOKENS * STRIDE + at] = p.x; }
  w_tile[tile * ROWS * STRIDE + at] = p.w0;
}
