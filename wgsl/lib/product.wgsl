// What every kernel of a matrix product reads and writes, but for the fused ones: the twin of `Params` in src/ops/matmul.rs.

struct Params {
  cols: u32, // weights per row
  blocks: u32, // terms per row
  block: u32, // weights per term
  x_stride: u32, // words per activation row
  rows: u32, // weight rows in this shard
  row_base: u32, // first of them in the whole matrix
  out_width: u32, // rows of the whole matrix
  has_bias: u32, // 1: a bias is added
  streams: vec4<u32>, // word offset of each stream in the shard
  first: u32, // the shard's first row in the buffer
}
@group(0) @binding(7) var<storage, read_write> out: array<f32>;
