// Integers as halves, by integer operations: exact up to 2048.

fn half_bits(i: i32) -> u32 {
  let u = bitcast<u32>(f32(i));
  let bits = (u & 0x7fffffffu) >> 13u;
  return select(bits - (112u << 10u), 0u, bits == 0u) | ((u >> 16u) & 0x8000u);
}
fn two_halves(i: vec2<i32>) -> u32 { return half_bits(i.x) | (half_bits(i.y) << 16u); }
fn four_halves(i: vec4<i32>) -> vec2<u32> { return vec2(two_halves(i.xy), two_halves(i.zw)); }
