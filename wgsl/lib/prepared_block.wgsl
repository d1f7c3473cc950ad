// Activations of prepared.wgsl as integers with scales.

override X_PLANES: u32 = select(1u, 2u, PRECISE) * ITEMS; // halves of chunks of both planes
override PEAKS: u32 = ROWS * BLOCKS;
var<workgroup> xq: array<vec4<u32>, X_PLANES>;
var<workgroup> peaks: array<atomic<u32>, PEAKS>;
var<workgroup> x_scales: array<f32, PEAKS>;

fn clear(thread: u32) {
  for (var b = thread; b < PEAKS; b += THREADS) { atomicStore(&peaks[b], 0u); }
  clear_sums(thread);
}

// A block's peak is known once all of its items were looked at.
fn look(v: Item, item: u32) { atomicMax(&peaks[item / (2u * SPAN)], peak(v)); }

fn keep(v: Item, item: u32) {
  let block = item / (2u * SPAN);
  let q = quantise(v, atomicLoad(&peaks[block]));
  xq[item] = q.high;
  if PRECISE { xq[ITEMS + item] = q.low; }
  if item % (2u * SPAN) == 0u { x_scales[block] = bitcast<f32>(q.scale); }
}

fn x_scale(row: u32, b: u32) -> f32 { return x_scales[row * BLOCKS + b]; }

// Items hold every other word of a chunk.
fn plane_of(plane: u32, c: u32) -> Plane {
  let p = xq[plane + 2u * c];
  let q = xq[plane + 2u * c + 1u];
  let a = vec4(p.x, q.x, p.y, q.y);
  let b = vec4(p.z, q.z, p.w, q.w);
  return Plane(a, b, half_sums(a, b));
}

fn activations(row: u32, chunk: u32) -> Activations {
  let c = row * CHUNKS + chunk;
  let high = plane_of(0u, c);
  if PRECISE { return Activations(high, plane_of(ITEMS, c)); }
  return Activations(high, high);
}
