// Activations as few.wgsl reads them and tiled/quantize.wgsl writes them with LANEWISE: four rows at a time, and eight lanes of S8 one
// behind the other, so that the eight threads of a matrix row read neighbouring words. In vec4, with PLANES planes and EACH chunks in
// a lane:
//   integers  [four rows][chunk][plane][row][half][lane]   half a chunk: every other word of it
//   scales    [four rows][block][lane]                     of the four rows, 0 behind the last block of a row
//   sums      [four rows][chunk][plane][half][lane]        of the four rows: of the first 16 weights, and 2^16 times of the last 16

override BLOCKS: u32 = CHUNKS / SPAN;
override EACH: u32 = (BLOCKS + 7u) / 8u * SPAN;
override PLANES: u32 = select(1u, 2u, PRECISE);

fn integers_at(quad: u32, k: u32, plane: u32, lane: u32) -> u32 { return ((quad * EACH + k) * PLANES + plane) * 64u + lane; }
fn scales_at(quads: u32, quad: u32, k: u32, lane: u32) -> u32 {
  return quads * EACH * PLANES * 64u + (quad * (EACH / SPAN) + k / SPAN) * 8u + lane;
}
fn sums_at(quads: u32, quad: u32, k: u32, plane: u32, lane: u32) -> u32 {
  return quads * EACH * PLANES * 64u + quads * (EACH / SPAN) * 8u + ((quad * EACH + k) * PLANES + plane) * 16u + lane;
}
