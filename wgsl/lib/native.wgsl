// Operations for compilers that were seen to leave `fma` alone and to convert every half exactly. Sums and products are fused
// already, with a factor of one or minus zero that the compiler does not know: one instruction each. The bits are the same
// whether a device rounds `fma` once or twice; but a compiler that takes it apart may reorder the parts.

fn one() -> f32 { return bitcast<f32>(state.zero | 0x3f800000u); }
fn minus_zero() -> f32 { return bitcast<f32>(state.zero | 0x80000000u); }
fn add(a: f32, b: f32) -> f32 { return fma(a, one(), b); }
fn sub(a: f32, b: f32) -> f32 { return fma(a, one(), -b); }
fn mul(a: f32, b: f32) -> f32 { return fma(a, b, minus_zero()); }
fn add4(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> { return fma(a, vec4(one()), b); }
fn mul4(a: vec4<f32>, b: vec4<f32>) -> vec4<f32> { return fma(a, b, vec4(minus_zero())); }

// sum + a * b where the product is exact (24 significant bits or fewer).
fn add_exact(sum: f32, a: f32, b: f32) -> f32 { return fma(a, b, sum); }
fn add_exact4(sum: vec4<f32>, a: vec4<f32>, b: vec4<f32>) -> vec4<f32> { return fma(a, b, sum); }

fn f16_to_f32(h: u32) -> f32 { return unpack2x16float(h).x; }
// Four f16 from two words.
fn f16x4(low: u32, high: u32) -> vec4<f32> { return vec4(unpack2x16float(low), unpack2x16float(high)); }
