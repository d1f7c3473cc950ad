// Q6_K for wgsl/lib/units.wgsl: eight weights of a chunk, and what belongs to a block.

fn packed_header(block: u32) -> Header { return Header(weight_vec4(2u, block), weight_u16(3u, block)); }
fn float_scales(d: u32) -> vec2<f32> { return vec2(f16_to_f32(d), 0.0); }
fn unpack_scales(p: vec4<u32>) -> vec4<u32> { return p; }

fn fetch_eight(block: u32, chunk: u32, quarter: u32) -> vec4<u32> {
  let half = chunk >> 2u;
  return vec4(weight_vec2(0u, block * 16u + half * 8u + (chunk & 1u) * 4u + quarter),
              weight_vec2(1u, block * 8u + half * 4u + quarter));
}
fn unpack_eight(p: vec4<u32>, chunk: u32) -> vec2<u32> {
  let part = chunk & 3u;
  let nibbles = (p.xy >> vec2(4u * (part >> 1u))) & vec2(0x0f0f0f0fu);
  return nibbles | (((p.zw >> vec2(2u * part)) & vec2(0x03030303u)) << vec2(4u));
}
