// Q5_K for wgsl/lib/units.wgsl: eight weights of a chunk, and what belongs to a block.

fn packed_header(block: u32) -> Header {
  let at = block * 3u;
  return Header(vec4(weight_u32(2u, at), weight_u32(2u, at + 1u), weight_u32(2u, at + 2u), 0u), weight_u32(3u, block));
}
fn float_scales(d: u32) -> vec2<f32> { return vec2(f16_to_f32(d & 0xffffu), -f16_to_f32(d >> 16u)); }
// Eight integer scales as bytes, then the minima.
fn unpack_scales(p: vec4<u32>) -> vec4<u32> {
  let six = vec2(0x3f3f3f3fu);
  let low = vec2(p.z, p.z >> 4u) & vec2(0x0f0f0f0fu);
  let high = (p.xy >> vec2(2u)) & vec2(0x30303030u);
  let first = p.xy & six;
  let last = low | high;
  return vec4(first.x, last.x, first.y, last.y);
}

fn fetch_eight(block: u32, chunk: u32, quarter: u32) -> vec4<u32> {
  return vec4(weight_vec2(0u, block * 16u + (chunk >> 1u) * 4u + quarter), weight_vec2(1u, block * 4u + quarter));
}
fn unpack_eight(p: vec4<u32>, chunk: u32) -> vec2<u32> {
  let fifth = ((p.zw >> vec2(chunk)) & vec2(0x01010101u)) << vec2(4u);
  return ((p.xy >> vec2(4u * (chunk & 1u))) & vec2(0x0f0f0f0fu)) | fifth;
}
