// The activations and terms of matvec.wgsl for formats of plain numbers: a term is the products of a chunk, added by S8.
// A format declares `quad`, four weights.

const PRECISE = false;
override FLOATS: u32 = 8u; // 8 * CHUNKS: vec4 in a row
var<workgroup> xs: array<vec4<f32>, FLOATS>; // [item][four]

fn clear(thread: u32) {}
fn look(v: Item, item: u32) {}

fn ready(x: vec4<f32>) -> vec4<f32> {
  var v = x;
  if EXACT { v = vec4(r13(x.x), r13(x.y), r13(x.z), r13(x.w)); }
  return flush4(v, ACTIVATION_FLOOR);
}

fn keep(v: Item, item: u32) {
  xs[4u * item] = ready(v.a);
  xs[4u * item + 1u] = ready(v.b);
  xs[4u * item + 2u] = ready(v.c);
  xs[4u * item + 3u] = ready(v.d);
}

// The first and the second four lanes of a chunk.
struct Fetched {
  lo: Item,
  hi: Item,
}

fn fetch(group: u32, slot: u32, c: u32) -> Fetched {
  let at = 8u * (weight_row(group, slot) * CHUNKS + c);
  return Fetched(Item(quad(at), quad(at + 2u), quad(at + 4u), quad(at + 6u)),
                 Item(quad(at + 1u), quad(at + 3u), quad(at + 5u), quad(at + 7u)));
}

struct Activations {
  lo: Item,
  hi: Item,
}

fn kept(at: u32) -> Item { return Item(xs[at], xs[at + 1u], xs[at + 2u], xs[at + 3u]); }
fn activations(c: u32) -> Activations { return Activations(kept(8u * c), kept(8u * c + 4u)); }

fn with_product(sum: vec4<f32>, w: vec4<f32>, x: vec4<f32>) -> vec4<f32> {
  let v = flush4(w, WEIGHT_FLOOR);
  if EXACT { return add_exact4(sum, v, x); }
  return add4(sum, mul4(v, x));
}
fn four_lanes(w: Item, x: Item) -> vec4<f32> {
  return with_product(with_product(with_product(with_product(vec4(0.0), w.a, x.a), w.b, x.b), w.c, x.c), w.d, x.d);
}

// Stores what chunk `c` gives to the row of `slot`.
fn put(slot: u32, c: u32, f: Fetched, x: Activations) {
  terms[slot * CHUNKS + c] = s8_tree(four_lanes(f.lo, x.lo), four_lanes(f.hi, x.hi));
}

// The term of block `b` of the row of `slot`.
fn term(group: u32, slot: u32, b: u32) -> f32 { return terms[slot * CHUNKS + b]; }
