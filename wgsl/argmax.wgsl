// out[row] = index of the largest of the row, ties to the lower index; twin of src/ops/argmax.rs.
// A workgroup takes one row. The index is stored from `state.next` on, so that it can be the next token's id.
// needs: order

struct Params {
  width: u32, // elements per row
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<u32>;

override THREADS: u32 = 64u;
var<workgroup> best: atomic<u32>;
var<workgroup> index: atomic<u32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let row = state.slot + group.y;
  if thread == 0u {
    atomicStore(&best, 0u);
    atomicStore(&index, 0xffffffffu);
  }
  workgroupBarrier();
  var mine = 0u;
  var at = 0u; // the first place of it
  for (var i = thread; i < params.width; i += THREADS) {
    let k = key(x[row * params.width + i]);
    if k > mine {
      mine = k;
      at = i;
    }
  }
  atomicMax(&best, mine);
  workgroupBarrier();
  if mine == atomicLoad(&best) { atomicMin(&index, at); }
  workgroupBarrier();
  if thread == 0u { out[state.next + group.y] = atomicLoad(&index); }
}
