// Q6_K: streams ql (128 bytes), qh (64 bytes), scales (16 bytes), d (f16).

const HAS_MIN = false;
const OFFSET = 32; // what `unpack` leaves to be subtracted from each weight
const SPAN = 8u; // chunks of a block, which share a scale of activations
const HALVES = true; // whether the halves of a chunk have integer scales of their own

fn scales(block: u32) -> vec2<f32> { return vec2(f16_to_f32(weight_u16(3u, block)), 0.0); }

// 16 weights from their low nibbles and high pairs.
fn joined(low: vec4<u32>, high: vec4<u32>, part: u32) -> vec4<u32> {
  let nibbles = (low >> vec4(4u * (part >> 1u))) & vec4(0x0f0f0f0fu);
  let pairs = ((high >> vec4(2u * part)) & vec4(0x03030303u)) << vec4(4u);
  return nibbles | pairs;
}

fn unpack(block: u32, chunk: u32) -> Chunk {
  let half = chunk >> 2u;
  let part = chunk & 3u;
  let low = block * 8u + half * 4u + (part & 1u) * 2u;
  let high = block * 4u + half * 2u;
  let word = weight_u32(2u, block * 4u + (chunk >> 1u)) >> (16u * (chunk & 1u));
  let s = vec2(i32(word << 24u) >> 24u, i32(word << 16u) >> 24u);
  return Chunk(joined(weight_vec4(0u, low), weight_vec4(1u, high), part),
               joined(weight_vec4(0u, low + 1u), weight_vec4(1u, high + 1u), part), s, vec2(0));
}
