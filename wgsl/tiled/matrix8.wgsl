// The matrix product for many activation rows on matrix units of 8 x 8, for subgroups of 8 threads and 32 KiB of workgroup memory.
// needs: matrix units, lanes, units

const UNIT = 8u;
const SUBGROUP = 8u;
const TOKENS = 64u;
const ROWS = 64u;
alias Left = coop_mat8x8<f16,A>;
alias Right = coop_mat8x8<f16,B>;
alias Sums = coop_mat8x8<f32,C>;
