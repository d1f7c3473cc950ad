// Attention of a single row over a long cache, second of two: softmax and weighted values. A workgroup takes a head, and 16
// (PART) dimensions of its values, so that it has half as many threads as positions in a round.
// needs: order, cache, heads, layout, values

struct Params {
  heads: u32, // query heads
  kv_heads: u32, // key and value heads; divides `heads`
  context: u32, // scores per head, a multiple of 32
  items: u32, // of the output row
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> scores: array<f32>; // [head][position]
@group(0) @binding(3) var<storage, read> tops: array<u32>; // [head][tile], as keys
@group(0) @binding(4) var<storage, read> v4: array<vec4<u32>>;
@group(0) @binding(5) var<storage, read> sinks: array<f32>; // [head]
@group(0) @binding(6) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(THREADS)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) thread: u32) {
  let head = group.x;
  let last = state.position;
  let eights = params.kv_heads * HEAD_DIM / 8u;
  let at = head / (params.heads / params.kv_heads) * HEAD_DIM / 8u + group.y * (PART / 8u);
  let first_score = head * params.context;
  let seen = first_seen(last);
  let start = first_eight(last);
  // A thread makes the weights of two positions, THREADS apart; what it needs is on its way a round before.
  var values = value_words(thread, start, at, eights);
  var a = scores[first_score + min(start + thread, last)];
  var b = scores[first_score + min(start + thread + THREADS, last)];
  var sink = 0.0;
  if SINKS != 0u { sink = sink_score(sinks[head]); }
  if thread == 0u { atomicStore(&top_key, select(0u, key(sink), SINKS != 0u)); }
  workgroupBarrier();
  for (var t = seen / 32u + thread; t <= last / 32u; t += THREADS) { atomicMax(&top_key, tops[first_score / 32u + t]); }
  workgroupBarrier();
  let top = unkey(atomicLoad(&top_key));
  for (var first = start; first <= last; first += POSITIONS) {
    let now = values;
    let w = vec2(softmax_weight(a, top), softmax_weight(b, top));
    let p = first + thread;
    weights[thread] = select(0.0, w.x, p <= last && (WINDOW == 0u || p >= seen));
    weights[thread + THREADS] = select(0.0, w.y, p + THREADS <= last && (WINDOW == 0u || p + THREADS >= seen));
    values = value_words(thread, first + POSITIONS, at, eights);
    a = scores[first_score + min(p + POSITIONS, last)];
    b = scores[first_score + min(p + POSITIONS + THREADS, last)];
    workgroupBarrier();
    weigh(thread, now);
  }
  if SINKS != 0u { sink = softmax_weight(sink, top); }
  store_values(thread, head, group.y * PART, params.items, sink);
}
