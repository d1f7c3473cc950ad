// MXFP4: streams qs (16 bytes), e (1 byte).

const HAS_MIN = false;
const OFFSET = 0;
const SPAN = 1u; // chunks of a block, which share a scale of activations
const HALVES = false; // whether the halves of a chunk have integer scales of their own

fn scales(block: u32) -> vec2<f32> {
  let e = weight_u8(1u, block);
  return vec2(bitcast<f32>(select((e - 1u) << 23u, 0x00200000u << e, e < 2u)), 0.0);
}

// Twice the FP4 values, as signed bytes, packed.
fn value(i: u32) -> u32 {
  let low = select(0x03020100u, 0x0c080604u, (i & 4u) != 0u);
  let high = select(0xfdfeff00u, 0xf4f8fafcu, (i & 4u) != 0u);
  return (select(low, high, (i & 8u) != 0u) >> (8u * (i & 3u))) & 0xffu;
}

// The values of the low nibbles of a word.
fn values(word: u32) -> u32 {
  return value(word & 15u) | (value((word >> 8u) & 15u) << 8u) | (value((word >> 16u) & 15u) << 16u) | (value((word >> 24u) & 15u) << 24u);
}

fn values4(q: vec4<u32>) -> vec4<u32> { return vec4(values(q.x), values(q.y), values(q.z), values(q.w)); }

fn unpack(block: u32, chunk: u32) -> Chunk {
  let qs = weight_vec4(0u, block);
  return Chunk(values4(qs), values4(qs >> vec4(4u)), vec2(1), vec2(0));
}
