// S8 one lane after the other: lanes in the order 0 4 2 6 1 5 3 7, so that the tree of their sums needs three pending
// values and no more.

// The lane at place `i` of the order.
fn lane_at(i: u32) -> u32 { return ((i & 1u) << 2u) | (i & 2u) | (i >> 2u); }

// A block, and the place of its lane in the order.
struct Place {
  b: u32,
  lane: u32,
}
// The block behind: of this lane, of the next lane that has blocks; behind the last one the first.
fn after(p: Place, blocks: u32) -> Place {
  if p.b + 8u < blocks { return Place(p.b + 8u, p.lane); }
  var lane = p.lane + 1u;
  while lane < 8u && lane_at(lane) >= blocks { lane++; }
  return Place(lane_at(lane & 7u), lane & 7u);
}

// Pending sums, [level][slot]: in memory, because they are touched only at the end of a lane.
var<private> pending: array<vec4<f32>, 24>;

// The sum of the lane at place `i` joins the pending ones of a slot; the last lane's call returns the total, the others 0.
fn merged(i: u32, slot: u32, sum0: vec4<f32>) -> vec4<f32> {
  var sum = sum0;
  var level = 0u;
  for (var n = i; (n & 1u) == 1u; n >>= 1u) {
    sum = add4(pending[level * 8u + slot], sum);
    level++;
  }
  if i == 7u { return sum; }
  pending[level * 8u + slot] = sum;
  return vec4(0.0);
}
