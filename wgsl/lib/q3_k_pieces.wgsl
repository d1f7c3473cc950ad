// Q3_K for wgsl/lib/units.wgsl: eight weights of a chunk, and what belongs to a block.

fn packed_header(block: u32) -> Header {
  let at = block * 3u;
  return Header(vec4(weight_u32(2u, at), weight_u32(2u, at + 1u), weight_u32(2u, at + 2u), 0u), weight_u16(3u, block));
}
fn float_scales(d: u32) -> vec2<f32> { return vec2(f16_to_f32(d), 0.0); }
// Sixteen integer scales as bytes: six bits, less 32, which is the sixth turned over and taken for a sign.
fn unpack_scales(p: vec4<u32>) -> vec4<u32> {
  let low = vec4(p.x, p.y, p.x >> 4u, p.y >> 4u) & vec4(0x0f0f0f0fu);
  let high = (vec4(p.z) >> vec4(0u, 2u, 4u, 6u)) & vec4(0x03030303u);
  let six = (low | (high << vec4(4u))) ^ vec4(0x20202020u);
  let sign = six & vec4(0x20202020u);
  return six | (sign << vec4(1u)) | (sign << vec4(2u));
}

fn fetch_eight(block: u32, chunk: u32, quarter: u32) -> vec4<u32> {
  return vec4(weight_vec2(0u, block * 8u + (chunk >> 2u) * 4u + quarter), weight_vec2(1u, block * 4u + quarter));
}
fn unpack_eight(p: vec4<u32>, chunk: u32) -> vec2<u32> {
  let pairs = (p.xy >> vec2(2u * (chunk & 3u))) & vec2(0x03030303u);
  return pairs | (((p.zw >> vec2(chunk)) & vec2(0x01010101u)) << vec2(2u));
}
