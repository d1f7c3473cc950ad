// Q5_K for wgsl/lib/units.wgsl: eight weights of a chunk, and what belongs to a block.

fn packed_header(block: u32) -> Header { return six_bit_header(2u, block); }

fn fetch_eight(block: u32, chunk: u32, quarter: u32) -> vec4<u32> {
  return vec4(weight_vec2(0u, block * 16u + (chunk >> 1u) * 4u + quarter), weight_vec2(1u, block * 4u + quarter));
}
fn unpack_eight(p: vec4<u32>, chunk: u32) -> vec2<u32> {
  let fifth = ((p.zw >> vec2(chunk)) & vec2(0x01010101u)) << vec2(4u);
  return ((p.xy >> vec2(4u * (chunk & 1u))) & vec2(0x0f0f0f0fu)) | fifth;
}
