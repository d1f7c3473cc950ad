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
var<workgroup> keys: array<u32, 1024>; // what every expert is chosen by; 0: not at all
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

// How many of four keys stand before another: the larger, then the lower number.
fn before(a: vec4<u32>, i: vec4<u32>, b: u32, j: u32) -> u32 {
  let ahead = select(vec4(0u), vec4(1u), (a > vec4(b)) | ((a == vec4(b)) & (i < vec4(j))));
  return ahead.x + ahead.y + ahead.z + ahead.w;
}

// The groups whose two best have the largest sum compete; the experts of the others are not chosen.
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
      let other = group_keys[g];
      if other > group_keys[thread] || (other == group_keys[thread] && g < thread) { count++; }
    }
    competes[thread] = select(0u, 1u, count < params.compete);
  }
  workgroupBarrier();
  for (var e = thread; e < params.experts; e += THREADS) { keys[e] *= competes[e / size]; }
  workgroupBarrier();
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
  let pieces = (params.experts + 31u) / 32u;
  for (var e = thread; e < 32u * pieces; e += THREADS) {
    keys[e] = 0u;
    if e < params.experts { keys[e] = max(key(value(e)), 1u); }
    atomicStore(&ahead[e], 0u);
  }
  numbers[thread] = params.experts - 1u;
  workgroupBarrier();
  if SIGMOID && params.groups > 1u { choose_groups(thread, params.experts / params.groups); }
  // An expert's place is how many stand before it: a thread looks for them among 32, four at a time, as it would wait for each.
  for (var n = thread; n < pieces * params.experts; n += THREADS) {
    let e = n % params.experts;
    let first = n / params.experts * 32u;
    let mine = keys[e];
    var count = 0u;
    for (var i = first; i < first + 32u; i += 4u) {
      count += before(vec4(keys[i], keys[i + 1u], keys[i + 2u], keys[i + 3u]), vec4(i, i + 1u, i + 2u, i + 3u), mine, e);
    }
    atomicAdd(&ahead[e], count);
  }
  workgroupBarrier();
  for (var e = thread; e < params.experts; e += THREADS) {
    let place = atomicLoad(&ahead[e]);
    if place < params.used && keys[e] != 0u { numbers[place] = e; }
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
