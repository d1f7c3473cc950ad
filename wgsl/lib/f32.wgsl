// F32: one stream of words.

const EXACT = false;

fn load(i: u32) -> f32 { return bitcast<f32>(weight_u32(0u, i)); }
fn quad(i: u32) -> vec4<f32> { return bitcast<vec4<f32>>(weight_vec4(0u, i)); }
