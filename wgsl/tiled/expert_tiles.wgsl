// Which slots of which rows chose each expert, as tiles of up to `params.size` slots for lib/by_expert.wgsl: those of the first
// expert first, and of an expert the slots in the order of the rows. A workgroup makes the tiles of one expert; it counts the slots
// of all, to know where its own begin.

struct Params {
  experts: u32, // at most 1024
  used: u32, // slots of a row
  size: u32, // most slots of a tile
  all: u32, // 1: a slot's expert is that of its number
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> routes: array<f32>; // [row][numbers of the used experts, their weights]
@group(0) @binding(3) var<storage, read_write> tiles: array<u32>; // [tile][expert, how many slots, slots as row * used + slot]

override THREADS: u32 = 256u; // always 256
var<workgroup> counts: array<atomic<u32>, 1024>; // slots of every expert
var<workgroup> before: atomic<u32>; // tiles of the experts before
var<workgroup> found: array<u32, THREADS>; // slots of the own expert in each thread's rows

fn expert_of(slot: u32) -> u32 {
  let number = slot % params.used;
  if params.all != 0u { return number; }
  return min(u32(routes[slot / params.used * 2u * params.used + number]), params.experts - 1u);
}
fn tiles_for(slots: u32) -> u32 { return (slots + params.size - 1u) / params.size; }
fn word_of(tile: u32) -> u32 { return tile * (params.size + 2u); }

// Tiles that there may be at most: as many experts as possible have one slot more than whole tiles.
fn most_tiles(slots: u32) -> u32 {
  let chosen = min(slots, params.experts);
  return chosen + (slots - chosen) / params.size;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let expert = group.x;
  let slots = state.rows * params.used;
  for (var i = 0u; i < 1024u; i += THREADS) { atomicStore(&counts[i + thread], 0u); }
  if thread == 0u { atomicStore(&before, 0u); }
  workgroupBarrier();
  // A thread takes slots behind each other, so that they stay in order.
  let each = (slots + THREADS - 1u) / THREADS;
  let first = thread * each;
  var mine = 0u;
  for (var i = 0u; i < each; i++) {
    if first + i < slots {
      let e = expert_of(first + i);
      atomicAdd(&counts[e], 1u);
      mine += select(0u, 1u, e == expert);
    }
  }
  found[thread] = mine;
  workgroupBarrier();
  for (var i = 0u; i < 1024u; i += THREADS) {
    let e = i + thread;
    if e < expert { atomicAdd(&before, tiles_for(atomicLoad(&counts[e]))); }
  }
  workgroupBarrier();
  let first_tile = atomicLoad(&before);
  let count = atomicLoad(&counts[expert]);
  var place = 0u;
  for (var i = 0u; i < thread; i++) { place += found[i]; }
  for (var i = first; i < min(first + each, slots); i++) {
    if expert_of(i) == expert {
      tiles[word_of(first_tile + place / params.size) + 2u + place % params.size] = i;
      place++;
    }
  }
  for (var i = thread; i < tiles_for(count); i += THREADS) {
    let at = word_of(first_tile + i);
    tiles[at] = expert;
    tiles[at + 1u] = min(params.size, count - i * params.size);
  }
  // Behind the last expert's, tiles are empty.
  if expert + 1u == params.experts {
    for (var i = first_tile + tiles_for(count) + thread; i < most_tiles(slots); i += THREADS) { tiles[word_of(i) + 1u] = 0u; }
  }
}
