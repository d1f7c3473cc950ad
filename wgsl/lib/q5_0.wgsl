// Q5_0: streams qs (16 bytes), qh (the fifth bits), d (f16).

const HAS_MIN = false;
const OFFSET = 16; // what `unpack` leaves to be subtracted from each weight
const SPAN = 1u; // chunks of a block, which share a scale of activations
const HALVES = false; // whether the halves of a chunk have integer scales of their own

fn scales(block: u32) -> vec2<f32> { return vec2(f16_to_f32(weight_u16(2u, block)), 0.0); }

// The low 16 bits, one to a byte, as 16 in each of 16 bytes.
fn fifth_bits(bits: u32) -> vec4<u32> {
  let b = vec4(bits, bits >> 4u, bits >> 8u, bits >> 12u);
  return ((b & vec4(1u)) << vec4(4u)) | ((b & vec4(2u)) << vec4(11u)) | ((b & vec4(4u)) << vec4(18u)) | ((b & vec4(8u)) << vec4(25u));
}

fn unpack(block: u32, chunk: u32) -> Chunk {
  let qs = weight_vec4(0u, block);
  let qh = weight_u32(1u, block);
  let low = vec4(0x0f0f0f0fu);
  return Chunk((qs & low) | fifth_bits(qh), ((qs >> vec4(4u)) & low) | fifth_bits(qh >> 16u), vec2(1), vec2(0));
}
