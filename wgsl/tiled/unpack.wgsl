// Weights of a matrix in blocks of 256 (SPAN = 8) as halves, for the matrix units: integers times their integer scales. A thread makes 8
// weights; neighbours store what lies together.
// needs: block format, halves

struct Params {
  streams: vec4<u32>, // word offset of each stream in the shard
  first: u32, // row of the weights
  rows: u32, // to unpack
  places: u32, // rows that the result has place for
  chunks: u32, // in a row
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> weights: array<u32>;
@group(0) @binding(3) var<storage, read> weights4: array<vec4<u32>>;
// [chunk][row][32 halves], with PLANES = 2 the same of the scales' low four bits; then, with HAS_MIN, [block][row][16 halves:
// the chunks' minima, then 64 times those]; then the floats of a block, [block][row], and those of its minimum.
@group(0) @binding(4) var<storage, read_write> out4: array<vec4<u32>>;

override PLANES: u32 = 1u;

fn store_float(at: u32, f: f32) { out4[at / 4u][at % 4u] = bitcast<u32>(f); }

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let quarter = thread % 4u;
  let row = 8u * group.y + thread / 4u % 8u;
  let c = 8u * group.x + thread / 32u;
  if c >= params.chunks || row >= params.rows { return; }
  let blocks = params.chunks / SPAN;
  let place = c / SPAN * params.places + row;
  let block = (params.first + row) * blocks + c / SPAN;
  let w = unpack(block, c % SPAN);
  let half = select(w.a, w.b, quarter >= 2u);
  let words = select(half.xy, half.zw, quarter % 2u == 1u);
  let scale = select(w.s.x, w.s.y, quarter >= 2u);
  let low = unpack4xI8(words.x) - OFFSET;
  let high = unpack4xI8(words.y) - OFFSET;
  let at = 4u * (c * params.places + row) + quarter;
  let plane = 4u * params.chunks * params.places;
  if PLANES == 1u {
    out4[at] = vec4(four_halves(scale * low), four_halves(scale * high));
  } else {
    out4[at] = vec4(four_halves((scale >> 4u) * low), four_halves((scale >> 4u) * high));
    out4[at + plane] = vec4(four_halves((scale & 15) * low), four_halves((scale & 15) * high));
  }
  if c % SPAN == 0u && quarter == 0u {
    var floats = 4u * PLANES * plane;
    if HAS_MIN {
      var m: array<i32, 8>;
      for (var i = 0u; i < 8u; i++) { m[i] = unpack(block, i).m.x; }
      let low = vec4(m[0], m[1], m[2], m[3]);
      let high = vec4(m[4], m[5], m[6], m[7]);
      let minima = PLANES * plane + 2u * place;
      out4[minima] = vec4(four_halves(low), four_halves(high));
      out4[minima + 1u] = vec4(four_halves(64 * low), four_halves(64 * high));
      floats += 8u * blocks * params.places;
    }
    let dm = scales(block);
    store_float(floats + place, flush(dm.x, WEIGHT_FLOOR));
    if HAS_MIN { store_float(floats + blocks * params.places + place, dm.y); }
  }
}
