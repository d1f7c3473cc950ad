// Q4_1: streams qs (16 bytes), d and m (two f16 in a word).

const HAS_MIN = true;
const OFFSET = 0;
const SPAN = 1u; // chunks of a block, which share a scale of activations
const HALVES = false; // whether the halves of a chunk have integer scales of their own

fn scales(block: u32) -> vec2<f32> {
  let dm = weight_u32(1u, block);
  return vec2(f16_to_f32(dm & 0xffffu), f16_to_f32(dm >> 16u));
}

fn unpack(block: u32, chunk: u32) -> Chunk {
  let qs = weight_vec4(0u, block);
  return Chunk(qs & vec4(0x0f0f0f0fu), (qs >> vec4(4u)) & vec4(0x0f0f0f0fu), vec2(1), vec2(1));
}
