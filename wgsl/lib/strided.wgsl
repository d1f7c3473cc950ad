// Views of buffers, twin of src/tensor/view.rs, what operands hold, and how results are stored: no number that is not finite remains unseen.

@group(0) @binding(2) var<storage, read> views: array<u32>; // of each view: axes, offset; of each axis, the last first: length, stride
@group(0) @binding(3) var<storage, read_write> faults: array<atomic<u32>>;

override HALVES: u32 = 0u; // bit i is 1: operand i holds f16, two to a word

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

// Which word of operand i the element at a place is in; and the element, once the word is known: the bits of an f16 as those of an f32.
fn word_at(i: u32, place: u32) -> u32 { return place >> ((HALVES >> i) & 1u); }
fn element(i: u32, word: u32, place: u32) -> u32 {
  if ((HALVES >> i) & 1u) == 0u { return word; }
  return bitcast<u32>(f16_to_f32((word >> ((place & 1u) * 16u)) & 0xffffu));
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
