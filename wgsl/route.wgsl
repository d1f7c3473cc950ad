// The numbers of the best experts of each row, then their weights; twin of src/ops/route.rs. A workgroup makes one row. It is short,
// because a single workgroup waits for its instructions.
// needs: order, blocks

struct Params {
  experts: u32, // scores per row, at most 1,024
  used: u32, // experts that are chosen, at most 256
  groups: u32, // of neighbouring experts, at most 64; 1 without SIGMOID
  compete: u32, // groups that compete
  scale: f32, // what weights are multiplied by
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

override SIGMOID: bool = true; // whether an expert's part is the sigmoid of its score, else of a softmax
override HAS_BIAS: bool = true; // with SIGMOID: a bias is added for the choice alone
override CHOSEN: bool = true; // without SIGMOID: the softmax is over the chosen alone
override NORMED: bool = true; // weights are divided by their sum
const THREADS = 256u;
var<workgroup> keys: array<u32, 1024>; // what every expert is chosen by
var<workgroup> ahead: array<atomic<u32>, 1024>; // how many stand before it
var<workgroup> parts: array<f32, 1024>; // parts of the softmax, then weights
var<workgroup> lane_sums: array<f32, THREADS>; // lanes of S8 over the parts: [block of 32][lane]
var<workgroup> numbers: array<u32, THREADS>; // the chosen experts, the best first
var<workgroup> group_keys: array<u32, 64>; // what groups compete by
var<workgroup> competes: array<u32, 64>; // 1: the group does
var<private> base: u32; // where the row's scores begin

fn score(e: u32) -> f32 { return flush(x[base + e], ACTIVATION_FLOOR); }
// A score times log2 e, where it is what experts are chosen by.
fn scaled(e: u32) -> f32 { return flush(mul(unkey(keys[e]), 1.442695f), ACTIVATION_FLOOR); }
// What expert e is chosen by.
fn value(e: u32) -> f32 {
  let s = score(e);
  if !SIGMOID { return s; }
  if !HAS_BIAS { return sigmoid(s); }
  return add(sigmoid(s), flush(bias[e], WEIGHT_FLOOR));
}

// Whether a key stands before another: the larger, then the lower number.
fn before(a: u32, i: u32, b: u32, j: u32) -> bool { return a > b || (a == b && i < j); }

// The groups whose two best have the largest sum compete.
fn choose_groups(thread: u32, size: u32) {
  if thread < params.groups {
    var first = keys[thread * size];
    var second = 0u;
    for (var e = thread * size + 1u; e < (thread + 1u) * size; e++) {
      second = max(second, min(first, keys[e]));
      first = max(first, keys[e]);
    }
    if size > 1u { first = key(add(unkey(first), unkey(second))); }
    group_keys[thread] = first;
  }
  workgroupBarrier();
  if thread < params.groups {
    var count = 0u;
    for (var g = 0u; g < params.groups; g++) {
      if before(group_keys[g], g, group_keys[thread], thread) { count++; }
    }
    competes[thread] = select(0u, 1u, count < params.compete);
  }
  workgroupBarrier();
}
fn may_be_chosen(e: u32, size: u32) -> bool {
  if !SIGMOID { return true; }
  return params.groups == 1u || competes[e / size] != 0u;
}

// S8 in blocks of 32, then over the blocks. Parts that are not there are 0 up to the end of their block.
fn sum_of_parts(thread: u32, count: u32) -> f32 {
  workgroupBarrier();
  let first = thread / 8u * 32u;
  var sum = 0.0;
  if first < count {
    for (var i = first + thread % 8u; i < first + 32u; i += 8u) { sum = add(sum, parts[i]); }
  }
  lane_sums[thread] = sum;
  workgroupBarrier();
  if thread < 32u {
    let at = 8u * thread;
    terms[thread] = s8_tree(vec4(lane_sums[at], lane_sums[at + 1u], lane_sums[at + 2u], lane_sums[at + 3u]),
                            vec4(lane_sums[at + 4u], lane_sums[at + 5u], lane_sums[at + 6u], lane_sums[at + 7u]));
  }
  return total_of(with_blocks(0.0, (count + 31u) / 32u, thread), thread);
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  base = group.y * params.experts;
  let size = params.experts / params.groups;
  for (var e = thread; e < params.experts; e += THREADS) {
    keys[e] = key(value(e));
    atomicStore(&ahead[e], 0u);
  }
  numbers[thread] = params.experts - 1u;
  workgroupBarrier();
  if SIGMOID { choose_groups(thread, size); }
  // An expert's place is how many stand before it: a thread looks for them among 32.
  let pieces = (params.experts + 31u) / 32u;
  for (var n = thread; n < pieces * params.experts; n += THREADS) {
    let e = n % params.experts;
    let first = n / params.experts * 32u;
    let mine = keys[e];
    var count = 0u;
    for (var i = first; i < min(first + 32u, params.experts); i++) {
      if before(keys[i], i, mine, e) && may_be_chosen(i, size) { count++; }
    }
    atomicAdd(&ahead[e], count);
  }
  workgroupBarrier();
  for (var e = thread; e < params.experts; e += THREADS) {
    let place = atomicLoad(&ahead[e]);
    if place < params.used && may_be_chosen(e, size) { numbers[place] = e; }
  }
  workgroupBarrier();
  let e = numbers[thread];
  var weight = 0.0;
  if SIGMOID {
    weight = settle(sigmoid(score(e)));
  } else {
    let top = scaled(numbers[0]);
    let count = select(params.experts, params.used, CHOSEN);
    for (var i = thread; i < (count + 31u) / 32u * 32u; i += THREADS) {
      let part = exp2_(sub(scaled(select(min(i, count - 1u), e, CHOSEN)), top));
      parts[i] = select(0.0, part, i < count);
    }
    let inverse = recip(sum_of_parts(thread, count));
    weight = settle(mul(parts[select(e, thread, CHOSEN)], inverse));
  }
  if NORMED {
    workgroupBarrier();
    parts[thread] = select(0.0, weight, thread < params.used);
    let factor = recip(max(sum_of_parts(thread, params.used), 6.1035156e-5f));
    weight = settle(mul(flush(weight, WEIGHT_FLOOR), factor));
  }
  if params.scale != 1.0 { weight = settle(mul(flush(weight, WEIGHT_FLOOR), params.scale)); }
  if thread < params.used {
    let result = group.y * 2u * params.used;
    out[result + thread] = f32(e);
    out[result + params.used + thread] = weight;
  }
}
