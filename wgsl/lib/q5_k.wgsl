// Q5_K: streams qs (128 bytes), qh (32 bytes), scales (12 bytes), d and dmin (two f16 in a word).

const HAS_MIN = true;
const OFFSET = 0;
const SPAN = 8u; // chunks of a block, which share a scale of activations
const HALVES = false; // whether the halves of a chunk have integer scales of their own

fn scales(block: u32) -> vec2<f32> {
  let dm = weight_u32(3u, block);
  return vec2(f16_to_f32(dm & 0xffffu), -f16_to_f32(dm >> 16u));
}

fn unpack(block: u32, chunk: u32) -> Chunk {
  let shift = vec4(4u * (chunk & 1u));
  let at = block * 8u + (chunk >> 1u) * 2u;
  let low_bits = vec4(0x0f0f0f0fu);
  let fifth = vec4(0x01010101u);
  let high_a = ((weight_vec4(1u, block * 2u) >> vec4(chunk)) & fifth) << vec4(4u);
  let high_b = ((weight_vec4(1u, block * 2u + 1u) >> vec4(chunk)) & fifth) << vec4(4u);
  let a = ((weight_vec4(0u, at) >> shift) & low_bits) | high_a;
  let b = ((weight_vec4(0u, at + 1u) >> shift) & low_bits) | high_b;
  let low = weight_u32(2u, block * 3u);
  let mid = weight_u32(2u, block * 3u + 1u);
  let high = weight_u32(2u, block * 3u + 2u);
  let j = 8u * (chunk & 3u);
  var s = (low >> j) & 63u;
  var m = (mid >> j) & 63u;
  if chunk >= 4u {
    s = ((high >> j) & 15u) | (((low >> (j + 6u)) & 3u) << 4u);
    m = ((high >> (j + 4u)) & 15u) | (((mid >> (j + 6u)) & 3u) << 4u);
  }
  return Chunk(a, b, vec2(i32(s)), vec2(i32(m)));
}
