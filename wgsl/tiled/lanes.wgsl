// The sum of the lanes of S8, of which wgsl/lib/units.wgsl left sums of one, two or four, in the order of its lanes.

struct Params {
  parts: u32, // 8, 4 or 2
  places: u32, // rows that each of them has place for
  width: u32, // of a row, a multiple of 4
  has_bias: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> parts4: array<vec4<f32>>; // [part][place][width]
@group(0) @binding(3) var<storage, read> bias4: array<vec4<f32>>;
@group(0) @binding(4) var<storage, read_write> out4: array<vec4<f32>>; // [row][width]

fn two(at: u32, step: u32) -> vec4<f32> { return add4(parts4[at], parts4[at + step]); }
fn four(at: u32, step: u32) -> vec4<f32> { return add4(two(at, step), two(at + 2u * step, step)); }

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let quads = params.width / 4u;
  let quad = 64u * group.x + thread;
  if quad >= quads { return; }
  let at = group.y * quads + quad;
  let step = params.places * quads;
  var sum = vec4(0.0);
  switch params.parts {
    case 2u: { sum = two(at, step); }
    case 4u: { sum = four(at, step); }
    default: { sum = add4(four(at, step), four(at + 4u * step, step)); }
  }
  sum = settle4(sum);
  if params.has_bias != 0u { sum = settle4(add4(sum, bias4[quad])); }
  out4[at] = sum;
}
