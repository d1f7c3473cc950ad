// F16: one stream of halves.

const EXACT = true; // products with r13 activations are exact

fn load(i: u32) -> f32 { return f16_to_f32(weight_u16(0u, i)); }
fn quad(i: u32) -> vec4<f32> { return f16x4(weight_u32(0u, 2u * i), weight_u32(0u, 2u * i + 1u)); }
