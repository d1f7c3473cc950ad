// Q4_0: streams qs (16 bytes), d (f16).

const HAS_MIN = false;
const OFFSET = 8; // what `unpack` leaves to be subtracted from each weight
const SPAN = 1u; // chunks of a block, which share a scale of activations
const HALVES = false; // whether the halves of a chunk have integer scales of their own

fn scales(block: u32) -> vec2<f32> { return vec2(f16_to_f32(weight_u16(1u, block)), 0.0); }

fn unpack(block: u32, chunk: u32) -> Chunk {
  let qs = weight_vec4(0u, block);
  let low = vec4(0x0f0f0f0fu);
  return Chunk(qs & low, (qs >> vec4(4u)) & low, vec2(1), vec2(0));
}
