// Two or three products of a row, behind a norm or not: the matrix has the rows of the first, then of the second, then of the
// third.
// needs: rows

override NORM: bool = true;
@group(0) @binding(6) var<storage, read_write> out: array<f32>;
@group(0) @binding(7) var<storage, read_write> out2: array<f32>;
@group(0) @binding(8) var<storage, read_write> out3: array<f32>;
@group(0) @binding(9) var<storage, read> bias: array<f32>;
override HAS_BIAS: bool = false;

fn finish(group: u32, thread: u32) {
  for (var slot = thread; slot < SLOTS8 / 8u; slot += STEP) {
    let n = group * (SLOTS8 / 8u) + slot;
    if n < params.rows {
      var y = product(slot);
      if HAS_BIAS { y = settle(add(y, bias[n])); }
      if n < params.second {
        out[token() * params.second + n] = y;
      } else if n < params.second + params.third {
        out2[token() * params.third + n - params.second] = y;
      } else {
        let both = params.second + params.third;
        out3[token() * (params.rows - both) + n - both] = y;
      }
    }
  }
}
