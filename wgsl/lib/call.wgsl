// What the kernels that end products in some way are told: the twin of `Params` in src/backend/gpu/calls.rs.

struct Params {
  streams: vec4<u32>, // word offset of each stream in the shard
  rows: u32, // rows of the product
  first: u32, // the first of them in the weights
  second: u32, // gate_up: the first row of the second matrix; qkv, siblings: rows of the first product
  third: u32, // qkv, siblings: rows of the second product; experts: rows of the first tensor
  eps: f32, // of the norm
  inverse_width: f32, // 1 / elements per row
  branch_eps: f32, // of the norm of the branch that joins the row
  branch_scale: f32, // what that branch is multiplied by
  steps: f32, // activations: the integer of the largest magnitude
  inverse_steps: f32, // 1 / steps
  x_items: u32, // experts: items of the input row; few rows: words of an activation row
  out_items: u32, // experts: items of the output row
  out_first: u32, // products: where the first output is stored in a row
  stride: u32, // products: words between the results of rows, or of the tokens of a submission; 0 where each replaces the one before
  head_dim: u32, // elements per head
  pairs: u32, // rotated pairs per head
  kv_width: u32, // elements of a row of the cache
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> weights: array<u32>;
@group(0) @binding(3) var<storage, read> weights4: array<vec4<u32>>;
