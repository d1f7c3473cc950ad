// The weights and terms of matvec.wgsl for formats of integers with scales: activations are integers, too.

override BLOCKS: u32 = CHUNKS / SPAN;
override SECTION_BLOCKS: u32 = SECTION_CHUNKS / SPAN;
override SUMS: u32 = select(1u, SLOTS * ROWS * BLOCKS, SPAN > 1u);
override MINS: u32 = select(1u, SUMS, HAS_MIN);
override LOWS: u32 = select(1u, SUMS, PRECISE);
override LOW_MINS: u32 = select(1u, MINS, PRECISE);

// Integer sums of blocks that span chunks: exact in any order.
var<workgroup> sums: array<atomic<i32>, SUMS>;
var<workgroup> mins: array<atomic<i32>, MINS>;
var<workgroup> lows: array<atomic<i32>, LOWS>;
var<workgroup> low_mins: array<atomic<i32>, LOW_MINS>;

fn clear_sums(thread: u32) {
  if SPAN > 1u {
    for (var i = thread; i < SUMS; i += THREADS) { atomicStore(&sums[i], 0); }
    if HAS_MIN { for (var i = thread; i < MINS; i += THREADS) { atomicStore(&mins[i], 0); } }
    if PRECISE { for (var i = thread; i < LOWS; i += THREADS) { atomicStore(&lows[i], 0); } }
    if PRECISE && HAS_MIN { for (var i = thread; i < LOW_MINS; i += THREADS) { atomicStore(&low_mins[i], 0); } }
  }
}

fn whole(i: i32) -> f32 {
  if SPAN == 1u { return small_integer(i); }
  return nearest(i);
}

struct Fetched {
  w: Chunk,
  dm: vec2<f32>, // the block's float scales, where a block is a chunk
}

fn fetch(group: u32, slot: u32, c: u32) -> Fetched {
  let section = section_of(c);
  let block = section_row(group, slot, section) * SECTION_BLOCKS + (c - section * SECTION_CHUNKS) / SPAN;
  var dm = vec2(0.0);
  if SPAN == 1u { dm = scales(block); }
  return Fetched(unpack(block, c % SPAN), dm);
}

// A plane of a chunk of activations.
struct Plane {
  a: vec4<u32>, // 0 … 15
  b: vec4<u32>, // 16 … 31
  sums: vec2<i32>,
}

struct Activations {
  high: Plane,
  low: Plane, // with PRECISE
}

// Stores what chunk `c` gives to number `n` of the products, which is one of activation row `row`.
fn put(n: u32, row: u32, c: u32, f: Fetched, x: Activations) {
  let high = dots(f.w, x.high.a, x.high.b, x.high.sums);
  var low = Dots(0, 0);
  if PRECISE { low = dots(f.w, x.low.a, x.low.b, x.low.sums); }
  if SPAN == 1u {
    terms[n * CHUNKS + c] = mul(x_scale(row, c), block_value(f.dm, high, low));
  } else {
    let at = n * BLOCKS + c / SPAN;
    atomicAdd(&sums[at], high.s);
    if HAS_MIN { atomicAdd(&mins[at], high.m); }
    if PRECISE { atomicAdd(&lows[at], low.s); }
    if PRECISE && HAS_MIN { atomicAdd(&low_mins[at], low.m); }
  }
}

// The term of block `b` of number `n` of the products, or of their sections.
fn term(group: u32, n: u32, b: u32) -> f32 {
  if SPAN == 1u { return terms[n * SECTION_CHUNKS + b]; }
  let at = n * SECTION_BLOCKS + b;
  var high = Dots(atomicLoad(&sums[at]), 0);
  var low = Dots(0, 0);
  if HAS_MIN { high.m = atomicLoad(&mins[at]); }
  if PRECISE { low.s = atomicLoad(&lows[at]); }
  if PRECISE && HAS_MIN { low.m = atomicLoad(&low_mins[at]); }
  let row = section_row(group, n / (ROWS * SECTIONS), n % SECTIONS);
  return mul(x_scale(n / SECTIONS % ROWS, n % SECTIONS * SECTION_BLOCKS + b), block_value(scales(row * SECTION_BLOCKS + b), high, low));
}
