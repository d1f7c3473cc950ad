// out = the sum, the largest, the smallest, or the place of one of these, over some axes; twin of src/tensor/reduce.rs.
// A workgroup makes one element.
// needs: strided, blocks

struct Params {
  count: u32, // elements of the result
  terms: u32, // elements that each is made of
  slot: u32, // where a fault is told
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> x: array<u32>;
@group(0) @binding(5) var<storage, read_write> out: array<u32>;

override THREADS: u32 = 64u;
override REDUCTION: u32 = 0u; // the place in the table of src/tensor/reduce.rs
override INTEGER: u32 = 0u; // 1: i32
var<workgroup> partial: array<u32, THREADS>;
var<workgroup> places: array<u32, THREADS>;

const NOWHERE = 0xffffffffu;

fn term(base: u32, i: u32) -> u32 {
  let at = base + place(1u, i);
  return element(0u, x[word_at(0u, at)], at);
}

// Whether `a` at place `i` is chosen before `b` at place `j`.
fn before(a: u32, i: u32, b: u32, j: u32) -> bool {
  if i == NOWHERE || j == NOWHERE { return j == NOWHERE && i != NOWHERE; }
  if a == b { return i < j; }
  let largest = REDUCTION == 1u || REDUCTION == 3u;
  if INTEGER != 0u { return (bitcast<i32>(a) > bitcast<i32>(b)) == largest; }
  return (bitcast<f32>(a) > bitcast<f32>(b)) == largest;
}

// S8 over blocks of 32, each of them S8 over its elements.
fn sum_of(base: u32, thread: u32) -> f32 {
  let blocks = (params.terms + 31u) / 32u;
  var lane = 0.0;
  for (var first = 0u; first < blocks; first += THREADS) {
    let block = first + thread;
    if block < blocks {
      var lo = vec4(0.0);
      var hi = vec4(0.0);
      let n = min(32u, params.terms - block * 32u);
      for (var i = 0u; i < n; i++) {
        let t = bitcast<f32>(term(base, block * 32u + i));
        lo = add_lane(lo, i & 7u, t);
        hi = add_lane(hi, (i & 7u) - 4u, t);
      }
      terms[thread] = s8_tree(lo, hi);
    }
    lane = with_blocks(lane, blocks - first, thread);
  }
  return total_of(lane, thread);
}

// What every thread has seen, put together.
fn count_of(base: u32, thread: u32) -> u32 {
  var sum = 0u;
  for (var first = 0u; first < params.terms; first += THREADS) {
    if first + thread < params.terms { sum += term(base, first + thread); }
  }
  partial[thread] = sum;
  workgroupBarrier();
  var total = 0u;
  for (var t = 0u; t < THREADS; t++) { total += partial[t]; }
  return total;
}

fn best_of(base: u32, thread: u32) -> vec2<u32> {
  var best = vec2(0u, NOWHERE);
  for (var first = 0u; first < params.terms; first += THREADS) {
    let i = first + thread;
    if i < params.terms {
      let t = term(base, i);
      if before(t, i, best.x, best.y) { best = vec2(t, i); }
    }
  }
  partial[thread] = best.x;
  places[thread] = best.y;
  workgroupBarrier();
  for (var t = 0u; t < THREADS; t++) {
    if before(partial[t], places[t], best.x, best.y) { best = vec2(partial[t], places[t]); }
  }
  return best;
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let i = group_number(group);
  // Workgroups beyond the last compute the last once more.
  let base = place(0u, min(i, params.count - 1u));
  var word = 0u;
  if REDUCTION == 0u {
    if INTEGER != 0u { word = count_of(base, thread); } else { word = stored(sum_of(base, thread)); }
  } else {
    let best = best_of(base, thread);
    word = select(best.x, best.y, REDUCTION >= 3u);
  }
  if thread == 0u && i < params.count { out[i] = word; }
}
