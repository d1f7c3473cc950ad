// The matrix product for some or many activation rows on matrix units of 16 x 16, for subgroups of 32 threads.
// needs: matrix units, format in pieces, lanes, pending, units

const SLOTS = 4u; // pending sums of a thread
const UNIT = 16u;
const SUBGROUP = 32u;
alias Left = coop_mat16x16<f16,A>;
alias Right = coop_mat16x16<f16,B>;
alias Sums = coop_mat16x16<f32,C>;
