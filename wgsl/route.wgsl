// The numbers of the best experts of each row, then their weights; twin of src/ops/route.rs. A workgroup makes one row.
// needs: order

struct Params {
  experts: u32, // scores per row
  used: u32, // experts that are chosen
  normed: u32, // 1: weights are divided by their sum
  chosen: u32, // 1: the softmax is over the chosen alone
  sigmoid: u32, // 1: an expert's part is the sigmoid of its score
  has_bias: u32, // 1: a bias is added for the choice alone
  groups: u32, // of neighbouring experts, at most 64
  compete: u32, // groups that compete
  scale: f32, // what weights are multiplied by
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read> bias: array<f32>;
@group(0) @binding(4) var<storage, read_write> out: array<f32>;

override THREADS: u32 = 256u;
var<workgroup> keys: array<u32, 1024>; // what every expert is chosen by
var<workgroup> ahead: array<atomic<u32>, 1024>; // how many stand before it
var<workgroup> parts: array<f32, 1056>; // parts of the softmax, then weights; behind them the sums of blocks of 32
var<workgroup> numbers: array<u32, 256>; // the chosen experts, the best first
var<workgroup> group_keys: array<u32, 64>; // what groups compete by
var<workgroup> competes: array<u32, 64>; // 1: the group does
var<private> base: u32; // where the row's scores begin

fn score(e: u32) -> f32 { return flush(x[base + e], ACTIVATION_FLOOR); }
// What expert e is chosen by.
fn value(e: u32) -> f32 {
  let s = score(e);
  if params.sigmoid == 0u { return s; }
  if params.has_bias == 0u { return sigmoid(s); }
  return add(sigmoid(s), flush(bias[e], WEIGHT_FLOOR));
}
fn scaled(e: u32) -> f32 { return flush(mul(score(e), 1.442695f), ACTIVATION_FLOOR); }

// Whether a key stands before another: the larger, then the lower number.
fn before(a: u32, i: u32, b: u32, j: u32) -> bool { return a > b || (a == b && i < j); }

// S8 over 32 parts; those that are not there are 0.
fn block_sum(first: u32) -> f32 {
  var lo = vec4(0.0);
  var hi = vec4(0.0);
  for (var i = first; i < first + 32u; i += 8u) {
    lo = add4(lo, vec4(parts[i], parts[i + 1u], parts[i + 2u], parts[i + 3u]));
    hi = add4(hi, vec4(parts[i + 4u], parts[i + 5u], parts[i + 6u], parts[i + 7u]));
  }
  return s8_tree(lo, hi);
}

// S8 in blocks of 32, then over the blocks; nobody touches the parts before all threads have the sum.
fn sum_of_parts(thread: u32, count: u32) -> f32 {
  workgroupBarrier();
  if thread < 32u {
    var sum = 0.0;
    if thread * 32u < count { sum = block_sum(thread * 32u); }
    parts[1024u + thread] = sum;
  }
  workgroupBarrier();
  let total = block_sum(1024u);
  workgroupBarrier();
  return total;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  base = group.y * params.experts;
  let result = group.y * 2u * params.used;
  let size = params.experts / params.groups;
  for (var from_ = 0u; from_ < params.experts; from_ += THREADS) {
    let e = from_ + thread;
    if e < params.experts {
      keys[e] = key(value(e));
      atomicStore(&ahead[e], 0u);
    }
  }
  for (var from_ = 0u; from_ < params.used; from_ += THREADS) {
    if from_ + thread < params.used { numbers[from_ + thread] = params.experts - 1u; }
  }
  workgroupBarrier();
  // The groups whose two best have the largest sum compete.
  if thread < params.groups && params.groups > 1u {
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
    var groups_ahead = 0u;
    if params.groups > 1u {
      for (var g = 0u; g < params.groups; g++) {
        if before(group_keys[g], g, group_keys[thread], thread) { groups_ahead++; }
      }
    }
    competes[thread] = select(0u, 1u, groups_ahead < params.compete);
  }
  workgroupBarrier();
  // An expert's place is how many stand before it: a thread looks for them among 32.
  let pieces = (params.experts + 31u) / 32u;
  for (var n = thread; n < pieces * params.experts; n += THREADS) {
    let e = n % params.experts;
    let first = n / params.experts * 32u;
    let mine = keys[e];
    var count = 0u;
    for (var i = first; i < min(first + 32u, params.experts); i++) {
      if before(keys[i], i, mine, e) && (params.groups == 1u || competes[i / size] != 0u) { count++; }
    }
    atomicAdd(&ahead[e], count);
  }
  workgroupBarrier();
  for (var e = thread; e < params.experts; e += THREADS) {
    let place = atomicLoad(&ahead[e]);
    if place < params.used && competes[e / size] != 0u { numbers[place] = e; }
  }
  workgroupBarrier();
  let top = scaled(numbers[0]);
  let count = select(params.experts, params.used, params.chosen != 0u);
  for (var from_ = 0u; from_ < (count + 31u) / 32u * 32u; from_ += THREADS) {
    let i = from_ + thread;
    var part = 0.0;
    if i < count {
      var e = i;
      if params.chosen != 0u { e = numbers[i]; }
      part = exp2_(sub(scaled(e), top));
    }
    if i < 1024u { parts[i] = part; }
  }
  let inverse = recip(sum_of_parts(thread, count));
  for (var from_ = 0u; from_ < (params.used + 31u) / 32u * 32u; from_ += THREADS) {
    let slot = from_ + thread;
    var w = 0.0;
    if slot < params.used {
      let e = numbers[slot];
      w = settle(mul(exp2_(sub(scaled(e), top)), inverse));
      if params.sigmoid != 0u { w = settle(sigmoid(score(e))); }
      out[result + slot] = f32(e);
    }
    parts[slot] = w;
  }
  let factor = recip(max(sum_of_parts(thread, params.used), 6.1035156e-5f));
  for (var from_ = 0u; from_ < params.used; from_ += THREADS) {
    let slot = from_ + thread;
    if slot < params.used {
      var w = parts[slot];
      if params.normed != 0u { w = settle(mul(flush(w, WEIGHT_FLOOR), factor)); }
      if params.scale != 1.0 { w = settle(mul(flush(w, WEIGHT_FLOOR), params.scale)); }
      out[result + params.used + slot] = w;
    }
  }
}
