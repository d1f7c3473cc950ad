// IQ4_XS: streams qs (128 bytes), then d (f16), scales_h (2 bytes) and scales_l (4 bytes).

const HAS_MIN = false;
const OFFSET = 0;
const SPAN = 8u; // chunks of a block, which share a scale of activations
const HALVES = false; // whether the halves of a chunk have integer scales of their own

fn scales(block: u32) -> vec2<f32> { return vec2(f16_to_f32(weight_u32(1u, block * 2u) & 0xffffu), 0.0); }

// The table of 16 signed bytes, packed.
fn value(i: u32) -> u32 {
  let low = select(0xbfad9881u, 0xf6eaddcfu, (i & 4u) != 0u);
  let high = select(0x26190d01u, 0x71594535u, (i & 4u) != 0u);
  return (select(low, high, (i & 8u) != 0u) >> (8u * (i & 3u))) & 0xffu;
}

// The values of the low nibbles of a word.
fn values(word: u32) -> u32 {
  return value(word & 15u) | (value((word >> 8u) & 15u) << 8u) | (value((word >> 16u) & 15u) << 16u) | (value((word >> 24u) & 15u) << 24u);
}

fn values4(q: vec4<u32>) -> vec4<u32> { return vec4(values(q.x), values(q.y), values(q.z), values(q.w)); }

fn unpack(block: u32, chunk: u32) -> Chunk {
  let qs = weight_vec4(0u, block * 8u + chunk);
  let low = (weight_u32(1u, block * 2u + 1u) >> (4u * chunk)) & 15u;
  let high = (weight_u32(1u, block * 2u) >> (16u + 2u * chunk)) & 3u;
  let s = i32(low | (high << 4u)) - 32;
  return Chunk(values4(qs), values4(qs >> vec4(4u)), vec2(s), vec2(0));
}
