// The matrix product for many activation rows on matrix units of 16 x 16, for subgroups of 32 threads.
// needs: matrix units, lanes, outputs, matrix

const UNIT = 16u;
const SUBGROUP = 32u;
const STRIDE = 10u; // padded so that neighbours lie in other banks
alias Left = coop_mat16x16<f16,A>;
alias Right = coop_mat16x16<f16,B>;
alias Sums = coop_mat16x16<f32,C>;

// An eighth of a row of each tile, and of another row of weights.
struct Part {
  x: vec4<f16>,
  w0: vec4<f16>,
  w1: vec4<f16>, // 64 rows on
}
// Of piece `c`, a chunk, from a plane of the weights.
fn piece_part(c: u32, plane: u32, x_at: u32, w_at: u32) -> Part {
  let w = 8u * (c + plane * 8u * params.blocks) * params.places + w_at;
  return Part(x_halves[8u * c * params.x_places + x_at], w_halves[w], w_halves[w + 512u]);
}
fn store_part(tile: u32, at: u32, p: Part) {
  x_tile[tile * TOKENS * STRIDE + at] = p.x;
  w_tile[tile * ROWS * STRIDE + at] = p.w0;
  w_tile[tile * ROWS * STRIDE + at + TOKENS * STRIDE] = p.w1;
}
