// One dequantised weight; the products are exact, the sum rounds once.

fn weight(i: u32) -> f32 {
  let block = i / params.block;
  let in_block = i % params.block;
  let c = unpack(block, in_block / 32u);
  let at = in_block & 31u;
  let second = at >= 16u;
  let half = select(c.a, c.b, second);
  let word = half[(at & 15u) >> 2u];
  let q = (i32(word << (24u - 8u * (at & 3u))) >> 24u) - OFFSET;
  let dm = scales(block);
  let scaled = mul(mul(dm.x, f32(select(c.s.x, c.s.y, second))), f32(q));
  if !HAS_MIN { return scaled; }
  return add(scaled, mul(dm.y, f32(select(c.m.x, c.m.y, second))));
}
