// The numbers of the best experts of each row, then their weights; twin of src/ops/route.rs. A workgroup makes one row.

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

override THREADS: u32 = 64u;
var<workgroup> shared_scores: array<f32, THREADS>;
var<workgroup> shared_numbers: array<u32, THREADS>;
var<workgroup> shared_terms: array<f32, 128>; // sums of blocks of 32 experts

var<workgroup> group_sums: array<f32, 64>; // what groups compete by
var<workgroup> competes: array<u32, 64>; // 1: the group does

fn score(i: u32) -> f32 { return flush(x[i], ACTIVATION_FLOOR); }
// What expert e, whose score is i, is chosen by.
fn value(i: u32, e: u32) -> f32 {
  if params.sigmoid == 0u { return score(i); }
  if params.has_bias == 0u { return sigmoid(score(i)); }
  return add(sigmoid(score(i)), flush(bias[e], WEIGHT_FLOOR));
}
fn scaled(i: u32) -> f32 { return flush(mul(score(i), 1.442695f), ACTIVATION_FLOOR); }

// Whether a score stands before another: the larger, then the lower number.
fn before(a: f32, i: u32, b: f32, j: u32) -> bool { return a > b || (a == b && i < j); }

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let base = group.y * params.experts;
  let result = group.y * 2u * params.used;
  // The groups whose two best have the largest sum compete.
  let size = params.experts / params.groups;
  if thread < params.groups && params.groups > 1u {
    var first = value(base + thread * size, thread * size);
    var second = -0x1p100f;
    for (var e = thread * size + 1u; e < (thread + 1u) * size; e++) {
      let v = value(base + e, e);
      second = max(second, min(first, v));
      first = max(first, v);
    }
    if size > 1u { first = add(first, second); }
    group_sums[thread] = first;
  }
  workgroupBarrier();
  if thread < params.groups {
    var behind = 0u;
    if params.groups > 1u {
      for (var g = 0u; g < params.groups; g++) {
        if before(group_sums[g], g, group_sums[thread], thread) { behind++; }
      }
    }
    competes[thread] = select(0u, 1u, behind < params.compete);
  }
  workgroupBarrier();
  // One after the other: the first behind the one before.
  var last = 0.0;
  var last_number = 0u;
  var top = 0.0;
  for (var slot = 0u; slot < params.used; slot++) {
    var best = 0.0;
    var number = params.experts; // none
    for (var from_ = 0u; from_ < params.experts; from_ += THREADS) {
      let i = min(from_ + thread, params.experts - 1u); // the last again, where there is none
      let s = value(base + i, i);
      let behind = slot == 0u || before(last, last_number, s, i);
      if behind && competes[i / size] != 0u && (number == params.experts || before(s, i, best, number)) {
        best = s;
        number = i;
      }
    }
    shared_scores[thread] = best;
    shared_numbers[thread] = number;
    workgroupBarrier();
    for (var t = 0u; t < THREADS; t++) {
      let s = shared_scores[t];
      let i = shared_numbers[t];
      if i < params.experts && (number == params.experts || before(s, i, best, number)) {
        best = s;
        number = i;
      }
    }
    workgroupBarrier();
    // Without a number, as scores that are none have it, there is the last.
    number = min(number, params.experts - 1u);
    last = best;
    last_number = number;
    if slot == 0u { top = scaled(base + number); }
    if thread == 0u { out[result + slot] = f32(number); }
  }
  // The sum of the softmax: S8 in blocks of 32, then over the blocks.
  let count = select(params.experts, params.used, params.chosen != 0u);
  storageBarrier();
  workgroupBarrier();
  for (var from_ = 0u; from_ * 32u < count; from_ += THREADS) {
    let b = from_ + thread;
    if b * 32u < count {
      var lo = vec4(0.0);
      var hi = vec4(0.0);
      for (var i = 0u; i < min(32u, count - b * 32u); i++) {
        var e = b * 32u + i;
        if params.chosen != 0u { e = u32(out[result + e]); }
        let t = exp2_(sub(scaled(base + e), top));
        lo = add_lane(lo, i & 7u, t);
        hi = add_lane(hi, (i & 7u) - 4u, t);
      }
      shared_terms[b] = s8_tree(lo, hi);
    }
  }
  workgroupBarrier();
  if thread == 0u {
    var lo = vec4(0.0);
    var hi = vec4(0.0);
    for (var b = 0u; b * 32u < count; b++) {
      lo = add_lane(lo, b & 7u, shared_terms[b]);
      hi = add_lane(hi, (b & 7u) - 4u, shared_terms[b]);
    }
    let inverse = recip(s8_tree(lo, hi));
    var outer_lo = vec4(0.0);
    var outer_hi = vec4(0.0);
    lo = vec4(0.0);
    hi = vec4(0.0);
    for (var slot = 0u; slot < params.used; slot++) {
      let e = base + u32(out[result + slot]);
      var w = settle(mul(exp2_(sub(scaled(e), top)), inverse));
      if params.sigmoid != 0u { w = settle(sigmoid(score(e))); }
      out[result + params.used + slot] = w;
      lo = add_lane(lo, slot & 7u, w);
      hi = add_lane(hi, (slot & 7u) - 4u, w);
      if (slot & 31u) == 31u || slot + 1u == params.used {
        let b = slot / 32u;
        outer_lo = add_lane(outer_lo, b & 7u, s8_tree(lo, hi));
        outer_hi = add_lane(outer_hi, (b & 7u) - 4u, s8_tree(lo, hi));
        lo = vec4(0.0);
        hi = vec4(0.0);
      }
    }
    if params.normed != 0u {
      let normed = recip(max(s8_tree(outer_lo, outer_hi), 6.1035156e-5f));
      for (var slot = 0u; slot < params.used; slot++) {
        let w = flush(out[result + params.used + slot], WEIGHT_FLOOR);
        out[result + params.used + slot] = settle(mul(w, normed));
      }
    }
    if params.scale != 1.0 {
      for (var slot = 0u; slot < params.used; slot++) {
        let w = flush(out[result + params.used + slot], WEIGHT_FLOOR);
        out[result + params.used + slot] = settle(mul(w, params.scale));
      }
    }
  }
}
