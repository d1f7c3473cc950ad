enable f16;
enable wgpu_cooperative_matrix;
// The matrix product for many activation rows on the device's matrix units, for formats whose blocks span chunks: tiles of 64
// activation rows and 64 weight rows. The units multiply halves and add floats; all numbers are integers that both hold
// exactly, so no order of theirs can change a bit. Weights are multiplied with their integer scales before: up to 15 * 63 in
// Q4_K. A sum over a whole block may then have more than 24 bits, so there are two that are added once: over the halves of the
// block, or (HALVES, scales of 8 bits) over the scales' high and low four bits.
// Blocks are taken in the order of wgsl/tiled/matmul.wgsl. Subgroups have 32 threads.
// needs: format, product, lanes

override HALVES: bool = false; // whether the halves of a chunk have integer scales of their own
// Matrix loads need addresses that are multiples of 16 bytes, so every array's size is one.
override LOW: u32 = 2u; // length of the tile of the low bits: 1152 with HALVES, or 2
override MINIMA: u32 = 8u; // length of the tiles of minima and of sums: 1536 where weights have minima, or 8
const ROWS = 64u;
const STRIDE = 18u; // of a row of 64 halves, in vec4: padded so that neighbours lie in other banks
const SHORT = 24u; // of a row of 16 halves, padded
const WIDE = 20u; // of a row of 64 floats, in vec4, padded

var<workgroup> x_tile: array<vec4<f16>, 1152>; // [token][64 activations]
var<workgroup> w_tile: array<vec4<f16>, 1152>; // [row][64 weights], with HALVES times the high bits of their scales
var<workgroup> w_low: array<vec4<f16>, LOW>; // times the low bits
var<workgroup> x_sums: array<f16, MINIMA>; // [token][eight chunks: their sums modulo 64, then those by 64]
var<workgroup> w_minima: array<f16, MINIMA>; // [row][eight chunks: their minima, then 64 times those]
var<workgroup> products: array<vec4<f32>, 1280>; // [token][row]
var<workgroup> x_scale: array<f32, 64>;
var<workgroup> w_scale: array<f32, 64>;
var<workgroup> w_min: array<f32, 64>;

// The bytes 0, 2, 1 and 3 as numbers (weights and activations have the same order), plus `less`: as halves from 1024 on.
fn numbers(bytes: u32, less: f32) -> vec4<f32> {
  let even = (bytes & 0x00ff00ffu) | 0x64006400u;
  let odd = ((bytes >> 8u) & 0x00ff00ffu) | 0x64006400u;
  return add4(f16x4(even, odd), vec4(less));
}
const ACTIVATION = -1152.0; // -1024 - 128: their sign is flipped
const WEIGHT = -1024.0 - f32(OFFSET);
fn store_activations(at: u32, v: vec4<u32>) {
  for (var i = 0u; i < 4u; i++) { x_tile[at + i] = vec4<f16>(numbers(v[i] ^ 0x80808080u, ACTIVATION)); }
}
// 16 weights that share a scale.
fn store_weights(at: u32, q: vec4<u32>, scale: i32) {
  var high = f32(scale);
  if HALVES { high = f32(scale >> 4u); }
  let low = f32(scale & 15);
  for (var i = 0u; i < 4u; i++) {
    let w = numbers(q[i], WEIGHT);
    w_tile[at + i] = vec4<f16>(mul4(w, vec4(high)));
    if HALVES { w_low[at + i] = vec4<f16>(mul4(w, vec4(low))); }
  }
}

fn sum16(x: vec4<u32>) -> i32 {
  let ones = 0x01010101u;
  return dot4I8Packed(x.x, ones) + dot4I8Packed(x.y, ones) + dot4I8Packed(x.z, ones) + dot4I8Packed(x.w, ones);
}

// The block behind: of this lane, of the next lane that has blocks; behind the last one the first.
struct Place {
  b: u32,
  lane: u32, // the lane's place in the order
}
fn after(p: Place) -> Place {
  if p.b + 8u < params.blocks { return Place(p.b + 8u, p.lane); }
  var lane = p.lane + 1u;
  while lane < 8u && lane_at(lane) >= params.blocks { lane++; }
  return Place(lane_at(lane & 7u), lane & 7u);
}

// A token's terms of four rows, from the integer sums.
fn scaled(sums: vec4<f32>, rows: u32) -> vec4<f32> {
  let d = vec4(w_scale[rows], w_scale[rows + 1u], w_scale[rows + 2u], w_scale[rows + 3u]);
  return mul4(d, sums);
}
fn with_minima(w: vec4<f32>, sums: vec4<f32>, rows: u32) -> vec4<f32> {
  let m = vec4(w_min[rows], w_min[rows + 1u], w_min[rows + 2u], w_min[rows + 3u]);
  return add4(w, mul4(m, sums));
}

fn store(n: u32, token: u32, sum: vec4<f32>) {
  if token >= state.rows { return; }
  let row = select(state.row0, 0u, params.out_row0 != 0u) + token;
  for (var i = 0u; i < 4u; i++) {
    if n + i < params.rows {
      var y = settle(sum[i]);
      if params.has_bias != 0u { y = settle(add(y, bias[params.row_base + n + i])); }
      out[row * params.out_width + params.row_base + n + i] = y;
    }
  }
}

@compute @workgroup_size(128)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  // A thread brings one chunk of a token's activations and one of a row's weights for every 64 columns.
  let mine = thread >> 1u;
  let part = thread & 1u;
  let my_row = (params.first + min(group.x * ROWS + mine, params.rows - 1u)) * params.blocks;
  let my_x = (state.row0 + min(group.y * 64u + mine, state.rows - 1u)) * params.x_stride;
  let at = mine * STRIDE + 8u * part;
  // A subgroup multiplies 32 tokens and 32 rows; then a thread takes four rows of eight tokens.
  let left = (thread >> 6u) * 32u;
  let right = ((thread >> 5u) & 1u) * 32u;
  let tx = thread & 15u;
  let ty = thread >> 4u;

  var a0 = vec4(0.0); var a1 = vec4(0.0); var a2 = vec4(0.0); var a3 = vec4(0.0);
  var a4 = vec4(0.0); var a5 = vec4(0.0); var a6 = vec4(0.0); var a7 = vec4(0.0);
  var place = Place(0u, 0u);
  var w = unpack(my_row, part);
  var v0 = x4[(my_x >> 2u) + 2u * part];
  var v1 = x4[(my_x >> 2u) + 2u * part + 1u];
  for (var block = 0u; block < params.blocks; block++) {
    let next = after(place);
    var c00 = coop_mat16x16<f32,C>(); var c01 = coop_mat16x16<f32,C>();
    var c10 = coop_mat16x16<f32,C>(); var c11 = coop_mat16x16<f32,C>();
    var p00 = coop_mat16x16<f32,C>(); var p01 = coop_mat16x16<f32,C>();
    var p10 = coop_mat16x16<f32,C>(); var p11 = coop_mat16x16<f32,C>();
    for (var quarter = 0u; quarter < 4u; quarter++) {
      store_weights(at, w.a, w.s.x);
      store_weights(at + 4u, w.b, w.s.y);
      store_activations(at, v0);
      store_activations(at + 4u, v1);
      if HAS_MIN {
        let sum = sum16(v0) + sum16(v1);
        let c = mine * SHORT + 2u * quarter + part;
        x_sums[c] = f16(f32(sum & 63));
        x_sums[c + 8u] = f16(f32(sum >> 6u));
        w_minima[c] = f16(f32(w.m.x));
        w_minima[c + 8u] = f16(f32(64 * w.m.x));
      }
      if quarter == 0u {
        // Both threads of a row: a subgroup must not part before it multiplies.
        let dm = scales(my_row + place.b);
        w_scale[mine] = flush(dm.x, WEIGHT_FLOOR);
        w_min[mine] = dm.y;
        x_scale[mine] = bitcast<f32>(x[my_x + (params.cols >> 2u) + place.b]);
      }
      workgroupBarrier();
      // The next quarter is on its way while this one is multiplied.
      let b = select(place.b, next.b, quarter == 3u);
      let chunk = 2u * ((quarter + 1u) & 3u) + part;
      w = unpack(my_row + b, chunk);
      let x_at = (my_x >> 2u) + 2u * (8u * b + chunk);
      v0 = x4[x_at];
      v1 = x4[x_at + 1u];
      if !HALVES && quarter == 2u {
        p00 = c00; p01 = c01; p10 = c10; p11 = c11;
        c00 = coop_mat16x16<f32,C>(); c01 = coop_mat16x16<f32,C>();
        c10 = coop_mat16x16<f32,C>(); c11 = coop_mat16x16<f32,C>();
      }
      for (var k = 0u; k < 16u; k += 4u) {
        let x0 = coopLoadT<coop_mat16x16<f16,A>>(&x_tile[left * STRIDE + k], STRIDE);
        let x1 = coopLoadT<coop_mat16x16<f16,A>>(&x_tile[(left + 16u) * STRIDE + k], STRIDE);
        let w0 = coopLoad<coop_mat16x16<f16,B>>(&w_tile[right * STRIDE + k], STRIDE);
        let w1 = coopLoad<coop_mat16x16<f16,B>>(&w_tile[(right + 16u) * STRIDE + k], STRIDE);
        if HALVES {
          let l0 = coopLoad<coop_mat16x16<f16,B>>(&w_low[right * STRIDE + k], STRIDE);
          let l1 = coopLoad<coop_mat16x16<f16,B>>(&w_low[(right + 16u) * STRIDE + k], STRIDE);
          p00 = coopMultiplyAdd(x0, w0, p00); p01 = coopMultiplyAdd(x0, w1, p01);
          p10 = coopMultiplyAdd(x1, w0, p10); p11 = coopMultiplyAdd(x1, w1, p11);
          c00 = coopMultiplyAdd(x0, l0, c00); c01 = coopMultiplyAdd(x0, l1, c01);
          c10 = coopMultiplyAdd(x1, l0, c10); c11 = coopMultiplyAdd(x1, l1, c11);
        } else {
          c00 = coopMultiplyAdd(x0, w0, c00); c01 = coopMultiplyAdd(x0, w1, c01);
          c10 = coopMultiplyAdd(x1, w0, c10); c11 = coopMultiplyAdd(x1, w1, c11);
        }
      }
      if quarter < 3u { workgroupBarrier(); }
    }
    // One rounding: times 16 is exact.
    let corner = left * WIDE + right / 4u;
    let by = select(1.0, 16.0, HALVES);
    coopStoreT(p00 * by + c00, &products[corner], WIDE);
    coopStoreT(p01 * by + c01, &products[corner + 4u], WIDE);
    coopStoreT(p10 * by + c10, &products[corner + 16u * WIDE], WIDE);
    coopStoreT(p11 * by + c11, &products[corner + 16u * WIDE + 4u], WIDE);
    workgroupBarrier();
    let sums = ty * WIDE + tx;
    let step = 8u * WIDE;
    var t0 = scaled(products[sums], 4u * tx);
    var t1 = scaled(products[sums + step], 4u * tx);
    var t2 = scaled(products[sums + 2u * step], 4u * tx);
    var t3 = scaled(products[sums + 3u * step], 4u * tx);
    var t4 = scaled(products[sums + 4u * step], 4u * tx);
    var t5 = scaled(products[sums + 5u * step], 4u * tx);
    var t6 = scaled(products[sums + 6u * step], 4u * tx);
    var t7 = scaled(products[sums + 7u * step], 4u * tx);
    if HAS_MIN {
      let s0 = coopLoadT<coop_mat16x16<f16,A>>(&x_sums[left * SHORT], SHORT);
      let s1 = coopLoadT<coop_mat16x16<f16,A>>(&x_sums[(left + 16u) * SHORT], SHORT);
      let m0 = coopLoad<coop_mat16x16<f16,B>>(&w_minima[right * SHORT], SHORT);
      let m1 = coopLoad<coop_mat16x16<f16,B>>(&w_minima[(right + 16u) * SHORT], SHORT);
      workgroupBarrier();
      coopStoreT(coopMultiplyAdd(s0, m0, coop_mat16x16<f32,C>()), &products[corner], WIDE);
      coopStoreT(coopMultiplyAdd(s0, m1, coop_mat16x16<f32,C>()), &products[corner + 4u], WIDE);
      coopStoreT(coopMultiplyAdd(s1, m0, coop_mat16x16<f32,C>()), &products[corner + 16u * WIDE], WIDE);
      coopStoreT(coopMultiplyAdd(s1, m1, coop_mat16x16<f32,C>()), &products[corner + 16u * WIDE + 4u], WIDE);
      workgroupBarrier();
      t0 = with_minima(t0, products[sums], 4u * tx);
      t1 = with_minima(t1, products[sums + step], 4u * tx);
      t2 = with_minima(t2, products[sums + 2u * step], 4u * tx);
      t3 = with_minima(t3, products[sums + 3u * step], 4u * tx);
      t4 = with_minima(t4, products[sums + 4u * step], 4u * tx);
      t5 = with_minima(t5, products[sums + 5u * step], 4u * tx);
      t6 = with_minima(t6, products[sums + 6u * step], 4u * tx);
      t7 = with_minima(t7, products[sums + 7u * step], 4u * tx);
    }
    a0 = add4(a0, mul4(vec4(x_scale[ty]), t0));
    a1 = add4(a1, mul4(vec4(x_scale[ty + 8u]), t1));
    a2 = add4(a2, mul4(vec4(x_scale[ty + 16u]), t2));
    a3 = add4(a3, mul4(vec4(x_scale[ty + 24u]), t3));
    a4 = add4(a4, mul4(vec4(x_scale[ty + 32u]), t4));
    a5 = add4(a5, mul4(vec4(x_scale[ty + 40u]), t5));
    a6 = add4(a6, mul4(vec4(x_scale[ty + 48u]), t6));
    a7 = add4(a7, mul4(vec4(x_scale[ty + 56u]), t7));
    // A lane whose last block this was joins the others; lanes without blocks add nothing.
    if place.b + 8u >= params.blocks {
      var order = place.lane;
      loop {
        a0 = merged(order, 0u, a0);
        a1 = merged(order, 1u, a1);
        a2 = merged(order, 2u, a2);
        a3 = merged(order, 3u, a3);
        a4 = merged(order, 4u, a4);
        a5 = merged(order, 5u, a5);
        a6 = merged(order, 6u, a6);
        a7 = merged(order, 7u, a7);
        order++;
        if order >= 8u || lane_at(order) < params.blocks { break; }
      }
    }
    place = next;
    workgroupBarrier();
  }
  let n = group.x * ROWS + 4u * tx;
  let token = group.y * 64u + ty;
  store(n, token, a0);
  store(n, token + 8u, a1);
  store(n, token + 16u, a2);
  store(n, token + 24u, a3);
  store(n, token + 32u, a4);
  store(n, token + 40u, a5);
  store(n, token + 48u, a6);
  store(n, token + 56u, a7);
}
