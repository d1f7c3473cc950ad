//! Plans made at random from the ops: every plan that [`Plan::check`] accepts has the same bits step by step and fused, for one row,
//! a few and many, on the CPU's scalar and vector paths and on the GPU.
//!
//! `SAMEBITS_PLANS` is how many plans are tried (default 6), `SAMEBITS_PLANS_SEED` the first seed. A failure names its seed.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use common::{Random, bits, device, sizes, turn, variable};
use samebits::backend::cpu::{Cpu, Isa};
use samebits::backend::gpu::{Gpu, groups};
use samebits::backend::{Backend, Batch, Rows};
use samebits::numerics::Precision;
use samebits::ops;
use samebits::ops::attention::Scoring;
use samebits::ops::columns::Slice;
use samebits::ops::route::{Gating, Weighing};
use samebits::plan::{
    Angles, AnglesId, BufferId, Builder, CacheId, CacheSpec, Op, Plan, Step, Weight, WeightId, WeightSource,
};
use samebits::quant::{FORMATS, Format};

const CONTEXT: usize = 40;
const TOKENS: usize = 19;

/// Weights that are in no file.
#[derive(Clone, Default)]
struct Made(Arc<HashMap<String, Vec<u8>>>);

impl WeightSource for Made {
    fn data(&self, weight: &Weight) -> &[u8] {
        self.0.get(&weight.name).map_or(&[], Vec::as_slice)
    }

    fn release(&self, _: &Weight) {}
}

/// A plan that grows at random.
struct Maker {
    random: Random,
    plan: Builder,
    weights: HashMap<String, Vec<u8>>,
    /// What was chosen, for reports.
    story: Vec<String>,
    /// Steps that are none of the usual ones have a number in their names.
    extra: usize,
}

impl Maker {
    fn new(seed: u64) -> (Self, Precision) {
        let mut random = Random(seed);
        let precision = if random.word().is_multiple_of(3) { Precision::Precise } else { Precision::Fast };
        let plan = Builder::new(precision);
        (Self { random, plan, weights: HashMap::new(), story: vec![format!("{precision:?}")], extra: 0 }, precision)
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.random.word() as usize % from.len()]
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.word() % 100 < percent
    }

    /// A format that rows of so many elements can have.
    fn format(&mut self, cols: usize) -> &'static Format {
        let all: Vec<_> = FORMATS.iter().copied().filter(|f| cols.is_multiple_of(f.block)).collect();
        self.pick(&all)
    }

    fn weight(&mut self, name: &str, format: &'static Format, rows: usize, cols: usize) -> WeightId {
        let name = format!("{}.{name}", self.weights.len());
        // Numbers that keep what flows through a few layers between overflow and zero.
        let high = if rows == 1 { 1 } else { -1 - cols.ilog2() as i32 / 2 };
        let values = self.random.floats(rows * cols, high - 4, high);
        let mut raw = vec![0; rows * format.row_bytes(cols)];
        for (x, raw) in values.chunks(cols).zip(raw.chunks_mut(format.row_bytes(cols))) {
            format.quantize(x, raw);
        }
        self.weights.insert(name.clone(), raw);
        self.plan.weight(Weight { name, format, first: 0, rows, cols })
    }

    fn vector(&mut self, name: &str, elements: usize) -> WeightId {
        let format = samebits::quant::format_by_name("F32").unwrap();
        self.weight(name, format, 1, elements)
    }

    /// `x` behind a norm, or as it is.
    fn normed(&mut self, at: &str, x: BufferId, width: usize, wanted: bool) -> BufferId {
        if self.chance(20) {
            self.story.push(format!("{at}: no norm"));
            return x;
        }
        let name = format!("{at}.norm");
        let out = if wanted { self.plan.wanted_buffer(&name, width) } else { self.plan.buffer(&name, width) };
        let weight = self.vector(&name, width);
        let eps = self.pick(&[1e-6, 1e-5, 1e-2]);
        self.plan.step(name, Op::RmsNorm(ops::RmsNorm { x, weight, out, eps }));
        out
    }

    /// Heads of a row behind a norm each, or behind one over all.
    fn head_norm(&mut self, name: &str, x: BufferId, width: usize, head_dim: usize) -> BufferId {
        let elements = if self.chance(70) { head_dim } else { width };
        self.story.push(format!("{name}: a norm of {elements} of {width}"));
        let out = self.plan.buffer(&format!("{name}{width}.norm"), width);
        let weight = self.vector(&format!("{name}.norm"), elements);
        self.plan.step(format!("{name}.norm"), Op::RmsNorm(ops::RmsNorm { x, weight, out, eps: 1e-5 }));
        out
    }

    /// Products of one row with matrices of so many rows; each in its own format, or all in one.
    fn products(&mut self, at: &str, x: BufferId, cols: usize, outs: &[(&'static str, usize, BufferId)]) {
        let same = self.chance(50).then(|| self.format(cols));
        let mut products = Vec::new();
        for &(name, rows, out) in outs {
            let format = same.unwrap_or_else(|| self.format(cols));
            let weight = self.weight(&format!("{at}.{name}"), format, rows, cols);
            let bias = self.chance(30).then(|| self.vector(&format!("{at}.{name}.bias"), rows));
            self.story.push(format!("{at}.{name} {}{}", format.name, if bias.is_some() { " + bias" } else { "" }));
            products.push((name, weight, bias, out));
        }
        self.plan.matmuls(x, at, products);
    }

    /// Now and then a plain step in between, that reads what others think they have to themselves.
    fn disturb(&mut self, percent: u32, x: BufferId, b: BufferId) {
        if x != b && self.chance(percent) {
            self.extra += 1;
            let name = format!("extra.{}", self.extra);
            self.story.push(name.clone());
            self.plan.step(name, Op::Add(ops::Add { x, b }));
        }
    }

    fn attention(
        &mut self,
        x: BufferId,
        width: usize,
        tables: &mut Vec<(AnglesId, usize)>,
        caches: &mut Vec<(CacheId, CacheSpec)>,
    ) {
        let head_dim = self.pick(&[32, 48, 64, 80, 96, 112, 128, 256, 288]);
        let (kv_heads, group) = (self.pick(&[1, 2, 3]), self.pick(&[1, 2, 4]));
        let heads = kv_heads * group;
        let window = self.pick(&[None, None, Some(1), Some(7), Some(33)]);
        let spec = CacheSpec { kv_heads, head_dim, window, ring: None };
        let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);
        let pairs = self.pick(&[head_dim / 2, head_dim / 4]);
        let neox = self.chance(40);
        self.story.push(format!(
            "{heads} heads on {kv_heads} of {head_dim}, window {window:?}, {pairs} pairs{}",
            if neox { ", halves" } else { "" }
        ));
        let n = self.normed("attn", x, width, false);
        // Buffers are shared between layers only where their widths are the same.
        let [q, att] = ["q", "att"].map(|b| self.plan.buffer(&format!("{b}{q_width}"), q_width));
        let [k, v] = ["k", "v"].map(|b| self.plan.buffer(&format!("{b}{kv_width}"), kv_width));
        let shared = caches.iter().find(|(_, s)| *s == spec).map(|c| c.0).filter(|_| self.chance(50));
        match shared {
            Some(_) => {
                self.story.push("an earlier cache".to_owned());
                self.products("attn", n, width, &[("q", q_width, q)]);
            }
            None => self.products("attn", n, width, &[("q", q_width, q), ("k", kv_width, k), ("v", kv_width, v)]),
        }
        self.disturb(15, x, n);
        let angles = match tables.iter().find(|t| t.1 == pairs).copied() {
            Some(known) if self.chance(70) => known.0,
            _ => {
                let base = self.pick(&[0.9f64, 0.7]);
                let frequencies = (0..pairs).map(|i| base.powi(i as i32)).collect();
                let magnitude = self.pick(&[1.0, 1.25]);
                let table = self.plan.angles(Angles { frequencies, magnitude });
                tables.push((table, pairs));
                table
            }
        };
        let (mut q, mut k) = (q, k);
        if self.chance(40) {
            q = self.head_norm("q", q, q_width, head_dim);
            k = if shared.is_none() { self.head_norm("k", k, kv_width, head_dim) } else { k };
        }
        if self.chance(90) {
            self.plan.step("q.rope", Op::Rope(ops::Rope { x: q, head_dim, angles, neox }));
        }
        let cache = shared.unwrap_or_else(|| {
            if self.chance(90) {
                self.plan.step("k.rope", Op::Rope(ops::Rope { x: k, head_dim, angles, neox }));
            }
            let cache = self.plan.cache(spec);
            self.plan.step("cache", Op::KvStore(ops::KvStore { k, v, cache }));
            caches.push((cache, spec));
            cache
        });
        if q_width == kv_width && shared.is_none() {
            self.disturb(20, q, k);
        }
        let mut scoring = Scoring::usual(head_dim);
        if self.chance(20) {
            scoring = Scoring { divisor: 5.0, cap: Some(self.pick(&[2.0, 30.0])), ..scoring };
        }
        if self.chance(20) {
            scoring.sinks = Some(self.vector("sinks", heads));
        }
        self.story.push(format!("{scoring:?}"));
        self.plan.step("attend", Op::Attention(ops::Attention { q, out: att, cache, heads, scoring }));
        // Of some heads only the first elements are used, as where values are latent.
        let count = head_dim / 3;
        if self.chance(20) {
            self.story.push(format!("the first {count} of a head"));
            let first = self.plan.buffer(&format!("first{}", heads * count), heads * count);
            let a = Slice { x: att, from: 0, count };
            self.plan.step("attend.first", Op::Columns(ops::Columns { heads, a, b: None, out: first }));
            return self.branch("attn_out", first, heads * count, x, width);
        }
        self.branch("attn_out", att, q_width, x, width);
    }

    /// A product that comes back to the stream, behind a norm or not.
    fn branch(&mut self, name: &'static str, from: BufferId, cols: usize, x: BufferId, width: usize) {
        let out = self.plan.buffer("branch", width);
        self.products(name, from, cols, &[(name, width, out)]);
        if self.chance(25) {
            self.story.push(format!("{name}: a norm behind"));
            let normed = self.plan.buffer("post", width);
            let weight = self.vector("post", width);
            self.plan
                .step(format!("{name}.post"), Op::RmsNorm(ops::RmsNorm { x: out, weight, out: normed, eps: 1e-5 }));
            self.plan.step(format!("{name}.add"), Op::Add(ops::Add { x, b: normed }));
        } else {
            self.plan.step(format!("{name}.add"), Op::Add(ops::Add { x, b: out }));
        }
        self.disturb(15, x, out);
        if self.chance(15) {
            self.story.push("scaled".to_owned());
            self.plan.step(format!("{name}.scale"), Op::Scale(ops::Scale { x, by: 0.7 }));
        }
    }

    fn feed_forward(&mut self, x: BufferId, width: usize) {
        let hidden_width = self.pick(&[32, 96, 256, 320, 48]);
        let n = self.normed("ffn", x, width, false);
        let [gate, up, hidden] =
            ["gate", "up", "hidden"].map(|b| self.plan.buffer(&format!("{b}{hidden_width}"), hidden_width));
        self.products("ffn", n, width, &[("gate", hidden_width, gate), ("up", hidden_width, up)]);
        self.disturb(15, x, n);
        let swapped = self.chance(15);
        let (a, b) = if swapped { (up, gate) } else { (gate, up) };
        let gelu = self.chance(30);
        self.plan.step(
            "ffn.act",
            match gelu {
                true => Op::GeluMul(ops::GeluMul { a, b, out: hidden }),
                false => Op::SiluMul(ops::SiluMul { a, b, out: hidden }),
            },
        );
        self.disturb(10, hidden, gate);
        self.branch("ffn_out", hidden, hidden_width, x, width);
    }
}

impl Maker {
    /// Products of a row, or of one for each slot, with the matrices of chosen experts, or of all.
    fn expert_products(
        &mut self,
        at: &str,
        (x, cols): (BufferId, usize),
        (experts, routes): (usize, Option<BufferId>),
        outs: &[(&'static str, usize, BufferId)],
    ) {
        let mut products = Vec::new();
        for &(name, rows, out) in outs {
            let format = self.format(cols);
            let weight = self.weight(name, format, experts * rows, cols);
            let bias = self.chance(40).then(|| self.vector(&format!("{name}.bias"), experts * rows));
            self.story.push(format!("{name} {}{}", format.name, if bias.is_some() { " + bias" } else { "" }));
            products.push((name, weight, bias, out));
        }
        let inputs = self.plan.activations(x, at, products.iter().map(|p| p.1));
        for ((name, weight, bias, out), x) in products.into_iter().zip(inputs) {
            self.plan.step(
                format!("{at}.{name}"),
                Op::ExpertMatmul(ops::ExpertMatmul { weight, experts, bias, x, routes, out }),
            );
        }
    }

    /// A feed-forward layer of experts that each row chooses, or of all.
    fn experts(&mut self, x: BufferId, width: usize) {
        let experts = self.pick(&[2, 3, 5, 8, 40, 72]);
        let used = (1 + self.random.word() as usize % if experts == 40 { 36 } else { 4 }).min(experts);
        let hidden_width = self.pick(&[32, 48, 96, 256]);
        self.story.push(format!("{used} of {experts} experts of {hidden_width}"));
        let n = self.normed("experts", x, width, false);
        let scores = self.plan.buffer(&format!("scores{experts}"), experts);
        let routes = self.plan.buffer(&format!("routes{used}"), 2 * used);
        self.products("router", n, width, &[("router", experts, scores)]);
        let weighing = self.pick(&[Weighing::All, Weighing::Normed, Weighing::Chosen]);
        let mut gating = Gating::BY_SCORE;
        if self.chance(30) {
            gating.sigmoid = true;
            if self.chance(50) && experts.is_multiple_of(4) {
                (gating.groups, gating.scale) = ([4, (used * 4).div_ceil(experts).max(2)], 2.5);
            } else {
                gating.bias = self.chance(50).then(|| self.vector("choice", experts));
            }
        }
        self.story.push(format!("{weighing:?} {gating:?}"));
        let route = ops::Route { x: scores, out: routes, used, weighing, gating };
        self.plan.step("route", Op::Route(route));
        let slots = used * hidden_width;
        let [gate, up, hidden] =
            ["gate", "up", "hidden"].map(|b| self.plan.buffer(&format!("slots {b}{slots}"), slots));
        let down = self.plan.buffer(&format!("slots down{}", used * width), used * width);
        let branch = self.plan.buffer("branch", width);
        let chosen = (experts, Some(routes));
        self.expert_products("experts", (n, width), chosen, &[("gate", hidden_width, gate), ("up", hidden_width, up)]);
        self.plan.step("experts.act", Op::SiluMul(ops::SiluMul { a: gate, b: up, out: hidden }));
        self.expert_products("experts.act", (hidden, hidden_width), chosen, &[("down", width, down)]);
        self.plan.step("combine", Op::Combine(ops::Combine { x: down, routes, out: branch }));
        self.plan.step("experts.add", Op::Add(ops::Add { x, b: branch }));
        if self.chance(30) {
            self.story.push("and all of two".to_owned());
            let all = self.plan.buffer(&format!("all{}", 2 * width), 2 * width);
            self.expert_products("experts.all", (n, width), (2, None), &[("all", width, all)]);
            self.expert_products("experts.again", (all, width), (2, None), &[("all.again", width / 2, branch)]);
            self.plan.step("all.add", Op::Add(ops::Add { x, b: branch }));
        }
    }
}

/// A plan of random layers, with experts or without, its weights, and what it is.
fn random_plan(seed: u64, experts: bool) -> (Plan, Made, String) {
    let (mut m, _) = Maker::new(seed);
    let width = m.pick(&[32, 64, 96, 256, 48, 30]);
    let vocabulary = m.pick(&[33, 64, 100]);
    m.story.push(format!("width {width}, {vocabulary} tokens"));
    let x = m.plan.buffer("x", width);
    let format = m.format(width);
    let embedding = m.weight("embedding", format, vocabulary, width);
    m.plan.step("embedding", Op::Embedding(ops::Embedding { weight: embedding, out: x }));
    let (mut tables, mut caches) = (Vec::new(), Vec::new());
    for layer in 0..1 + m.random.word() as usize % 2 {
        m.plan.layer(Some(layer));
        m.story.push(format!("layer {layer}:"));
        if m.chance(85) {
            m.attention(x, width, &mut tables, &mut caches);
        }
        if m.chance(85) {
            m.feed_forward(x, width);
        }
        if experts {
            m.experts(x, width);
        }
    }
    m.plan.layer(None);
    let last = m.plan.wanted_buffer("last", width);
    m.plan.step("rows", Op::Gather(ops::Gather { x, out: last }));
    let n = m.normed("output", last, width, true);
    let logits = m.plan.wanted_buffer("logits", vocabulary);
    let other = m.plan.wanted_buffer("other", vocabulary);
    if m.chance(25) {
        m.products("head", n, width, &[("logits", vocabulary, logits), ("other", vocabulary, other)]);
        m.plan.step("sum", Op::Add(ops::Add { x: logits, b: other }));
    } else {
        m.products("head", n, width, &[("logits", vocabulary, logits)]);
    }
    if m.chance(25) {
        m.plan.step("cap", Op::SoftCap(ops::SoftCap { x: logits, cap: 3.0 }));
    }
    let plan = m.plan.finish(logits).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    (plan, Made(Arc::new(m.weights)), m.story.join("; "))
}

/// The logits of all tokens, in batches of so many.
fn logits(backend: &mut dyn Backend, rows: usize) -> Vec<u32> {
    let limits = backend.limits();
    let ids: Vec<u32> = (0..TOKENS as u32).map(|i| i * 7 % limits.vocabulary as u32).collect();
    let mut all = Vec::new();
    for (i, ids) in ids.chunks(rows).enumerate() {
        let batch = Batch::checked(ids, i * rows, Rows::All, &limits).unwrap();
        all.extend(bits(backend.forward(batch, None).unwrap()));
    }
    all
}

/// The first step of the first token, all tokens one by one, whose output differs between two backends.
fn first_difference(a: &mut dyn Backend, b: &mut dyn Backend) -> String {
    let limits = a.limits();
    for position in 0..TOKENS {
        let id = [position as u32 * 7 % limits.vocabulary as u32];
        let hear = |backend: &mut dyn Backend| {
            let batch = Batch::checked(&id, position, Rows::All, &backend.limits()).unwrap();
            let mut outputs = Vec::new();
            let mut keep = |step: &Step, words: &[u32]| outputs.push((step.name.to_string(), words.to_vec()));
            backend.forward(batch, Some(&mut keep)).unwrap();
            outputs
        };
        let (a, b) = (hear(a), hear(b));
        if let Some((a, _)) = a.iter().zip(&b).find(|(a, b)| a != b) {
            return format!("token {position}, step '{}'", a.0);
        }
    }
    "no step that runs by itself".to_owned()
}

/// Demands the bits of the scalar CPU on every path of the plan with this seed.
fn check(seed: u64, experts: bool) {
    let (plan, weights, story) = random_plan(seed, experts);
    let mut scalar = Cpu::with_isa(&weights, plan.clone(), sizes(CONTEXT, 32), 1, Isa::Scalar).unwrap();
    let expected = logits(&mut scalar, 1);
    let finite = expected.iter().all(|w| f32::from_bits(*w).is_finite());
    assert!(finite, "seed {seed}: the numbers of the test are too large: {story}");
    let mut vector = Cpu::new(&weights, plan.clone(), sizes(CONTEXT, 32), 2).unwrap();
    for rows in [1, 2, 3, 7, TOKENS] {
        assert!(logits(&mut scalar, rows) == expected, "seed {seed}: CPU, scalar, {rows} rows: {story}");
        assert!(logits(&mut vector, rows) == expected, "seed {seed}: CPU, vectors, {rows} rows: {story}");
    }
    let _turn = turn();
    let open = || Gpu::new(device(), &weights, plan.clone(), sizes(CONTEXT, 32), &mut |_| {}).unwrap();
    // In half of the plans many rows are few.
    let mut gpu = open().few_up_to(if seed.is_multiple_of(2) { 8 } else { TOKENS });
    let unfused = gpu.unfused_because().map(str::to_owned);
    for rows in [1, 2, 3, 7, TOKENS] {
        if logits(&mut gpu, rows) != expected {
            let place = first_difference(&mut scalar, &mut gpu);
            panic!("seed {seed}: GPU, {rows} rows, unfused {unfused:?}, first difference: {place}: {story}");
        }
    }
    let mut gpu = open().unfused();
    assert!(logits(&mut gpu, 1) == expected, "seed {seed}: GPU, step by step: {story}");
}

/// Checks `count` of the plans from a seed on, those first that have the most kernels which none before had; what they have must be all
/// of `demanded`.
fn check_some(count: u64, experts: bool, demanded: &[&str]) {
    let first = variable("SAMEBITS_PLANS_SEED", 1);
    let mut plans: Vec<(u64, BTreeSet<_>)> = (first..first + count.max(128))
        .map(|seed| (seed, groups(&random_plan(seed, experts).0).into_iter().map(|(kernel, _)| kernel).collect()))
        .collect();
    let mut met = BTreeSet::new();
    for _ in 0..count {
        // The last of the largest is the first seed.
        let (best, _) =
            plans.iter().enumerate().rev().max_by_key(|(_, (_, has))| has.difference(&met).count()).unwrap();
        let (seed, has) = plans.remove(best);
        check(seed, experts);
        met.extend(has);
    }
    println!("{count} plans: {met:?}");
    for kernel in demanded {
        assert!(met.contains(kernel), "no plan has the kernel {kernel}, only {met:?}");
    }
}

#[test]
fn random_plans_have_the_same_bits_on_every_path() {
    let demanded = [
        "qkv",
        "siblings",
        "qkv_joined",
        "heads",
        "join",
        "gate_up",
        "residual",
        "products",
        "attend",
        "rms_norm",
        "rope",
        "attention",
    ];
    check_some(variable("SAMEBITS_PLANS", 6), false, &demanded);
}

/// A third as many plans: their kernels take long to compile on a software adapter.
#[test]
fn random_plans_with_experts_have_the_same_bits_on_every_path() {
    let demanded = ["route", "expert_gate", "expert_rows", "expert_sum"];
    check_some(variable("SAMEBITS_PLANS", 6).div_ceil(3), true, &demanded);
}
