//! The layers of a plan that the fused kernels take, found by their data flow.

use std::collections::HashMap;

use crate::plan::{AnglesId, BufferId, CacheId, Op, Plan, Step, WeightId};

/// A product with a matrix, and its bias.
#[derive(Clone, Copy)]
pub(super) struct Product {
    pub weight: WeightId,
    pub bias: Option<WeightId>,
}

/// A norm: its weights and epsilon.
#[derive(Clone, Copy)]
pub(super) struct Norm {
    pub weight: WeightId,
    pub eps: f32,
}

/// A layer: attention behind a norm, then a gated feed-forward part behind a norm, both added to the residual stream.
pub(super) struct Layer<'a> {
    pub attention_norm: Norm,
    pub qkv: [Product; 3],
    pub angles: AnglesId,
    pub cache: CacheId,
    pub attention: &'a Op,
    pub projection: Product,
    pub feed_forward_norm: Norm,
    pub gate: WeightId,
    pub up: WeightId,
    pub down: Product,
    /// The steps whose outputs the fused kernels leave: rotated queries, cache, attention, residual, gate, residual.
    pub leaves: [&'a Step; 6],
}

/// A plan as the fused kernels take it.
pub(super) struct Layers<'a> {
    pub embedding: (&'a Step, WeightId),
    pub layers: Vec<Layer<'a>>,
    pub norm: Norm,
    pub output: (&'a Step, WeightId),
}

/// Why the tokens of a plan run step by step on any GPU; `None` if the fused kernels take them on a device that is large
/// enough.
pub fn unfused_because(plan: &Plan) -> Option<String> {
    Layers::of(plan).err()
}

/// Steps without quantisations: a product reads what was quantised for it.
fn without_quantisations(steps: &[Step]) -> (Vec<&Step>, Vec<Op>) {
    let mut sources = HashMap::new();
    let (mut rest, mut ops) = (Vec::new(), Vec::new());
    for step in steps {
        let op = match step.op {
            Op::QuantizeActivations { x, out } => {
                sources.insert(out, x);
                continue;
            }
            Op::Matmul { weight, bias, x, out } => {
                Op::Matmul { weight, bias, x: sources.get(&x).copied().unwrap_or(x), out }
            }
            ref op => op.clone(),
        };
        rest.push(step);
        ops.push(op);
    }
    (rest, ops)
}

/// Whether no two of these are the same.
fn distinct(buffers: &[BufferId]) -> bool {
    (1..buffers.len()).all(|i| !buffers[..i].contains(&buffers[i]))
}

impl<'a> Layers<'a> {
    /// The layers of a plan.
    ///
    /// # Errors
    /// Which part of the plan is not what the fused kernels compute. Such a plan runs step by step.
    pub fn of(plan: &'a Plan) -> Result<Self, String> {
        let (steps, ops) = without_quantisations(&plan.body);
        let [Op::Embedding { weight, out: x }, ..] = ops[..] else {
            return Err("the plan does not begin with an embedding".to_owned());
        };
        let mut layers = Vec::new();
        for (steps, ops) in steps[1..].chunks(Layer::STEPS).zip(ops[1..].chunks(Layer::STEPS)) {
            let layer = Layer::of(plan, steps, ops, x);
            layers.push(
                layer.ok_or_else(|| format!("the layer from step '{}' on is not built like llama's", steps[0].name))?,
            );
        }
        let (head_steps, head) = without_quantisations(&plan.head);
        match head[..] {
            [
                Op::RmsNorm { x: x1, weight: norm, out, eps },
                Op::Matmul { x: n, weight: output, bias: None, out: logits },
            ] if x1 == x && n == out && logits == plan.logits && distinct(&[x, out, logits]) => Ok(Self {
                embedding: (steps[0], weight),
                layers,
                norm: Norm { weight: norm, eps },
                output: (head_steps[1], output),
            }),
            _ => Err("the output is not a norm and a product".to_owned()),
        }
    }
}

impl<'a> Layer<'a> {
    /// Steps of a layer, without quantisations.
    const STEPS: usize = 16;

    /// The layer that these steps are, which reads and writes the residual stream `x`.
    fn of(plan: &Plan, steps: &[&'a Step], ops: &[Op], x: BufferId) -> Option<Self> {
        let &[
            Op::RmsNorm { x: x1, weight: attn_norm, out: n, eps: attn_eps },
            Op::Matmul { x: n1, weight: wq, bias: bq, out: q },
            Op::Matmul { x: n2, weight: wk, bias: bk, out: k },
            Op::Matmul { x: n3, weight: wv, bias: bv, out: v },
            Op::Rope { x: q1, head_dim, angles, neox: false },
            Op::Rope { x: k1, head_dim: d1, angles: angles1, neox: false },
            Op::KvStore { k: k2, v: v1, cache },
            Op::Attention { q: q2, out: a, cache: c1, .. },
            Op::Matmul { x: a1, weight: wo, bias: bo, out: b },
            Op::Add { x: x2, b: b1 },
            Op::RmsNorm { x: x3, weight: ffn_norm, out: m, eps: ffn_eps },
            Op::Matmul { x: m1, weight: gate, bias: None, out: g },
            Op::Matmul { x: m2, weight: up, bias: None, out: u },
            Op::SiluMul { a: g1, b: u1, out: h },
            Op::Matmul { x: h1, weight: wd, bias: bd, out: d },
            Op::Add { x: x4, b: d3 },
        ] = ops
        else {
            return None;
        };
        // What each step reads is what the step before it wrote for it.
        let reads = [x1, n1, n2, n3, q1, k1, k2, v1, q2, a1, x2, b1, x3, m1, m2, g1, u1, h1, x4, d3];
        let wrote = [x, n, n, n, q, k, k, v, q, a, x, b, x, m, m, g, u, h, x, d];
        let heads = [d1, plan.caches[cache.0].head_dim] == [head_dim; 2] && angles1 == angles && c1 == cache;
        if reads != wrote || !heads || !distinct(&[x, n, q, k, v, a, b]) || !distinct(&[x, m, g, u, h, d]) {
            return None;
        }
        Some(Self {
            attention_norm: Norm { weight: attn_norm, eps: attn_eps },
            qkv: [(wq, bq), (wk, bk), (wv, bv)].map(|(weight, bias)| Product { weight, bias }),
            angles,
            cache,
            attention: &steps[7].op,
            projection: Product { weight: wo, bias: bo },
            feed_forward_norm: Norm { weight: ffn_norm, eps: ffn_eps },
            gate,
            up,
            down: Product { weight: wd, bias: bd },
            leaves: [4, 6, 7, 9, 13, 15].map(|i| steps[i]),
        })
    }
}
