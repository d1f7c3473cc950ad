// What the activations of matvec.wgsl are made of: a row in the layout of items.

fn begin(group: u32, thread: u32) {}
fn stream_item(item: u32) -> Item {
  let items = 2u * CHUNKS;
  return Item(x4[item], x4[items + item], x4[2u * items + item], x4[3u * items + item]);
}
