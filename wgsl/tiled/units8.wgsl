// The matrix product for some or many activation rows on matrix units of 8 x 8, for subgroups of 8 threads.
// needs: matrix units, format in pieces, lanes, pending, units

const SLOTS = 4u; // pending sums of a thread
const UNIT = 8u;
const SUBGROUP = 8u;
alias Left = coop_mat8x8<f16,A>;
alias Right = coop_mat8x8<f16,B>;
alias Sums = coop_mat8x8<f32,C>;
