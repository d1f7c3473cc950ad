// What every kernel of a matrix product reads, but for the fused ones; `Params` are those of lib/product.wgsl or lib/experts.wgsl.

@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> weights: array<u32>;
@group(0) @binding(3) var<storage, read> weights4: array<vec4<u32>>;
@group(0) @binding(4) var<storage, read> x: array<u32>;
@group(0) @binding(5) var<storage, read> x4: array<vec4<u32>>;
@group(0) @binding(6) var<storage, read> bias: array<f32>;
