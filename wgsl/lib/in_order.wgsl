// What a tile of a product is of: TOKENS rows of the batch, in order, and the rows of one matrix. A row is given by its place in the tile.

const SPARSE = false; // whether many tiles have fewer than TOKENS rows

fn tile_rows(tile: u32) -> u32 { return min(TOKENS, state.rows - tile * TOKENS); }
// Whether a tile has nothing to do with `width` weight rows from `n` on.
fn is_void(tile: u32, n: u32, width: u32) -> bool { return false; }

// The activations of a row: which row they are, and how many blocks of it come before them.
fn x_row(tile: u32, token: u32) -> u32 { return tile * TOKENS + token; }
fn x_block(tile: u32, token: u32) -> u32 { return 0u; }

// Weight row `n`: whether this shard has it, where, and its bias.
fn has_row(tile: u32, n: u32) -> bool { return n < params.rows; }
fn weight_row(tile: u32, n: u32) -> u32 { return params.first + min(n, params.rows - 1u); }
fn bias_of(tile: u32, n: u32) -> f32 { return bias[params.row_base + n]; }

// Where the product of a row with weight row `n` goes.
fn result(tile: u32, token: u32, n: u32) -> u32 { return (tile * TOKENS + token) * params.out_width + params.row_base + n; }
