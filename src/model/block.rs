//! The block that all architectures share, and the plan that is made of it. An architecture says by a [`Design`] what it does
//! differently.

use std::ops::Range;

use super::{Config, Model, ModelError, shaped, weight};
use crate::gguf::Gguf;
use crate::numerics::Precision;
use crate::ops;
use crate::ops::attention::Scoring;
use crate::ops::columns::Slice;
use crate::ops::route::{Gating, Weighing};
use crate::plan::{Angles, BufferId, Builder, CacheSpec, Op, Plan, Weight, WeightId};

/// What an architecture computes:
///
/// ```text
/// x = token_embd[id] * embedding_scale
/// per layer:
///   h = norm(x)
///   q, k, v = products of h, with biases
///   q, k = norm(q), norm(k)
///   q, k = rope(q), rope(k)
///   x = x + residual_scale * norm(attn_output attention(q, k, v))
///   x = x + residual_scale * norm(ffn(norm(x)))
/// logits = (output norm(x)) * logit_scale, capped
/// ```
pub(super) struct Design {
    /// Which elements of a head RoPE turns together: `i` and `i + n / 2`, or neighbours.
    pub neox: bool,
    /// The embedding times this.
    pub embedding_scale: Option<f32>,
    /// What a branch adds to the stream times this.
    pub residual_scale: Option<f32>,
    /// The logits times this.
    pub logit_scale: Option<f32>,
    /// What bounds the logits.
    pub logit_cap: Option<f32>,
    /// Whether branches begin with a norm.
    pub norms_before: bool,
    /// Whether branches end with a norm.
    pub norms_behind: bool,
    /// The norm of the feed-forward branch.
    pub ffn_norm: &'static str,
    /// Norms of queries and keys.
    pub head_norms: HeadNorms,
    /// The products that may have a bias.
    pub biases: &'static [&'static str],
    /// The gate's function.
    pub gate: Gate,
    /// What the scores of attention are divided by.
    pub divisor: f64,
    /// What bounds the scores.
    pub score_cap: Option<f64>,
    /// Whether each head has a score without a value (`attn_sinks`).
    pub sinks: bool,
    /// The experts in place of one feed-forward layer.
    pub experts: Option<Experts>,
    /// Attention over a latent cache.
    pub latent: Option<Latent>,
    /// Where the output matrix comes from.
    pub output: Output,
    /// Tables of RoPE angles that layers have.
    pub angles: Vec<Angles>,
    /// The layers.
    pub layers: Vec<Layer>,
}

/// Norms of queries and keys before RoPE.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum HeadNorms {
    /// There are none.
    None,
    /// Each head by itself.
    Each,
    /// All heads together.
    Together,
}

/// Latent attention (DeepSeek-AI 2024): keys and values of all heads are products of one row of `rank` elements, which the cache keeps.
#[derive(Clone, Copy)]
pub(super) struct Latent {
    /// Elements of the row that queries are products of; `None` where they are products of the input.
    pub q_rank: Option<usize>,
    /// Elements of the row that keys and values are products of.
    pub rank: usize,
    /// Elements of a head that RoPE turns, the last of it.
    pub rope: usize,
    /// Elements of a head's values.
    pub values: usize,
}

/// The function of a gate.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Gate {
    /// SiLU.
    Silu,
    /// GELU.
    Gelu,
    /// gpt-oss' own.
    Clamped,
}

/// Experts of a feed-forward layer.
#[derive(Clone, Copy)]
pub(super) struct Experts {
    /// How many there are.
    pub count: usize,
    /// How many a token uses.
    pub used: usize,
    /// Elements of their hidden rows.
    pub width: usize,
    /// What they weigh.
    pub weighing: Weighing,
    /// How they are chosen; with a bias of `exp_probs_b`, where the file has it.
    pub gating: Gating,
    /// The first layer that has them; those before have one feed-forward layer.
    pub first: usize,
    /// One that every token uses.
    pub shared: Option<Shared>,
}

/// An expert that every token uses.
#[derive(Clone, Copy)]
pub(super) struct Shared {
    /// Elements of its hidden rows.
    pub width: usize,
    /// Whether a number for the whole row gates it.
    pub gated: bool,
}

/// The output matrix.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Output {
    /// `output.weight`, or where there is none the embedding.
    Optional,
    /// `output.weight`.
    Required,
    /// The embedding.
    Tied,
}

/// What differs from layer to layer.
#[derive(Clone, Copy)]
pub(super) struct Layer {
    /// The table of angles; `None` without RoPE.
    pub angles: Option<usize>,
    /// How many positions a token sees; `None` for all.
    pub window: Option<usize>,
}

impl Design {
    /// Llama's: norms before the branches, SiLU, neighbours turned together, one table of angles for all layers.
    pub fn llama(config: &Config, angles: Angles) -> Self {
        Self {
            neox: false,
            embedding_scale: None,
            residual_scale: None,
            logit_scale: None,
            logit_cap: None,
            norms_before: true,
            norms_behind: false,
            ffn_norm: "ffn_norm",
            head_norms: HeadNorms::None,
            biases: &[],
            gate: Gate::Silu,
            divisor: libm::sqrt(config.head_dim as f64),
            score_cap: None,
            sinks: false,
            experts: None,
            latent: None,
            output: Output::Optional,
            angles: vec![angles],
            layers: vec![Layer { angles: Some(0), window: None }; config.block_count],
        }
    }
}

/// The plan of the embedding, these layers and the output.
pub(super) fn plan(
    model: &Model,
    design: &Design,
    precision: Precision,
    layers: Range<usize>,
) -> Result<Plan, ModelError> {
    let (gguf, c) = (&*model.gguf, &model.config);
    let mut m = Maker { gguf, c, d: design, b: Builder::new(precision), context: model.context };
    let x = m.b.buffer("x", c.embedding_length);
    let embedding = m.required("token_embd.weight", c.vocabulary, c.embedding_length)?;
    m.b.step("token_embd", Op::Embedding(ops::Embedding { weight: embedding, out: x }));
    m.scale("token_embd.scale", x, design.embedding_scale);
    for layer in layers {
        m.b.layer(Some(layer));
        match design.latent {
            Some(latent) => m.latent_attention(layer, x, latent)?,
            None => m.attention(layer, x)?,
        }
        m.feed_forward(layer, x)?;
    }
    m.b.layer(None);
    let [last, norm] = ["last", "last norm"].map(|n| m.b.wanted_buffer(n, c.embedding_length));
    m.b.step("output_rows", Op::Gather(ops::Gather { x, out: last }));
    let output_norm = m.required("output_norm.weight", 1, c.embedding_length)?;
    m.b.step("output_norm", Op::RmsNorm(ops::RmsNorm { x: last, weight: output_norm, out: norm, eps: c.rms_eps }));
    let output = match design.output {
        Output::Optional => m.optional("output.weight", c.vocabulary, c.embedding_length)?.unwrap_or(embedding),
        Output::Required => m.required("output.weight", c.vocabulary, c.embedding_length)?,
        Output::Tied => embedding,
    };
    let bias = if design.biases.contains(&"output") { m.optional("output.bias", 1, c.vocabulary)? } else { None };
    let logits = m.b.wanted_buffer("logits", c.vocabulary);
    m.b.matmuls(norm, "output_norm", [("output", output, bias, logits)]);
    m.scale("output.scale", logits, design.logit_scale);
    if let Some(cap) = design.logit_cap {
        m.b.step("output.cap", Op::SoftCap(ops::SoftCap { x: logits, cap }));
    }
    Ok(m.b.finish(logits)?)
}

/// A product: the name of its step, matrix, bias and result.
type Product = (&'static str, WeightId, Option<WeightId>, BufferId);

struct Maker<'a> {
    gguf: &'a Gguf,
    c: &'a Config,
    d: &'a Design,
    b: Builder,
    context: usize,
}

impl Maker<'_> {
    fn optional(&mut self, name: &str, rows: usize, cols: usize) -> Result<Option<WeightId>, ModelError> {
        Ok(weight(self.gguf, name, rows, cols)?.map(|w| self.b.weight(w)))
    }

    fn required(&mut self, name: &str, rows: usize, cols: usize) -> Result<WeightId, ModelError> {
        self.optional(name, rows, cols)?.ok_or_else(|| ModelError::MissingTensor(name.to_owned()))
    }

    fn scale(&mut self, part: &str, x: BufferId, by: Option<f32>) {
        if let Some(by) = by {
            self.b.step(part, Op::Scale(ops::Scale { x, by }));
        }
    }

    /// A matrix of a layer and its bias.
    fn product(
        &mut self,
        layer: usize,
        part: &'static str,
        [rows, cols]: [usize; 2],
        out: BufferId,
    ) -> Result<Product, ModelError> {
        let matrix = self.required(&format!("blk.{layer}.{part}.weight"), rows, cols)?;
        let has = self.d.biases.contains(&part);
        let bias = if has { self.optional(&format!("blk.{layer}.{part}.bias"), 1, rows)? } else { None };
        Ok((part, matrix, bias, out))
    }

    /// Matrices of one input, of so many rows each: each a tensor, or where the first has none of its own all behind each other in
    /// the tensor `whole`.
    fn products(
        &mut self,
        layer: usize,
        whole: &str,
        cols: usize,
        parts: &[(&'static str, usize, BufferId)],
    ) -> Result<Vec<Product>, ModelError> {
        let whole = match self.gguf.tensor(&format!("blk.{layer}.{}.weight", parts[0].0)) {
            None => weight(self.gguf, &format!("blk.{layer}.{whole}.weight"), parts.iter().map(|p| p.1).sum(), cols)?,
            Some(_) => None,
        };
        let Some(whole) = whole else {
            return parts.iter().map(|&(part, rows, out)| self.product(layer, part, [rows, cols], out)).collect();
        };
        let mut first = 0;
        let product = |&(part, rows, out): &(&'static str, usize, BufferId)| {
            let matrix = self.b.weight(Weight { first, rows, ..whole.clone() });
            first += rows;
            (part, matrix, None, out)
        };
        Ok(parts.iter().map(product).collect())
    }

    /// RoPE of queries and keys, in layers that have it.
    fn rotate(&mut self, layer: usize, head_dim: usize, [q, k]: [BufferId; 2]) {
        let Some(angles) = self.d.layers[layer].angles else { return };
        let (angles, neox) = (self.b.angles(self.d.angles[angles].clone()), self.d.neox);
        for (part, x) in [("attn_q.rope", q), ("attn_k.rope", k)] {
            self.b.step(part, Op::Rope(ops::Rope { x, head_dim, angles, neox }));
        }
    }

    /// `x` behind a norm of the layer, or as it is.
    fn norm_before(&mut self, layer: usize, part: &'static str, x: BufferId) -> Result<BufferId, ModelError> {
        if !self.d.norms_before {
            return Ok(x);
        }
        let out = self.b.buffer("norm", self.c.embedding_length);
        self.norm(layer, part, x, out, self.c.embedding_length)?;
        Ok(out)
    }

    fn norm(
        &mut self,
        layer: usize,
        part: &'static str,
        x: BufferId,
        out: BufferId,
        elements: usize,
    ) -> Result<(), ModelError> {
        let weight = self.required(&format!("blk.{layer}.{part}.weight"), 1, elements)?;
        self.b.step(part, Op::RmsNorm(ops::RmsNorm { x, weight, out, eps: self.c.rms_eps }));
        Ok(())
    }

    /// Adds a branch to the stream, behind a norm where branches end with one.
    fn join(
        &mut self,
        layer: usize,
        norm: &'static str,
        add: &'static str,
        x: BufferId,
        branch: BufferId,
    ) -> Result<(), ModelError> {
        let mut b = branch;
        if self.d.norms_behind {
            b = self.b.buffer("branch norm", self.c.embedding_length);
            self.norm(layer, norm, branch, b, self.c.embedding_length)?;
        }
        self.scale(&format!("{add}.scale"), b, self.d.residual_scale);
        self.b.step(add, Op::Add(ops::Add { x, b }));
        Ok(())
    }

    fn attention(&mut self, layer: usize, x: BufferId) -> Result<(), ModelError> {
        let c = self.c;
        let (width, q_width, kv_width) = (c.embedding_length, c.head_count * c.head_dim, c.head_count_kv * c.head_dim);
        let h = self.norm_before(layer, "attn_norm", x)?;
        let [q, att] = ["q", "attention"].map(|n| self.b.buffer(n, q_width));
        let [k, v] = ["k", "v"].map(|n| self.b.buffer(n, kv_width));
        let branch = self.b.buffer("branch", width);
        let parts = [("attn_q", q_width, q), ("attn_k", kv_width, k), ("attn_v", kv_width, v)];
        let qkv = self.products(layer, "attn_qkv", width, &parts)?;
        self.b.matmuls(h, if self.d.norms_before { "attn_norm" } else { "attn_input" }, qkv);
        let (mut queries, mut keys) = (q, k);
        if self.d.head_norms != HeadNorms::None {
            (queries, keys) = (self.b.buffer("q norm", q_width), self.b.buffer("k norm", kv_width));
            for (part, x, out, width) in [("attn_q_norm", q, queries, q_width), ("attn_k_norm", k, keys, kv_width)] {
                let elements = if self.d.head_norms == HeadNorms::Each { c.head_dim } else { width };
                self.norm(layer, part, x, out, elements)?;
            }
        }
        self.rotate(layer, c.head_dim, [queries, keys]);
        // A window that holds the whole context is none.
        let window = self.d.layers[layer].window.filter(|window| *window < self.context);
        let cache = self.b.cache(CacheSpec { kv_heads: c.head_count_kv, head_dim: c.head_dim, window, ring: None });
        self.b.step("kv_cache", Op::KvStore(ops::KvStore { k: keys, v, cache }));
        let sinks = match self.d.sinks {
            true => Some(self.required(&format!("blk.{layer}.attn_sinks.weight"), 1, c.head_count)?),
            false => None,
        };
        let scoring = Scoring { divisor: self.d.divisor, cap: self.d.score_cap, sinks };
        let attention = ops::Attention { q: queries, out: att, cache, heads: c.head_count, scoring };
        self.b.step("attention", Op::Attention(attention));
        let output = self.product(layer, "attn_output", [width, q_width], branch)?;
        self.b.matmuls(att, "attention", [output]);
        self.join(layer, "post_attention_norm", "attn_residual", x, branch)
    }

    /// Parts of heads as a row of their own.
    fn columns(&mut self, part: &str, heads: usize, a: Slice, b: Option<Slice>) -> BufferId {
        let out = self.b.buffer(part, heads * (a.count + b.map_or(0, |b| b.count)));
        self.b.step(part, Op::Columns(ops::Columns { heads, a, b, out }));
        out
    }

    /// Attention over the latent rows: instead of multiplying them to keys and values of every head, queries are multiplied the
    /// other way, and what is attended to is multiplied to values.
    fn latent_attention(&mut self, layer: usize, x: BufferId, l: Latent) -> Result<(), ModelError> {
        let c = self.c;
        let (width, heads, plain) = (c.embedding_length, c.head_count, c.head_dim - l.rope);
        let all = |x, from, count| Slice { x, from, count };
        let h = self.norm_before(layer, "attn_norm", x)?;
        let (q, kv) = (self.b.buffer("q", heads * c.head_dim), self.b.buffer("kv", l.rank + l.rope));
        let latent = self.product(layer, "attn_kv_a_mqa", [l.rank + l.rope, width], kv)?;
        match l.q_rank {
            None => {
                let queries = self.product(layer, "attn_q", [heads * c.head_dim, width], q)?;
                self.b.matmuls(h, "attn_norm", [queries, latent]);
            }
            Some(rank) => {
                let [q_a, normed] = ["q latent", "q latent norm"].map(|n| self.b.buffer(n, rank));
                let queries = self.product(layer, "attn_q_a", [rank, width], q_a)?;
                self.b.matmuls(h, "attn_norm", [queries, latent]);
                self.norm(layer, "attn_q_a_norm", q_a, normed, rank)?;
                let queries = self.product(layer, "attn_q_b", [heads * c.head_dim, rank], q)?;
                self.b.matmuls(normed, "attn_q_a_norm", [queries]);
            }
        }
        let row = self.columns("attn_kv.latent", 1, all(kv, 0, l.rank), None);
        let normed = self.b.buffer("latent norm", l.rank);
        self.norm(layer, "attn_kv_a_norm", row, normed, l.rank)?;
        let turned = self.columns("attn_k.rope_part", 1, all(kv, l.rank, l.rope), None);
        let q_turned = self.columns("attn_q.rope_part", heads, all(q, plain, l.rope), None);
        self.rotate(layer, l.rope, [q_turned, turned]);
        let k = self.columns("attn_k", 1, all(normed, 0, l.rank), Some(all(turned, 0, l.rope)));
        let q_plain = self.columns("attn_q.plain_part", heads, all(q, 0, plain), None);
        let q_latent = self.b.buffer("q by latent", heads * l.rank);
        let parts = [("attn_k_b", [l.rank, plain], q_latent)];
        self.expert_products(layer, heads, (q_plain, "attn_q.plain_part"), None, &parts)?;
        let q = self.columns("attn_q.latent", heads, all(q_latent, 0, l.rank), Some(all(q_turned, 0, l.rope)));
        let cache = self.b.cache(CacheSpec { kv_heads: 1, head_dim: l.rank + l.rope, window: None, ring: None });
        self.b.step("kv_cache", Op::KvStore(ops::KvStore { k, v: k, cache }));
        let att = self.b.buffer("attention", heads * (l.rank + l.rope));
        let scoring = Scoring { divisor: self.d.divisor, cap: None, sinks: None };
        self.b.step("attention", Op::Attention(ops::Attention { q, out: att, cache, heads, scoring }));
        let seen = self.columns("attention.latent", heads, all(att, 0, l.rank), None);
        let values = self.b.buffer("values", heads * l.values);
        let parts = [("attn_v_b", [l.values, l.rank], values)];
        self.expert_products(layer, heads, (seen, "attention.latent"), None, &parts)?;
        let branch = self.b.buffer("branch", width);
        let output = self.product(layer, "attn_output", [width, heads * l.values], branch)?;
        self.b.matmuls(values, "attention", [output]);
        self.join(layer, "post_attention_norm", "attn_residual", x, branch)
    }

    fn feed_forward(&mut self, layer: usize, x: BufferId) -> Result<(), ModelError> {
        let h = self.norm_before(layer, self.d.ffn_norm, x)?;
        let branch = match self.d.experts {
            Some(experts) if layer >= experts.first => self.experts(layer, experts, h)?,
            _ => {
                let (names, steps) = (["ffn_gate", "ffn_up", "ffn_down"], [self.input(), self.activation()]);
                self.gated(layer, h, names, steps, self.c.feed_forward_length, "branch")?
            }
        };
        self.join(layer, "post_ffw_norm", "ffn_residual", x, branch)
    }

    /// The name of the step that a feed-forward layer's input comes from.
    fn input(&self) -> &'static str {
        if self.d.norms_before { self.d.ffn_norm } else { "ffn_input" }
    }

    /// A gate of `a` for `b`.
    fn gate(&mut self, part: &str, [a, b, out]: [BufferId; 3]) {
        let op = match self.d.gate {
            Gate::Silu => Op::SiluMul(ops::SiluMul { a, b, out }),
            Gate::Gelu => Op::GeluMul(ops::GeluMul { a, b, out }),
            Gate::Clamped => Op::ClampedGate(ops::ClampedGate { a, b, out }),
        };
        self.b.step(part, op);
    }

    /// Gate, up and down over hidden rows of `hidden_width`, whose input comes from the step `from`, to the buffer `result`.
    fn gated(
        &mut self,
        layer: usize,
        h: BufferId,
        [gate_part, up_part, down_part]: [&'static str; 3],
        [from, act]: [&str; 2],
        hidden_width: usize,
        result: &str,
    ) -> Result<BufferId, ModelError> {
        let width = self.c.embedding_length;
        let [gate, up, hidden] =
            ["gate", "up", "hidden"].map(|n| self.b.buffer(&format!("{result} {n}"), hidden_width));
        let branch = self.b.buffer(result, width);
        let parts = [(gate_part, hidden_width, gate), (up_part, hidden_width, up)];
        let gate_up = self.products(layer, up_part, width, &parts)?;
        self.b.matmuls(h, from, gate_up);
        self.gate(&format!("{act}_mul"), [gate, up, hidden]);
        let down = self.product(layer, down_part, [width, hidden_width], branch)?;
        self.b.matmuls(hidden, &format!("{act}_mul"), [down]);
        Ok(branch)
    }

    /// The experts that each token chooses, and the shared one.
    fn experts(&mut self, layer: usize, e: Experts, h: BufferId) -> Result<BufferId, ModelError> {
        let width = self.c.embedding_length;
        let [router, routes] = [("router", e.count), ("routes", 2 * e.used)].map(|(n, w)| self.b.buffer(n, w));
        let [gate, up, hidden] =
            ["experts gate", "experts up", "experts hidden"].map(|n| self.b.buffer(n, e.used * e.width));
        let (down, branch) = (self.b.buffer("experts down", e.used * width), self.b.buffer("branch", width));
        let scores = self.product(layer, "ffn_gate_inp", [e.count, width], router)?;
        self.b.matmuls(h, self.input(), [scores]);
        let bias = match e.gating.sigmoid {
            true => self.optional(&format!("blk.{layer}.exp_probs_b.bias"), 1, e.count)?,
            false => None,
        };
        let (used, weighing, gating) = (e.used, e.weighing, Gating { bias, ..e.gating });
        self.b.step("ffn_route", Op::Route(ops::Route { x: router, out: routes, used, weighing, gating }));
        let parts = [("ffn_gate_exps", [e.width, width], gate), ("ffn_up_exps", [e.width, width], up)];
        self.expert_products(layer, e.count, (h, "ffn_exps"), Some(routes), &parts)?;
        self.gate("ffn_exps_gate", [gate, up, hidden]);
        let parts = [("ffn_down_exps", [width, e.width], down)];
        self.expert_products(layer, e.count, (hidden, "ffn_exps_gate"), Some(routes), &parts)?;
        self.b.step("ffn_combine", Op::Combine(ops::Combine { x: down, routes, out: branch }));
        if let Some(shared) = e.shared {
            let names = ["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"];
            let also = self.gated(layer, h, names, ["ffn_shexp"; 2], shared.width, "shared")?;
            if shared.gated {
                let weight = self.required(&format!("blk.{layer}.ffn_gate_inp_shexp.weight"), 1, width)?;
                self.b.step("ffn_shexp_gate", Op::RowGate(ops::RowGate { x: also, h, weight }));
            }
            self.b.step("ffn_shexp_add", Op::Add(ops::Add { x: branch, b: also }));
        }
        Ok(branch)
    }

    /// Products of a row, or of a row for each slot, with matrices of the chosen experts, or of all.
    fn expert_products(
        &mut self,
        layer: usize,
        experts: usize,
        (x, from): (BufferId, &str),
        routes: Option<BufferId>,
        parts: &[(&'static str, [usize; 2], BufferId)],
    ) -> Result<(), ModelError> {
        let mut weights = Vec::new();
        for &(part, [rows, cols], out) in parts {
            let name = format!("blk.{layer}.{part}.weight");
            let matrices = shaped(self.gguf, &name, &[cols, rows, experts])?;
            let weight = self.b.weight(matrices.ok_or(ModelError::MissingTensor(name))?);
            let bias = match self.d.biases.contains(&part) {
                true => shaped(self.gguf, &format!("blk.{layer}.{part}.bias"), &[rows, experts])?,
                false => None,
            };
            let bias = bias.map(|b| self.b.weight(Weight { rows: 1, cols: rows * experts, ..b }));
            weights.push((part, weight, bias, out));
        }
        let inputs = self.b.activations(x, from, weights.iter().map(|w| w.1));
        for ((part, weight, bias, out), x) in weights.into_iter().zip(inputs) {
            self.b.step(part, Op::ExpertMatmul(ops::ExpertMatmul { weight, experts, bias, x, routes, out }));
        }
        Ok(())
    }

    fn activation(&self) -> &'static str {
        match self.d.gate {
            Gate::Silu => "ffn_silu",
            Gate::Gelu => "ffn_gelu",
            Gate::Clamped => "ffn_clamped",
        }
    }
}
