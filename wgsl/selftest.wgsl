// The primitives that every kernel is made of, a word of result each; twin of src/verify/selftest.rs.

struct Params {
  primitives: u32, // words per input
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> inputs: array<vec4<u32>>; // two floats, two integers
@group(0) @binding(3) var<storage, read_write> out: array<u32>;

override THREADS: u32 = 64u;
var<workgroup> terms: array<f32, THREADS>;

// The S8 sum of the workgroup's first floats.
fn sum(thread: u32, term: f32) -> f32 {
  terms[thread] = term;
  workgroupBarrier();
  var lane_sum = 0.0;
  if thread < 8u {
    for (var i = thread; i < THREADS; i += 8u) { lane_sum = add(lane_sum, terms[i]); }
  }
  workgroupBarrier();
  if thread < 8u { terms[thread] = lane_sum; }
  workgroupBarrier();
  return s8_tree(vec4(terms[0], terms[1], terms[2], terms[3]), vec4(terms[4], terms[5], terms[6], terms[7]));
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let i = group.x * THREADS + thread;
  let input = inputs[i];
  let a = flush(bitcast<f32>(input.x), WEIGHT_FLOOR);
  let b = flush(bitcast<f32>(input.y), WEIGHT_FLOOR);
  let divisor = select(b, 1.0, b == 0.0);
  let at = i * params.primitives;
  out[at] = bitcast<u32>(add(mul(a, b), a));
  out[at + 1u] = bitcast<u32>(sub(add(a, b), a));
  out[at + 2u] = bitcast<u32>(settle(bitcast<f32>(input.z & 0x807fffffu)));
  out[at + 3u] = bitcast<u32>(r13(a));
  out[at + 4u] = f16_bits(a);
  out[at + 5u] = bitcast<u32>(f16_to_f32(input.z & 0xbfffu));
  out[at + 6u] = bitcast<u32>(nearest(bitcast<i32>(input.z)));
  out[at + 7u] = bitcast<u32>(i32(round(mul(f32(bitcast<i32>(input.w) >> 12u), 0.5))));
  out[at + 8u] = bitcast<u32>(dot4I8Packed(input.z, input.w));
  out[at + 9u] = bitcast<u32>(recip(divisor));
  out[at + 10u] = bitcast<u32>(rsqrt(abs(divisor)));
  out[at + 11u] = bitcast<u32>(exp_(a));
  out[at + 12u] = bitcast<u32>(exp2_(-abs(a)));
  out[at + 13u] = bitcast<u32>(silu(a));
  out[at + 14u] = bitcast<u32>(sum(thread, a));
}
