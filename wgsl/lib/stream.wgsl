// What the activations of matvec.wgsl are made of: a row in the layout of items, or several in order.

fn begin(group: u32, thread: u32) {}
fn stream_item(row: u32, item: u32) -> Item {
  let items = 2u * CHUNKS;
  if ROWS > 1u {
    let at = min(first_row + row, state.rows - 1u) * 8u * CHUNKS + 8u * (item >> 1u) + (item & 1u);
    return Item(x4[at], x4[at + 2u], x4[at + 4u], x4[at + 6u]);
  }
  return Item(x4[item], x4[items + item], x4[2u * items + item], x4[3u * items + item]);
}
