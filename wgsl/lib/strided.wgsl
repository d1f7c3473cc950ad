// Views of buffers, twin of src/tensor/view.rs, and how results are stored: no number that is not finite remains unseen.

@group(0) @binding(2) var<storage, read> views: array<u32>; // of each view: axes, offset; of each axis, the last first: length, stride
@group(0) @binding(3) var<storage, read_write> faults: array<atomic<u32>>;

const VIEW_WORDS = 18u;
const GRID_WIDTH = 32768u; // workgroups in a row of the grid
const NOT_FINITE = 1u;
const OUT_OF_RANGE = 2u;

// Where element `index` of a view is.
fn place(view: u32, index: u32) -> u32 {
  let at = view * VIEW_WORDS;
  let axes = views[at];
  var rest = index;
  var sum = views[at + 1u];
  for (var axis = 0u; axis + 1u < axes; axis++) {
    let n = views[at + 2u + 2u * axis];
    sum += (rest % n) * views[at + 3u + 2u * axis];
    rest /= n;
  }
  return sum + rest * views[at + 1u + 2u * axes];
}

// The number of a workgroup.
fn group_number(group: vec3<u32>) -> u32 { return group.y * GRID_WIDTH + group.x; }

// What stands for a result that there is none of.
fn infinity() -> f32 { return bitcast<f32>(0x7f800000u | state.zero); }

fn is_finite(x: f32) -> bool { return (bitcast<u32>(x) & 0x7f800000u) != 0x7f800000u; }

// A result as it is stored.
fn stored(x: f32) -> u32 {
  if !is_finite(x) { atomicMax(&faults[params.slot], NOT_FINITE); }
  return bitcast<u32>(settle(x));
}
