// BF16: one stream of halves.

const EXACT = true; // products with r13 activations are exact

fn load(i: u32) -> f32 { return bitcast<f32>(weight_u16(0u, i) << 16u); }
fn quad(i: u32) -> vec4<f32> {
  let words = vec2(weight_u32(0u, 2u * i), weight_u32(0u, 2u * i + 1u));
  return bitcast<vec4<f32>>(vec4(words.x << 16u, words.x & 0xffff0000u, words.y << 16u, words.y & 0xffff0000u));
}
