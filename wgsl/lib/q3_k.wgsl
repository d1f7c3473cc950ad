// Q3_K: streams qs (64 bytes), hmask (32 bytes), scales (12 bytes), d (f16).

const HAS_MIN = false;
const OFFSET = 4; // what `unpack` leaves to be subtracted from each weight
const SPAN = 8u; // chunks of a block, which share a scale of activations
const HALVES = true; // whether the halves of a chunk have integer scales of their own

fn scales(block: u32) -> vec2<f32> { return vec2(f16_to_f32(weight_u16(3u, block)), 0.0); }

// The integer scales of a chunk's halves: their low four bits, and their high two bits, lie in neighbouring bytes. (One byte at
// a time is what FXC compiles wrongly: it takes `i & 3` of an odd `i` for 1.)
fn sub_scales(block: u32, chunk: u32) -> vec2<i32> {
  let low = weight_u16(2u, block * 6u + (chunk & 3u)) >> (4u * (chunk >> 2u));
  let high = weight_u16(2u, block * 6u + 4u + (chunk & 1u)) >> (2u * (chunk >> 1u));
  let first = (low & 15u) | ((high & 3u) << 4u);
  let second = ((low >> 8u) & 15u) | (((high >> 8u) & 3u) << 4u);
  return vec2(i32(first), i32(second)) - 32;
}

// 16 weights from their low pairs and third bits.
fn joined(low: vec4<u32>, high: vec4<u32>, chunk: u32) -> vec4<u32> {
  let pairs = (low >> vec4(2u * (chunk & 3u))) & vec4(0x03030303u);
  let third = ((high >> vec4(chunk)) & vec4(0x01010101u)) << vec4(2u);
  return pairs | third;
}

fn unpack(block: u32, chunk: u32) -> Chunk {
  let low = block * 4u + (chunk >> 2u) * 2u;
  let high = block * 2u;
  return Chunk(joined(weight_vec4(0u, low), weight_vec4(1u, high), chunk),
               joined(weight_vec4(0u, low + 1u), weight_vec4(1u, high + 1u), chunk), sub_scales(block, chunk), vec2(0));
}
