// Q4_0: streams qs (16 bytes), d (f16).

const HAS_MIN = false;

fn scales(block: u32) -> vec2<f32> { return vec2(f16_to_f32(weight_u16(1u, block)), 0.0); }

// Subtracts 8 from each byte of 0..15; the set top bits keep borrows inside a byte.
fn centred(q: vec4<u32>) -> vec4<u32> {
  return ((q | vec4(0x80808080u)) - vec4(0x08080808u)) ^ vec4(0x80808080u);
}

fn unpack(block: u32, chunk: u32) -> Chunk {
  let qs = weight_vec4(0u, block);
  let low = vec4(0x0f0f0f0fu);
  return Chunk(centred(qs & low), centred((qs >> vec4(4u)) & low), vec2(1), vec2(0));
}
