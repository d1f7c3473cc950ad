// The layout of items: how the fused kernels keep a row of activations between dispatches.
// An item is half a chunk of 32: the four vec4 of its first or of its second four lanes of S8. The vec4 of equal
// number are neighbours, so that threads with neighbouring items read neighbouring memory.

// The word of element `i` in a row of `items` items.
fn item_word(i: u32, items: u32) -> u32 {
  let quad = (i >> 2u) & 7u;
  return ((quad >> 1u) * items + 2u * (i >> 5u) + (quad & 1u)) * 4u + (i & 3u);
}
