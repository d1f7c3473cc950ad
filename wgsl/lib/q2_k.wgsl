// Q2_K: streams qs (64 bytes), scales (16 bytes), d and dmin (two f16 in a word).

const HAS_MIN = true;
const OFFSET = 0;
const SPAN = 8u; // chunks of a block, which share a scale of activations
const HALVES = true; // whether the halves of a chunk have integer scales of their own

fn scales(block: u32) -> vec2<f32> {
  let dm = weight_u32(2u, block);
  return vec2(f16_to_f32(dm & 0xffffu), -f16_to_f32(dm >> 16u));
}

fn unpack(block: u32, chunk: u32) -> Chunk {
  let shift = vec4(2u * (chunk & 3u));
  let at = block * 4u + (chunk >> 2u) * 2u;
  let two = vec4(0x03030303u);
  let packed = weight_u32(1u, block * 4u + (chunk >> 1u)) >> (16u * (chunk & 1u));
  let s = vec2(i32(packed & 15u), i32((packed >> 8u) & 15u));
  let m = vec2(i32((packed >> 4u) & 15u), i32((packed >> 12u) & 15u));
  return Chunk((weight_vec4(0u, at) >> shift) & two, (weight_vec4(0u, at + 1u) >> shift) & two, s, m);
}
