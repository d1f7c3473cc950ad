// A row in another layout: to the layout of items, from it, or as it is. A thread moves one element.
// needs: layout

struct Params {
  width: u32, // elements of the row
  stride: u32, // words between the results of the tokens of a submission; 0 where each replaces the one before
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<u32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;

override THREADS: u32 = 64u;
override FROM_ITEMS: bool = false;
override TO_ITEMS: bool = false;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
  let i = thread.x;
  if i >= params.width { return; }
  let place = item_word(i, params.width / 16u);
  out[state.slot * params.stride + select(i, place, TO_ITEMS)] = x[select(i, place, FROM_ITEMS)];
}
