// The matrix product for many activation rows: tiles of TOKENS rows and 16 * DEEP weight rows in workgroup memory. Which rows
// these are is in lib/in_order.wgsl and lib/by_expert.wgsl.
// A thread makes 4 activation rows times DEEP weight rows. Blocks are taken lane by lane of S8, and the lanes in the
// order 0 4 2 6 1 5 3 7, so that the tree of their sums needs three pending values and no more.
// needs: block format, dots, quads, lanes, pending

const SLOTS = 8u; // pending sums of a thread
override THREADS: u32 = 256u; // 256, or 128 where DEEP is 4
override DEEP: u32 = 4u; // weight rows of a thread: 4 or 8
override TOKENS: u32 = THREADS / 4u;
// Lengths of the arrays, each for two tiles: one is read while the next is stored.
override WEIGHTS: u32 = 2u * 2u * 2u * 16u * DEEP;
override SCALES: u32 = 2u * 2u * 16u * DEEP;
override SUB_SCALES: u32 = select(1u, SCALES, SPAN > 1u);
override ACTIVATIONS: u32 = 2u * 2u * 2u * TOKENS;
override LOWS: u32 = select(1u, ACTIVATIONS, PRECISE);
override SUMS: u32 = select(1u, 2u * TOKENS, HAS_MIN);

var<workgroup> w_tile: array<vec4<u32>, WEIGHTS>; // [tile][chunk][half][row]
var<workgroup> x_tile: array<vec4<u32>, ACTIVATIONS>; // [tile][chunk][half][token]
var<workgroup> x_low: array<vec4<u32>, LOWS>;
var<workgroup> w_scale: array<vec2<f32>, SCALES>;
var<workgroup> w_sub: array<vec2<u32>, SUB_SCALES>; // pairs of i16
var<workgroup> x_sums: array<vec4<i32>, SUMS>; // [tile][chunk][half][four tokens]
var<workgroup> x_low_sums: array<vec4<i32>, SUMS>;
var<workgroup> x_scale: array<vec4<f32>, TOKENS>; // [tile][chunk][four tokens]

fn activations(at: u32) -> Activations {
  return Activations(x_tile[at], x_tile[at + 1u], x_tile[at + 2u], x_tile[at + 3u],
                     x_tile[at + TOKENS], x_tile[at + TOKENS + 1u], x_tile[at + TOKENS + 2u], x_tile[at + TOKENS + 3u]);
}
fn low_activations(at: u32) -> Activations {
  return Activations(x_low[at], x_low[at + 1u], x_low[at + 2u], x_low[at + 3u],
                     x_low[at + TOKENS], x_low[at + TOKENS + 1u], x_low[at + TOKENS + 2u], x_low[at + TOKENS + 3u]);
}

// A chunk's place: block, chunk of the block, and the place of the block's lane in the order.
struct ChunkPlace {
  b: u32,
  c: u32,
  lane: u32,
}
fn lane_ends(p: ChunkPlace) -> bool { return p.c + 1u == SPAN && p.b + 8u >= params.blocks; }
fn chosen(a: ChunkPlace, b: ChunkPlace, second: bool) -> ChunkPlace {
  return ChunkPlace(select(a.b, b.b, second), select(a.c, b.c, second), 0u);
}
// The chunk behind: of this block, of this lane, of the next lane that has blocks; behind the last one the first.
fn chunk_after(p: ChunkPlace) -> ChunkPlace {
  if p.c + 1u < SPAN { return ChunkPlace(p.b, p.c + 1u, p.lane); }
  let next = after(Place(p.b, p.lane), params.blocks);
  return ChunkPlace(next.b, 0u, next.lane);
}

// One chunk for weight row `r` of the thread, whose first row lies at `w_at`, and its scales at `scale_at`.
fn row(r: u32, w_at: u32, scale_at: u32, x: Quad, last: bool, block: ptr<function, Integers>, sum: ptr<function, vec4<f32>>) {
  var sub = vec4(1);
  if SPAN > 1u {
    let p = bitcast<vec2<i32>>(w_sub[scale_at + 16u * r]);
    sub = vec4((p.x << 16u) >> 16u, p.x >> 16u, (p.y << 16u) >> 16u, p.y >> 16u);
  }
  accumulate(w_tile[w_at + 16u * r], w_tile[w_at + 16u * r + 16u * DEEP], sub, x, block);
  if last {
    *sum = add4(*sum, terms(w_scale[scale_at + 16u * r], x.scale, *block));
    *block = Integers(vec4(0), vec4(0), vec4(0), vec4(0));
  }
}

fn store(tile: u32, rows: u32, n: u32, token: u32, sum: vec4<f32>) {
  if !has_row(tile, n) { return; }
  for (var j = 0u; j < 4u; j++) {
    if token + j < rows {
      var y = settle(sum[j]);
      if params.has_bias != 0u { y = settle(add(y, bias_of(tile, n))); }
      out[result(tile, token + j, n)] = y;
    }
  }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let width = 16u * DEEP;
  let tx = thread & 15u;
  let ty = thread >> 4u;
  // Every thread brings a quarter of the activations of a row of the tile; the first 2 * width bring a chunk of weights.
  let rows = tile_rows(group.y);
  let my_row = weight_row(group.y, group.x * width + thread % width);
  let my_chunk = thread / width;
  let my_token = thread >> 2u;
  let my_half = thread & 1u;
  let token = min(my_token, rows - 1u);
  let my_block = x_block(group.y, token);
  let my_x = x_row(group.y, token) * params.x_stride;
  let low_plane = params.cols >> 4u;
  let planes = select(1u, 2u, PRECISE) * (params.cols >> 2u);
  // Whether the thread has rows to compute.
  let computes = !SPARSE || 4u * ty < rows;

  var a0 = vec4(0.0); var a1 = vec4(0.0); var a2 = vec4(0.0); var a3 = vec4(0.0);
  var a4 = vec4(0.0); var a5 = vec4(0.0); var a6 = vec4(0.0); var a7 = vec4(0.0);
  let none = Integers(vec4(0), vec4(0), vec4(0), vec4(0));
  var i0 = none; var i1 = none; var i2 = none; var i3 = none;
  var i4 = none; var i5 = none; var i6 = none; var i7 = none;

  let steps = select(params.blocks * SPAN, 0u, is_void(group.y, group.x * width, width));
  var next = ChunkPlace(0u, 0u, 0u); // the first chunk that is not yet brought
  var order = 0u; // the place of the lane that is computed
  var flags = vec4(false); // of the two chunks computed: whether a block, and whether a lane, ends
  // What this thread brings of a tile.
  var w = Chunk(vec4(0u), vec4(0u), vec2(0), vec2(0));
  var dm = vec2(0.0);
  var v = vec4(0u);
  var v_low = vec4(0u);
  var e = 0u;
  for (var step = 0u; step < steps + 2u; step += 2u) {
    // Brings two chunks on their way, computes the two before, then stores what was brought.
    let p0 = next;
    let p1 = chunk_after(p0);
    if step < steps {
      let weight_place = chosen(p0, p1, my_chunk == 1u);
      if thread < 2u * width {
        w = unpack(my_row * params.blocks + weight_place.b, weight_place.c);
        dm = scales(my_row * params.blocks + weight_place.b);
      }
      let x_place = chosen(p0, p1, (thread & 2u) != 0u);
      let block = my_block + x_place.b;
      let at = (my_x >> 2u) + 2u * (block * SPAN + x_place.c) + my_half;
      v = x4[at];
      if PRECISE { v_low = x4[at + low_plane]; }
      e = x[my_x + planes + block];
    }
    if step > 0u && computes {
      for (var u = 0u; u < min(2u, steps + 2u - step); u++) {
        let f = ((step >> 1u) - 1u) & 1u;
        let tile = 2u * f + u;
        var ends = select(flags.y, flags.w, u == 1u);
        let w_at = tile * 2u * width + tx;
        let scale_at = tile * width + tx;
        let last = SPAN == 1u || select(flags.x, flags.z, u == 1u);
        var t: Quad;
        t.hi = activations(tile * 2u * TOKENS + 4u * ty);
        t.scale = x_scale[tile * TOKENS / 4u + ty];
        if PRECISE { t.lo = low_activations(tile * 2u * TOKENS + 4u * ty); }
        if HAS_MIN {
          let at = tile * TOKENS / 2u + ty;
          t.hi_sums = Sums(x_sums[at], x_sums[at + TOKENS / 4u]);
          if PRECISE { t.lo_sums = Sums(x_low_sums[at], x_low_sums[at + TOKENS / 4u]); }
        }
        row(0u, w_at, scale_at, t, last, &i0, &a0);
        row(1u, w_at, scale_at, t, last, &i1, &a1);
        row(2u, w_at, scale_at, t, last, &i2, &a2);
        row(3u, w_at, scale_at, t, last, &i3, &a3);
        if DEEP > 4u {
          row(4u, w_at, scale_at, t, last, &i4, &a4);
          row(5u, w_at, scale_at, t, last, &i5, &a5);
          row(6u, w_at, scale_at, t, last, &i6, &a6);
          row(7u, w_at, scale_at, t, last, &i7, &a7);
        }
        // A lane whose last block this was joins the others.
        while ends {
          a0 = merged(order, 0u, a0);
          a1 = merged(order, 1u, a1);
          a2 = merged(order, 2u, a2);
          a3 = merged(order, 3u, a3);
          if DEEP > 4u {
            a4 = merged(order, 4u, a4);
            a5 = merged(order, 5u, a5);
            a6 = merged(order, 6u, a6);
            a7 = merged(order, 7u, a7);
          }
          order++;
          // Lanes without blocks add nothing.
          ends = order < 8u && lane_at(order) >= params.blocks;
        }
      }
    }
    if step < steps {
      let f = (step >> 1u) & 1u;
      if thread < 2u * width {
        let tile = 2u * f + my_chunk;
        let at = thread % width;
        w_tile[tile * 2u * width + at] = centred(w.a);
        w_tile[tile * 2u * width + width + at] = centred(w.b);
        w_scale[tile * width + at] = dm;
        if SPAN > 1u {
          let low = vec2(w.s.x, w.m.x) & vec2(0xffff);
          w_sub[tile * width + at] = bitcast<vec2<u32>>(low | (vec2(w.s.y, w.m.y) << vec2(16u)));
        }
      }
      let tile = 2u * f + ((thread >> 1u) & 1u);
      x_tile[(tile * 2u + my_half) * TOKENS + my_token] = v;
      if PRECISE { x_low[(tile * 2u + my_half) * TOKENS + my_token] = v_low; }
      if HAS_MIN {
        let ones = vec4(0x01010101u);
        let at = (tile * 2u + my_half) * TOKENS + my_token;
        x_sums[at / 4u][at & 3u] = dot16(ones, v);
        if PRECISE { x_low_sums[at / 4u][at & 3u] = dot16(ones, v_low); }
      }
      if my_half == 0u { x_scale[(tile * TOKENS + my_token) / 4u][my_token & 3u] = bitcast<f32>(e); }
      flags = vec4(p0.c + 1u == SPAN, lane_ends(p0), p1.c + 1u == SPAN, lane_ends(p1));
      next = chunk_after(p1);
    }
    workgroupBarrier();
  }
  let n = group.x * width + tx;
  let first = 4u * ty;
  store(group.y, rows, n, first, a0);
  store(group.y, rows, n + 16u, first, a1);
  store(group.y, rows, n + 32u, first, a2);
  store(group.y, rows, n + 48u, first, a3);
  if DEEP > 4u {
    store(group.y, rows, n + 64u, first, a4);
    store(group.y, rows, n + 80u, first, a5);
    store(group.y, rows, n + 96u, first, a6);
    store(group.y, rows, n + 112u, first, a7);
  }
}
