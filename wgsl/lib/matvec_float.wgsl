// The activations and terms of matvec.wgsl for formats of plain numbers: a term is the products of a chunk, added by S8.
// A format declares `quad`, four weights.

const PRECISE = false;
const SPAN = 1u;
override FLOATS: u32 = 4u * ITEMS; // vec4 in all rows
var<workgroup> xs: array<vec4<f32>, FLOATS>; // [item][four]

fn clear(thread: u32) {}
fn look(v: Item, item: u32) {}

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
  let section = section_of(c);
  let at = 8u * (section_row(group, slot, section) * SECTION_CHUNKS + c - section * SECTION_CHUNKS);
  return Fetched(Item(quad(at), quad(at + 2u), quad(at + 4u), quad(at + 6u)),
                 Item(quad(at + 1u), quad(at + 3u), quad(at + 5u), quad(at + 7u)));
}

struct Activations {
  lo: Item,
  hi: Item,
}

fn kept(at: u32) -> Item { return Item(xs[at], xs[at + 1u], xs[at + 2u], xs[at + 3u]); }
fn activations(row: u32, chunk: u32) -> Activations {
  let c = row * CHUNKS + chunk;
  return Activations(kept(8u * c), kept(8u * c + 4u));
}

fn four_lanes(w: Item, x: Item) -> vec4<f32> {
  let a = with_product(vec4(0.0), flush4(w.a, WEIGHT_FLOOR), x.a);
  let b = with_product(a, flush4(w.b, WEIGHT_FLOOR), x.b);
  let c = with_product(b, flush4(w.c, WEIGHT_FLOOR), x.c);
  return with_product(c, flush4(w.d, WEIGHT_FLOOR), x.d);
}

// Stores what chunk `c` gives to number `n` of the products, which is one of activation row `row`.
fn put(n: u32, row: u32, c: u32, f: Fetched, x: Activations) {
  terms[n * CHUNKS + c] = s8_tree(four_lanes(f.lo, x.lo), four_lanes(f.hi, x.hi));
}

// The term of block `b` of number `n` of the products, or of their sections.
fn term(group: u32, n: u32, b: u32) -> f32 { return terms[n * SECTION_CHUNKS + b]; }
