// What belongs to a block of Q4_K and of Q5_K, for wgsl/lib/units.wgsl: integer scales and minima of six bits in a stream of three
// words a block, float scales (two f16 in a word) in the stream behind.

fn six_bit_header(stream: u32, block: u32) -> Header {
  let at = block * 3u;
  let scales = vec4(weight_u32(stream, at), weight_u32(stream, at + 1u), weight_u32(stream, at + 2u), 0u);
  return Header(scales, weight_u32(stream + 1u, block));
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
