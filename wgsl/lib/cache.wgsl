// Where a cache of keys or values has what: tiles of 32 positions; in a tile, for every eight elements of a row, one position
// after the other. So threads that take neighbouring positions read neighbouring words. Twin of `cache_word` in
// src/ops/kv_store.rs.

override RING: u32 = 0u; // tiles that take turns, a new one in the place of the oldest; 0: each has its own

// The word of an element of a row of `width` elements; the one with an odd number has the upper half.
fn cache_word(position: u32, element: u32, width: u32) -> u32 {
  return 4u * cache_eight(position, element / 8u, (width + 7u) / 8u) + element % 8u / 2u;
}

// The place of eight elements of a row of `eights`, in vec4.
fn cache_eight(position: u32, eight: u32, eights: u32) -> u32 {
  var tile = position / 32u;
  if RING != 0u { tile %= max(RING, 1u); } // naga divides by the constant before it sees the condition
  return (tile * eights + eight) * 32u + position % 32u;
}
