// Access to a weight shard: its bytes, split into the streams of its format (see `Format::streams`).

struct Chunk { // 32 weights as packed i8, and the integer scales of each half
  a: vec4<u32>, // weights 0..15
  b: vec4<u32>, // weights 16..31
  s: vec2<i32>, // factors of the scale d
  m: vec2<i32>, // factors of the minimum m
}

fn weight_u32(stream: u32, word: u32) -> u32 { return weights[params.streams[stream] + word]; }
fn weight_u16(stream: u32, i: u32) -> u32 { return (weight_u32(stream, i >> 1u) >> (16u * (i & 1u))) & 0xffffu; }
fn weight_u8(stream: u32, i: u32) -> u32 { return (weight_u32(stream, i >> 2u) >> (8u * (i & 3u))) & 0xffu; }
fn weight_vec4(stream: u32, i: u32) -> vec4<u32> { return weights4[(params.streams[stream] >> 2u) + i]; }
