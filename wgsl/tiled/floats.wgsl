// The matrix product for many activation rows and weights that are plain numbers: tiles of 64 rows of both, a chunk of 32
// columns at a time. Which rows these are is in lib/in_order.wgsl and lib/by_expert.wgsl. A thread makes four rows of four tokens.
// Chunks are taken in the order of wgsl/tiled/matmul.wgsl, and so are the lanes of S8 in a chunk.
// needs: plain format, plain, lanes, pending

const SLOTS = 4u; // pending sums of a thread
override THREADS: u32 = 256u; // always 256
const TOKENS = 64u;
const WIDE = 17u; // of 64 floats, in vec4, padded so that neighbours lie in other banks

var<workgroup> x_tile: array<vec4<f32>, 544>; // [column][token]
var<workgroup> w_tile: array<vec4<f32>, 544>; // [column][row]


// One lane of S8 over the chunk: four rows of four tokens.
fn lane_sum(tx: u32, ty: u32, lane: u32) -> Quads {
  var sum = Quads(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
  for (var k = lane; k < 32u; k += 8u) {
    let w = w_tile[k * WIDE + tx];
    let x = x_tile[k * WIDE + ty];
    sum.t0 = with_product(sum.t0, w, vec4(x.x));
    sum.t1 = with_product(sum.t1, w, vec4(x.y));
    sum.t2 = with_product(sum.t2, w, vec4(x.z));
    sum.t3 = with_product(sum.t3, w, vec4(x.w));
  }
  return sum;
}

// The term of the chunk.
fn term(tx: u32, ty: u32) -> Quads {
  let even = both(both(lane_sum(tx, ty, 0u), lane_sum(tx, ty, 4u)), both(lane_sum(tx, ty, 2u), lane_sum(tx, ty, 6u)));
  let odd = both(both(lane_sum(tx, ty, 1u), lane_sum(tx, ty, 5u)), both(lane_sum(tx, ty, 3u), lane_sum(tx, ty, 7u)));
  return both(even, odd);
}

// Two quads of a row of activations and of weights on their way.
struct Part {
  x0: vec4<f32>,
  x1: vec4<f32>,
  w0: vec4<f32>,
  w1: vec4<f32>,
}
fn fetch(x_at: u32, w_at: u32, chunk: u32) -> Part {
  let x = x_at + 8u * chunk;
  let w = w_at + 8u * chunk;
  return Part(bitcast<vec4<f32>>(x4[x]), bitcast<vec4<f32>>(x4[x + 4u]), quad(w), quad(w + 4u));
}
fn put(k: u32, row: u32, x: vec4<f32>, w: vec4<f32>) {
  let v = ready(x);
  let f = flush4(w, WEIGHT_FLOOR);
  for (var i = 0u; i < 4u; i++) {
    x_tile[(k + i) * WIDE + row / 4u][row % 4u] = v[i];
    w_tile[(k + i) * WIDE + row / 4u][row % 4u] = f[i];
  }
}

fn store(tile: u32, rows: u32, n: u32, token: u32, sum: vec4<f32>) {
  if token >= rows { return; }
  for (var i = 0u; i < 4u; i++) {
    if has_row(tile, n + i) {
      var y = settle(sum[i]);
      if params.has_bias != 0u { y = settle(add(y, bias_of(tile, n + i))); }
      out[result(tile, token, n + i)] = y;
    }
  }
}

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let tx = thread % 16u;
  let ty = thread / 16u;
  let mine = thread / 4u;
  let rows = tile_rows(group.y);
  let my_row = weight_row(group.y, 64u * group.x + mine);
  let my_token = x_row(group.y, min(mine, rows - 1u));
  let w_at = my_row * (params.cols / 4u) + thread % 4u;
  let x_at = my_token * (params.x_stride / 4u) + thread % 4u;
  let none = Quads(vec4(0.0), vec4(0.0), vec4(0.0), vec4(0.0));
  var sums = none;
  var place = Place(0u, 0u);
  var part = fetch(x_at, w_at, 0u);
  let steps = select(params.blocks, 0u, is_void(group.y, 64u * group.x, 64u));
  for (var n = 0u; n < steps; n++) {
    let next = after(place, params.blocks);
    workgroupBarrier();
    put(4u * (thread % 4u), mine, part.x0, part.w0);
    put(4u * (thread % 4u) + 16u, mine, part.x1, part.w1);
    part = fetch(x_at, w_at, next.b);
    workgroupBarrier();
    sums = both(sums, term(tx, ty));
    // A lane whose last chunk this was joins the others; lanes without chunks add nothing.
    if place.b + 8u >= params.blocks {
      var order = place.lane;
      loop {
        sums = merged_quads(order, 0u, sums);
        order++;
        if order >= 8u || lane_at(order) < params.blocks { break; }
      }
    }
    place = next;
  }
  let row = 64u * group.x + 4u * tx;
  let token = 4u * ty;
  store(group.y, rows, row, token, sums.t0);
  store(group.y, rows, row, token + 1u, sums.t1);
  store(group.y, rows, row, token + 2u, sums.t2);
  store(group.y, rows, row, token + 3u, sums.t3);
}
