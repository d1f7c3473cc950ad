// What kernels of products with the matrices of chosen experts read and write: the twin of `Params` in src/ops/expert_matmul.rs.

struct Params {
  cols: u32, // of integers: elements of an activation row with all its slots; of plain numbers: weights per row
  blocks: u32, // terms per weight row
  block: u32, // weights per term
  x_stride: u32, // words per activation row
  expert_rows: u32, // weight rows of an expert
  used: u32, // slots
  slot_rows: u32, // 1: every slot has an activation row
  slot_blocks: u32, // 1: every slot has its blocks of an activation row
  streams: vec4<u32>, // word offset of each stream in the shard
  rows: u32, // weight rows in this shard
  row_base: u32, // first of them in the whole tensor
  first: u32, // the shard's first row in the buffer
  has_bias: u32, // 1: a bias is added
  all: u32, // 1: a slot's expert is that of its number
}
@group(0) @binding(8) var<storage, read_write> out: array<f32>;
