// S8 over the sums of blocks, of which a workgroup makes as many at once as it has threads.

var<workgroup> terms: array<f32, THREADS>;

// The lane that a thread below 8 adds up, with the next `count` blocks, or as many of them as are in `terms` now.
fn with_blocks(lane: f32, count: u32, thread: u32) -> f32 {
  workgroupBarrier();
  var sum = lane;
  if thread < 8u {
    for (var t = thread; t < min(THREADS, count); t += 8u) { sum = add(sum, terms[t]); }
  }
  workgroupBarrier();
  return sum;
}

// The sum of the lanes.
fn total_of(lane: f32, thread: u32) -> f32 {
  if thread < 8u { terms[thread] = lane; }
  workgroupBarrier();
  return s8_tree(vec4(terms[0], terms[1], terms[2], terms[3]), vec4(terms[4], terms[5], terms[6], terms[7]));
}
