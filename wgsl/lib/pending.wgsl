// Sums of lanes that wait for others, in the order of lib/lanes.wgsl.

override LANES: u32 = 8u; // lanes that a workgroup adds up, from a multiple of LANES on: 1, 2, 4 or 8

// Pending sums, [level][slot]: in memory, because they are touched only at the end of a lane. The kernel says how many SLOTS it has.
var<private> pending: array<vec4<f32>, 3u * SLOTS>;

// The sum of the lane at place `i` joins the pending ones of a slot; the last lane's call returns the total, the others 0.
fn merged(i: u32, slot: u32, sum0: vec4<f32>) -> vec4<f32> {
  var sum = sum0;
  var level = 0u;
  while (1u << level) < LANES && ((i >> level) & 1u) == 1u {
    sum = add4(pending[level * SLOTS + slot], sum);
    level++;
  }
  if (1u << level) == LANES { return sum; }
  pending[level * SLOTS + slot] = sum;
  return vec4(0.0);
}
fn merged_quads(i: u32, slot: u32, s: Quads) -> Quads {
  return Quads(merged(i, slot, s.t0), merged(i, slot + 1u, s.t1), merged(i, slot + 2u, s.t2), merged(i, slot + 3u, s.t3));
}
