// Q8_0: streams qs (32 bytes), d (f16).

const HAS_MIN = false;
const OFFSET = 0;
const SPAN = 1u; // chunks of a block, which share a scale of activations
const HALVES = false; // whether the halves of a chunk have integer scales of their own

fn scales(block: u32) -> vec2<f32> { return vec2(f16_to_f32(weight_u16(1u, block)), 0.0); }

fn unpack(block: u32, chunk: u32) -> Chunk {
  return Chunk(weight_vec4(0u, 2u * block), weight_vec4(0u, 2u * block + 1u), vec2(1), vec2(0));
}
