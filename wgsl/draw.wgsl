// out[state.next] = a token drawn from a row of logits; twin of src/ops/draw.rs. One workgroup takes the row: it finds the
// top_k-th largest by its bits, gathers what is larger, ties to the lower id, and sorts that by counting. All loops in front of
// a barrier run equally often in every thread: FXC takes no others here (docs/shaders.md).
// needs: order

struct Params {
  width: u32, // logits per row
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;
@group(0) @binding(4) var<storage, read> options: array<u32>; // top_k (at most 256), top_p, min_p, 1 / temperature
@group(0) @binding(5) var<storage, read> draws: array<f32>; // from 0 to 1, for each place of `out`

override THREADS: u32 = 64u;
var<workgroup> bins: array<atomic<u32>, 256>; // how many keys have a byte; then the lowest ids with the key
var<workgroup> bits: u32; // of the key that is looked for, from the top; then all of it
var<workgroup> missing: u32; // how many keys with these bits are among the largest
var<workgroup> found: atomic<u32>;
var<workgroup> keys: array<u32, 256>;
var<workgroup> ids: array<u32, 256>;
// From the largest logit on.
var<workgroup> best: array<f32, 256>;
var<workgroup> best_ids: array<u32, 256>;
var<workgroup> weights: array<f32, 256>;
var<workgroup> partial: array<f32, 64>; // [block of 32][lane of S8]
var<workgroup> kept: u32;

fn key_at(i: u32) -> u32 { return key(x[state.slot * params.width + i]); }

fn fill_bins(thread: u32, value: u32) {
  for (var first = 0u; first < 256u; first += THREADS) {
    if first + thread < 256u { atomicStore(&bins[first + thread], value); }
  }
}

// The key of the top_k-th largest logit, a byte at a time.
fn find(thread: u32, top_k: u32) {
  if thread == 0u {
    bits = 0u;
    missing = top_k;
    atomicStore(&found, 0u);
  }
  for (var round = 0u; round < 4u; round++) {
    let shift = 24u - 8u * round;
    fill_bins(thread, 0u);
    workgroupBarrier();
    for (var first = 0u; first < params.width; first += THREADS) {
      let i = first + thread;
      if i < params.width {
        let k = key_at(i);
        // Shifts by 32 are not allowed.
        if round == 0u || ((k ^ bits) >> min(shift + 8u, 31u)) == 0u { atomicAdd(&bins[(k >> shift) & 255u], 1u); }
      }
    }
    workgroupBarrier();
    if thread == 0u {
      var bin = 255u;
      var rest = missing;
      while bin > 0u && atomicLoad(&bins[bin]) < rest {
        rest -= atomicLoad(&bins[bin]);
        bin--;
      }
      missing = rest;
      bits |= bin << shift;
    }
    workgroupBarrier();
  }
}

// Gathers the largest: those above the key that was found, then as many with it as are missing.
fn gather(thread: u32, top_k: u32) {
  fill_bins(thread, 0xffffffffu);
  for (var first = 0u; first < params.width; first += THREADS) {
    let i = first + thread;
    if i < params.width {
      let k = key_at(i);
      if k > bits {
        let at = atomicAdd(&found, 1u);
        keys[at] = k;
        ids[at] = i;
      }
    }
  }
  let equal = workgroupUniformLoad(&missing);
  var from_id = 0u;
  for (var n = 0u; n < equal; n++) {
    for (var first = 0u; first < params.width; first += THREADS) {
      let i = first + thread;
      if i >= from_id && i < params.width {
        if key_at(i) == bits { atomicMin(&bins[n], i); }
      }
    }
    workgroupBarrier();
    let id = atomicLoad(&bins[n]);
    if thread == 0u {
      keys[top_k - equal + n] = bits;
      ids[top_k - equal + n] = id;
    }
    from_id = id + 1u;
  }
}

fn sort(thread: u32, top_k: u32) {
  for (var first = 0u; first < top_k; first += THREADS) {
    let i = first + thread;
    if i < top_k {
      var rank = 0u;
      for (var j = 0u; j < top_k; j++) {
        if keys[j] > keys[i] || (keys[j] == keys[i] && ids[j] < ids[i]) { rank++; }
      }
      best[rank] = unkey(keys[i]);
      best_ids[rank] = ids[i];
    }
  }
}

// The sum of the weights: S8 in blocks of 32, S8 over at most 8 blocks.
fn total() -> f32 {
  var blocks: array<f32, 8>;
  for (var b = 0u; b < 8u; b++) {
    let at = 8u * b;
    blocks[b] = s8_tree(vec4(partial[at], partial[at + 1u], partial[at + 2u], partial[at + 3u]),
                        vec4(partial[at + 4u], partial[at + 5u], partial[at + 6u], partial[at + 7u]));
  }
  return s8_tree(vec4(blocks[0], blocks[1], blocks[2], blocks[3]), vec4(blocks[4], blocks[5], blocks[6], blocks[7]));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(local_invocation_index) thread: u32) {
  let top_k = min(options[0], params.width);
  let top_p = bitcast<f32>(options[1]);
  let min_p = bitcast<f32>(options[2]);
  let inverse = bitcast<f32>(options[3]);
  find(thread, top_k);
  gather(thread, top_k);
  workgroupBarrier();
  sort(thread, top_k);
  workgroupBarrier();
  for (var first = 0u; first < 256u; first += THREADS) {
    let i = first + thread;
    if i < 256u {
      var w = 0.0;
      if i < top_k { w = exp_(sub(best[i], best[0])); }
      weights[i] = w;
    }
  }
  workgroupBarrier();
  for (var first = 0u; first < 64u; first += THREADS) {
    let i = first + thread;
    if i < 64u {
      var sum = 0.0;
      for (var j = 0u; j < 4u; j++) { sum = add(sum, weights[32u * (i >> 3u) + 8u * j + (i & 7u)]); }
      partial[i] = sum;
    }
  }
  workgroupBarrier();
  if thread == 0u {
    let enough = mul(top_p, total());
    var n = 1u;
    var sum = weights[0];
    while n < top_k && sum < enough && weights[n] >= min_p {
      sum = add(sum, weights[n]);
      n++;
    }
    kept = n;
  }
  workgroupBarrier();
  for (var first = 0u; first < top_k; first += THREADS) {
    let i = first + thread;
    if i < kept { weights[i] = exp_(mul(sub(best[i], best[0]), inverse)); }
  }
  workgroupBarrier();
  if thread == 0u {
    var all = 0.0;
    for (var i = 0u; i < kept; i++) { all = add(all, weights[i]); }
    let drawn = mul(draws[state.next], all);
    var at = 0u;
    var sum = weights[0];
    while at + 1u < kept && drawn >= sum {
      at++;
      sum = add(sum, weights[at]);
    }
    out[state.next] = best_ids[at];
  }
}
