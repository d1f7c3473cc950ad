// What the activations of matvec.wgsl are made of where the matrix belongs to a chosen expert: a row in the layout of items for all
// slots, or a part of it for each. The second dimension of workgroups are the slots.

@group(0) @binding(8) var<storage, read> routes: array<f32>; // numbers of the used experts, then their weights
override SLOTTED: bool = false; // whether the row has a part for each slot
override ALL: bool = false; // whether a slot's expert is that of its number

// The first row of the slot's expert in its tensor.
fn expert_row() -> u32 {
  if ALL { return side * params.rows; }
  return u32(routes[side]) * params.rows;
}

fn begin(group: u32, thread: u32) {}
fn stream_item(row: u32, item: u32) -> Item {
  var at = item;
  if SLOTTED { at += side * 2u * CHUNKS; }
  let items = params.x_items;
  return Item(x4[at], x4[items + at], x4[2u * items + at], x4[3u * items + at]);
}
