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

// What a thread adds up at once.
struct Quads {
  t0: vec4<f32>,
  t1: vec4<f32>,
  t2: vec4<f32>,
  t3: vec4<f32>,
}
fn both(a: Quads, b: Quads) -> Quads { return Quads(add4(a.t0, b.t0), add4(a.t1, b.t1), add4(a.t2, b.t2), add4(a.t3, b.t3)); }
