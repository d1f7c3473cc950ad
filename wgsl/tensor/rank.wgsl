// out = the places of the largest elements of each line, the largest first; twin of src/tensor/rank.rs. A thread counts how many
// elements of its line come before its own.
// needs: strided

struct Params {
  lines: u32, // lines
  length: u32, // elements of a line
  best: u32, // how many are wanted
  slot: u32, // where a fault is told
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> x: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<u32>;

override THREADS: u32 = 64u;
override INTEGER: u32 = 0u; // 1: i32

// Words whose order as integers is that of the elements.
fn ordered(word: u32) -> u32 {
  if INTEGER != 0u { return word ^ 0x80000000u; }
  return select(word | 0x80000000u, ~word, (word >> 31u) != 0u);
}

fn key(number: u32) -> u32 {
  let at = place(0u, number);
  return ordered(element(0u, x[word_at(0u, at)], at));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let number = group_number(group) * THREADS + thread;
  if number >= params.lines * params.length { return; }
  let line = number / params.length;
  let i = number % params.length;
  let mine = key(number);
  var before = 0u;
  for (var j = 0u; j < params.length; j++) {
    let other = key(line * params.length + j);
    before += u32(other > mine || (other == mine && j < i));
  }
  if before < params.best { out[line * params.best + before] = i; }
}
