//! Every number of rows of a batch has the bits of the rows one by one: each weight format, on the CPU's paths and on the GPU, around
//! the numbers where other kernels begin; with `SAMEBITS_ROWS=all` all formats, and every number up to 70.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use std::collections::HashMap;

use common::{Random, bits, device, sizes, turn};
use samebits::backend::cpu::{Cpu, Isa};
use samebits::backend::gpu::Gpu;
use samebits::backend::{Backend, Batch, Rows};
use samebits::numerics::Precision;
use samebits::ops;
use samebits::ops::attention::Scoring;
use samebits::ops::columns::Slice;
use samebits::ops::route::{Gating, Weighing};
use samebits::plan::{Angles, BufferId, Builder, CacheSpec, Op, Plan, Weight, WeightId, WeightSource};
use samebits::quant::{FORMATS, Format, format_by_name};

const MOST: usize = 70;

/// Weights that are in no file.
#[derive(Clone)]
struct Made(HashMap<String, Vec<u8>>);

impl WeightSource for Made {
    fn data(&self, weight: &Weight) -> &[u8] {
        self.0.get(&weight.name).map_or(&[], Vec::as_slice)
    }

    fn release(&self, _: &Weight) {}
}

/// Makes weights at random.
struct Maker {
    made: Made,
    random: Random,
}

impl Maker {
    fn weight(
        &mut self,
        plan: &mut Builder,
        name: &str,
        format: &'static Format,
        rows: usize,
        cols: usize,
    ) -> WeightId {
        let high = if rows == 1 { 1 } else { -1 - cols.ilog2() as i32 / 2 };
        let values = self.random.floats(rows * cols, high - 4, high);
        self.given(plan, name, format, cols, &values)
    }

    fn given(
        &mut self,
        plan: &mut Builder,
        name: &str,
        format: &'static Format,
        cols: usize,
        values: &[f32],
    ) -> WeightId {
        let rows = values.len() / cols;
        let mut raw = vec![0; rows * format.row_bytes(cols)];
        for (x, raw) in values.chunks(cols).zip(raw.chunks_mut(format.row_bytes(cols))) {
            format.quantize(x, raw);
        }
        self.made.0.insert(name.to_owned(), raw);
        plan.weight(Weight { name: name.to_owned(), format, first: 0, rows, cols })
    }
}

/// Layers of experts. In the first, everybody chooses one of them and nobody another; in the second, both are chosen by all. Behind
/// each is a product with the matrices of all, one after the other.
fn experts(format: &'static Format, precision: Precision) -> (Plan, Made) {
    let (width, hidden) = (256, 768);
    let mut maker = Maker { made: Made(HashMap::new()), random: Random(11) };
    let mut plan = Builder::new(precision);
    let float = format_by_name("F32").unwrap();
    let [x, n, branch, also] = ["x", "n", "branch", "also"].map(|b| plan.buffer(b, width));
    let w = maker.weight(&mut plan, "embedding", format, 40, width);
    plan.step("embedding", Op::Embedding(ops::Embedding { weight: w, out: x }));
    for (layer, biases, used) in [(0, &[3.0, 0.0, 0.0, 0.5, -3.0][..], 3), (1, &[0.0, 0.25], 2)] {
        plan.layer(Some(layer));
        let name = |part: &str| format!("{layer}.{part}");
        let count = biases.len();
        let scores = plan.buffer(&format!("scores{count}"), count);
        let routes = plan.buffer(&format!("routes{used}"), 2 * used);
        let [gate, up, act] = ["gate", "up", "act"].map(|b| plan.buffer(&format!("{b}{used}"), used * hidden));
        let down = plan.buffer(&format!("down{used}"), used * width);
        let w = maker.weight(&mut plan, &name("norm"), float, 1, width);
        plan.step("norm", Op::RmsNorm(ops::RmsNorm { x, weight: w, out: n, eps: 1e-5 }));
        let w = maker.weight(&mut plan, &name("router"), float, count, width);
        let b = maker.given(&mut plan, &name("router.bias"), float, count, biases);
        plan.matmuls(n, "router", vec![("router", w, Some(b), scores)]);
        let (weighing, gating) = (Weighing::Normed, Gating::BY_SCORE);
        plan.step("route", Op::Route(ops::Route { x: scores, out: routes, used, weighing, gating }));
        let products = |maker: &mut Maker, plan: &mut Builder, x, from: &str, cols, parts: &[(&str, usize, _)]| {
            let made = |(part, rows, out): &(&str, usize, BufferId)| {
                let w = maker.weight(plan, &name(part), format, count * rows, cols);
                let bias =
                    (layer == 0).then(|| maker.weight(plan, &name(&format!("{part}.bias")), float, 1, count * rows));
                (w, bias, *out)
            };
            let made: Vec<_> = parts.iter().map(made).collect();
            let inputs = plan.activations(x, from, made.iter().map(|m| m.0));
            for (((weight, bias, out), x), (part, ..)) in made.into_iter().zip(inputs).zip(parts) {
                let op = ops::ExpertMatmul { weight, experts: count, bias, x, routes: Some(routes), out };
                plan.step(*part, Op::ExpertMatmul(op));
            }
        };
        products(&mut maker, &mut plan, n, "experts", width, &[("gate", hidden, gate), ("up", hidden, up)]);
        plan.step("act", Op::SiluMul(ops::SiluMul { a: gate, b: up, out: act }));
        products(&mut maker, &mut plan, act, "act", hidden, &[("down", width, down)]);
        plan.step("combine", Op::Combine(ops::Combine { x: down, routes, out: branch }));
        plan.step("add", Op::Add(ops::Add { x, b: branch }));
        let weight = maker.weight(&mut plan, &name("all"), format, width, width);
        let input = plan.activations(n, "all", [weight])[0];
        let op = ops::ExpertMatmul { weight, experts: 4, bias: None, x: input, routes: None, out: also };
        plan.step("all", Op::ExpertMatmul(op));
        plan.step("all.add", Op::Add(ops::Add { x, b: also }));
    }
    plan.layer(None);
    let (last, logits) = (plan.wanted_buffer("last", width), plan.wanted_buffer("logits", 40));
    plan.step("rows", Op::Gather(ops::Gather { x, out: last }));
    let w = maker.weight(&mut plan, "head", format, 40, width);
    plan.matmuls(last, "head", vec![("logits", w, None, logits)]);
    (plan.finish(logits).unwrap(), maker.made)
}

/// Heads of attention, and how they attend.
#[derive(Clone, Copy, Debug)]
struct Heads {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<usize>,
    cap: Option<f64>,
    sinks: bool,
    /// How many elements of each are read, the first ones; `None`: all.
    read: Option<usize>,
}

const PLAIN: Heads = Heads { heads: 4, kv_heads: 2, head_dim: 32, window: None, cap: None, sinks: false, read: None };

fn layer(format: &'static Format, precision: Precision) -> (Plan, Made) {
    layer_with(format, precision, PLAIN)
}

/// A layer of llama: rows of one block of 256 and of nine, so that lanes of S8 have two, one and none.
fn layer_with(format: &'static Format, precision: Precision, shape: Heads) -> (Plan, Made) {
    let (width, hidden) = (256, 2304);
    let Heads { heads, kv_heads, head_dim, window, cap, sinks, read } = shape;
    let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);
    let mut maker = Maker { made: Made(HashMap::new()), random: Random(7) };
    let mut plan = Builder::new(precision);
    let mut weight = |plan: &mut Builder, name: &str, format, rows, cols| maker.weight(plan, name, format, rows, cols);
    let float = format_by_name("F32").unwrap();
    let [x, n, branch] = ["x", "n", "branch"].map(|b| plan.buffer(b, width));
    let [q, att] = ["q", "att"].map(|b| plan.buffer(b, q_width));
    let [k, v] = ["k", "v"].map(|b| plan.buffer(b, kv_width));
    let [gate, up, act] = ["gate", "up", "act"].map(|b| plan.buffer(b, hidden));
    let w = weight(&mut plan, "embedding", format, 40, width);
    plan.step("embedding", Op::Embedding(ops::Embedding { weight: w, out: x }));
    plan.layer(Some(0));
    let w = weight(&mut plan, "norm", float, 1, width);
    plan.step("norm", Op::RmsNorm(ops::RmsNorm { x, weight: w, out: n, eps: 1e-5 }));
    let three = [("q", q_width, q), ("k", kv_width, k), ("v", kv_width, v)];
    let three =
        three.map(|(name, rows, out)| (name, weight(&mut plan, name, format, rows, width), None::<WeightId>, out));
    plan.matmuls(n, "attn", three);
    let frequencies = (0..head_dim / 2).map(|i| 0.8f64.powi(i as i32)).collect();
    let angles = plan.angles(Angles { frequencies, magnitude: 1.0 });
    for (name, x) in [("q.rope", q), ("k.rope", k)] {
        plan.step(name, Op::Rope(ops::Rope { x, head_dim, angles, neox: false }));
    }
    let cache = plan.cache(CacheSpec { kv_heads, head_dim, window, ring: None });
    plan.step("cache", Op::KvStore(ops::KvStore { k, v, cache }));
    let sinks = sinks.then(|| weight(&mut plan, "sinks", float, 1, heads));
    let scoring = Scoring { cap, sinks, ..Scoring::usual(head_dim) };
    plan.step("attend", Op::Attention(ops::Attention { q, out: att, cache, heads, scoring }));
    let (mut from, mut cols) = (att, q_width);
    if let Some(count) = read {
        (from, cols) = (plan.buffer("read", heads * count), heads * count);
        let a = Slice { x: att, from: 0, count };
        plan.step("attend.read", Op::Columns(ops::Columns { heads, a, b: None, out: from }));
    }
    // Formats in blocks of 256 have no rows of 128.
    let small = if cols.is_multiple_of(format.block) { format } else { format_by_name("Q4_0").unwrap() };
    let w = weight(&mut plan, "out", small, width, cols);
    plan.matmuls(from, "out", vec![("out", w, None, branch)]);
    plan.step("out.add", Op::Add(ops::Add { x, b: branch }));
    let w = weight(&mut plan, "ffn_norm", float, 1, width);
    plan.step("ffn_norm", Op::RmsNorm(ops::RmsNorm { x, weight: w, out: n, eps: 1e-5 }));
    let two = [("gate", gate), ("up", up)];
    let two = two.map(|(name, out)| (name, weight(&mut plan, name, format, hidden, width), None::<WeightId>, out));
    plan.matmuls(n, "ffn", two);
    plan.step("act", Op::SiluMul(ops::SiluMul { a: gate, b: up, out: act }));
    let w = weight(&mut plan, "down", format, width, hidden);
    plan.matmuls(act, "down", vec![("down", w, None, branch)]);
    plan.step("down.add", Op::Add(ops::Add { x, b: branch }));
    plan.layer(None);
    let (last, logits) = (plan.wanted_buffer("last", width), plan.wanted_buffer("logits", 40));
    plan.step("rows", Op::Gather(ops::Gather { x, out: last }));
    let w = weight(&mut plan, "head", format, 40, width);
    plan.matmuls(last, "head", vec![("logits", w, None, logits)]);
    (plan.finish(logits).unwrap(), maker.made)
}

/// The logits of the first rows, in one batch.
fn logits(backend: &mut dyn Backend, rows: usize) -> Vec<u32> {
    let ids: Vec<u32> = (0..rows as u32).map(|i| i * 7 % 40).collect();
    let batch = Batch::checked(&ids, 0, Rows::All, &backend.limits()).unwrap();
    bits(backend.forward(batch, None).unwrap())
}

/// A plan with weights of a format.
type Make = fn(&'static Format, Precision) -> (Plan, Made);

fn check(make: Make, format: &'static Format, precision: Precision, counts: &[usize]) {
    let (plan, made) = make(format, precision);
    let mut scalar = Cpu::with_isa(&made, plan.clone(), sizes(MOST, MOST), 2, Isa::Scalar).unwrap();
    let ids: Vec<u32> = (0..MOST as u32).map(|i| i * 7 % 40).collect();
    let mut expected = Vec::new();
    for (position, id) in ids.iter().enumerate() {
        let batch = Batch::checked(std::slice::from_ref(id), position, Rows::All, &scalar.limits()).unwrap();
        expected.extend(bits(scalar.forward(batch, None).unwrap()));
    }
    assert!(
        expected.iter().all(|w| f32::from_bits(*w).is_finite()),
        "{}: numbers of the test are too large",
        format.name
    );
    for isa in Isa::ALL.into_iter().filter(|isa| isa.is_available()) {
        let mut cpu = Cpu::with_isa(&made, plan.clone(), sizes(MOST, MOST), 2, isa).unwrap();
        for &n in counts {
            assert!(logits(&mut cpu, n) == expected[..40 * n], "{} {precision:?}: {isa:?}, {n} rows", format.name);
        }
    }
    let _turn = turn();
    let gpu = Gpu::new(device(), &made, plan, sizes(MOST, MOST), &mut |_| {}).unwrap();
    // In one of the precisions the largest batches are run by the kernels for many rows.
    let mut gpu = gpu.few_up_to(if precision == Precision::Fast { 64 } else { MOST });
    for &n in counts {
        assert!(logits(&mut gpu, n) == expected[..40 * n], "{} {precision:?}: GPU, {n} rows", format.name);
    }
}

#[test]
fn every_number_of_rows_has_the_bits_of_rows_one_by_one() {
    if std::env::var("SAMEBITS_ROWS").is_ok_and(|all| all == "all") {
        let all: Vec<usize> = (1..=MOST).collect();
        for format in FORMATS {
            for precision in [Precision::Fast, Precision::Precise] {
                [layer, experts].into_iter().for_each(|make: Make| check(make, format, precision, &all));
            }
        }
        return;
    }
    // A format of each kind: small and large blocks, with and without minima, halves with scales of their own, plain numbers.
    let edges = [2, 3, 5, 9, 17, 64, 65];
    for (format, precision) in [
        ("Q4_0", Precision::Fast),
        ("Q5_1", Precision::Precise),
        ("Q2_K", Precision::Precise),
        ("Q4_K", Precision::Fast),
        ("Q6_K", Precision::Fast),
        ("F16", Precision::Fast),
    ] {
        check(layer, format_by_name(format).unwrap(), precision, &edges);
    }
}

/// Few rows run one by one, more in tiles of 32, and where many rows chose each expert in tiles of 64.
#[test]
fn every_number_of_rows_through_experts_has_the_bits_of_rows_one_by_one() {
    for (format, precision) in [
        ("Q4_0", Precision::Precise),
        ("Q5_1", Precision::Fast),
        ("MXFP4", Precision::Fast),
        ("Q3_K", Precision::Precise),
        ("Q4_K", Precision::Fast),
        ("BF16", Precision::Fast),
    ] {
        check(experts, format_by_name(format).unwrap(), precision, &[3, 17, 66]);
    }
}

/// Attention of a single token takes other kernels where the cache is long, and attention of many rows takes large heads in parts.
#[test]
fn long_caches_have_the_bits_of_the_cpu() {
    const CONTEXT: usize = 1200;
    let shapes = [
        Heads { heads: 12, kv_heads: 1, ..PLAIN },
        Heads { heads: 6, kv_heads: 2, head_dim: 256, sinks: true, ..PLAIN },
        Heads { heads: 3, kv_heads: 3, head_dim: 192, cap: Some(20.0), ..PLAIN },
        Heads { heads: 8, kv_heads: 2, head_dim: 128, window: Some(700), sinks: true, ..PLAIN },
        Heads { heads: 4, kv_heads: 1, head_dim: 288, read: Some(256), ..PLAIN },
    ];
    let _turn = turn();
    for shape in shapes {
        let (plan, made) = layer_with(format_by_name("Q4_0").unwrap(), Precision::Fast, shape);
        let sizes = samebits::backend::Sizes { context: CONTEXT, batch: 40, logits_rows: 1 };
        let mut cpu = Cpu::with_isa(&made, plan.clone(), sizes, 2, Isa::Scalar).unwrap();
        let mut gpu = Gpu::new(device(), &made, plan, sizes, &mut |_| {}).unwrap();
        assert_eq!(gpu.unfused_because(), None, "{shape:?}");
        // Large heads take long where many rows attend.
        let end = if shape.head_dim > 256 { 640 } else { CONTEXT };
        let mut position = 0;
        // Batches of forty, and single tokens around the lengths where kernels change.
        while position < end {
            let single = [255, 511, 512, 639, 1023, 1199].iter().any(|at| position.abs_diff(*at) < 3);
            let next = [253, 509, 637, 1021, 1197, CONTEXT].into_iter().find(|at| *at > position).unwrap();
            let rows = if single { 1 } else { (next - position).min(40) };
            let ids: Vec<u32> = (position..position + rows).map(|i| (i * 7 + i / 40) as u32 % 40).collect();
            let run = |backend: &mut dyn Backend| {
                let batch = Batch::checked(&ids, position, Rows::Last, &backend.limits()).unwrap();
                bits(backend.forward(batch, None).unwrap())
            };
            assert!(run(&mut cpu) == run(&mut gpu), "{shape:?}: {rows} rows at {position}");
            position += rows;
        }
    }
}
