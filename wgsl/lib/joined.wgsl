// What the activations of matvec.wgsl are made of: a row in the layout of items, and a branch that joins it behind a norm or a
// scale. Workgroup 0 leaves the sum. Twins: rms_norm, scale and add.

@group(0) @binding(11) var<storage, read> branch4: array<vec4<f32>>; // in order
@group(0) @binding(12) var<storage, read_write> sum4: array<vec4<f32>>; // in the layout of items
override BRANCH_NORM: bool = true; // its weights lie behind those of the norm
override BRANCH_SCALED: bool = false;
var<private> leaves: bool; // whether this workgroup does
var<private> branch_r: f32; // what the branch is multiplied by

fn branch_item(item: u32) -> Item {
  let at = 8u * (item >> 1u) + (item & 1u);
  return Item(branch4[at], branch4[at + 2u], branch4[at + 4u], branch4[at + 6u]);
}
fn flushed(v: Item) -> Item {
  return Item(flush4(v.a, WEIGHT_FLOOR), flush4(v.b, WEIGHT_FLOOR), flush4(v.c, WEIGHT_FLOOR), flush4(v.d, WEIGHT_FLOOR));
}

fn begin(group: u32, thread: u32) {
  leaves = group == 0u;
  if BRANCH_NORM {
    for (var from_ = 0u; from_ < 2u * CHUNKS; from_ += THREADS) {
      let item = from_ + thread;
      if item < 2u * CHUNKS { lanes[item] = squares(flushed(branch_item(item))); }
    }
    sum_lanes(thread, THREADS, CHUNKS, 1u);
    branch_r = rsqrt(add(mul(sum_of_row(0u), params.inverse_width), params.branch_eps));
  }
}

// Four elements of the sum: number `quad` of the row in the layout of items.
fn summed(branch: vec4<f32>, quad: u32) -> vec4<f32> {
  var b = branch;
  if BRANCH_NORM { b = settle4(mul4(mul4(flush4(b, WEIGHT_FLOOR), vec4(branch_r)), norm4[8u * CHUNKS + quad])); }
  if BRANCH_SCALED { b = settle4(mul4(flush4(b, ACTIVATION_FLOOR), vec4(params.branch_scale))); }
  let sum = settle4(add4(flush4(x4[quad], RESULT_FLOOR), flush4(b, RESULT_FLOOR)));
  if leaves { sum4[quad] = sum; }
  return sum;
}
fn stream_item(row: u32, item: u32) -> Item {
  let items = 2u * CHUNKS;
  let b = branch_item(item);
  return Item(summed(b.a, item), summed(b.b, items + item), summed(b.c, 2u * items + item), summed(b.d, 3u * items + item));
}
