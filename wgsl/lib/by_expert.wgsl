// What a tile of a product is of: up to TOKENS slots of rows that chose one expert, and the rows of its matrix. The twin of
// lib/in_order.wgsl: what it calls a row is a slot here. wgsl/tiled/expert_tiles.wgsl makes the tiles.

const SPARSE = true;
@group(0) @binding(7) var<storage, read> tiles: array<u32>; // [tile][expert, how many slots, TOKENS slots as row * used + slot]

fn tile_word(tile: u32, i: u32) -> u32 { return tiles[tile * (TOKENS + 2u) + i]; }
fn tile_rows(tile: u32) -> u32 { return tile_word(tile, 1u); }
fn slot_of(tile: u32, token: u32) -> u32 { return tile_word(tile, 2u + token); }
// Row `n` of the tile's expert in the whole tensor.
fn expert_row(tile: u32, n: u32) -> u32 {
  return tile_word(tile, 0u) * params.expert_rows + n;
}

fn is_void(tile: u32, n: u32, width: u32) -> bool {
  let row = expert_row(tile, n);
  return tile_rows(tile) == 0u || row + width <= params.row_base || row >= params.row_base + params.rows;
}

fn x_row(tile: u32, token: u32) -> u32 {
  let slot = slot_of(tile, token);
  return select(slot / params.used, slot, params.slot_rows != 0u);
}
fn x_block(tile: u32, token: u32) -> u32 { return slot_of(tile, token) % params.used * params.slot_blocks * params.blocks; }

fn has_row(tile: u32, n: u32) -> bool {
  let row = expert_row(tile, n);
  return n < params.expert_rows && row >= params.row_base && row - params.row_base < params.rows;
}
fn weight_row(tile: u32, n: u32) -> u32 {
  return params.first + clamp(expert_row(tile, n), params.row_base, params.row_base + params.rows - 1u) - params.row_base;
}
fn bias_of(tile: u32, n: u32) -> f32 { return bias[expert_row(tile, n)]; }

fn result(tile: u32, token: u32, n: u32) -> u32 { return slot_of(tile, token) * params.expert_rows + n; }
