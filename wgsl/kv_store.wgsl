// Appends keys and values to the cache as f16; twin of src/ops/kv_store.rs. A thread packs one pair of each.
// needs: cache

struct Params {
  width: u32, // kv heads * head_dim, even
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> k: array<f32>;
@group(0) @binding(3) var<storage, read> v: array<f32>;
@group(0) @binding(4) var<storage, read_write> k_cache: array<u32>;
@group(0) @binding(5) var<storage, read_write> v_cache: array<u32>;

override THREADS: u32 = 64u;

@compute @workgroup_size(THREADS)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
  if thread.x >= params.width / 2u { return; }
  let row = thread.y;
  let source = row * params.width + 2u * thread.x;
  let target_ = cache_word(state.position + row, 2u * thread.x, params.width);
  k_cache[target_] = f16_bits(k[source]) | (f16_bits(k[source + 1u]) << 16u);
  v_cache[target_] = f16_bits(v[source]) | (f16_bits(v[source + 1u]) << 16u);
}
