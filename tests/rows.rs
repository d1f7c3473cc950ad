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
use samebits::plan::{Angles, Builder, CacheSpec, Op, Plan, Weight, WeightId, WeightSource};
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

/// Heads of attention, and how they attend.
#[derive(Clone, Copy, Debug)]
struct Heads {
    heads: usize,
    kv_heads: usize,
    head_dim: usize,
    window: Option<usize>,
    cap: Option<f64>,
    sinks: bool,
}

const PLAIN: Heads = Heads { heads: 4, kv_heads: 2, head_dim: 32, window: None, cap: None, sinks: false };

/// A layer of llama: rows of one block of 256 and of nine, so that lanes of S8 have two, one and none.
fn layer(format: &'static Format, precision: Precision, shape: Heads) -> (Plan, Made) {
    let (width, hidden) = (256, 2304);
    let Heads { heads, kv_heads, head_dim, window, cap, sinks } = shape;
    let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);
    let mut made = Made(HashMap::new());
    let mut random = Random(7);
    let mut plan = Builder::new(precision);
    let mut weight = |plan: &mut Builder, name: &str, format: &'static Format, rows: usize, cols: usize| -> WeightId {
        let high = if rows == 1 { 1 } else { -1 - cols.ilog2() as i32 / 2 };
        let mut raw = vec![0; rows * format.row_bytes(cols)];
        let values = random.floats(rows * cols, high - 4, high);
        for (x, raw) in values.chunks(cols).zip(raw.chunks_mut(format.row_bytes(cols))) {
            format.quantize(x, raw);
        }
        made.0.insert(name.to_owned(), raw);
        plan.weight(Weight { name: name.to_owned(), format, first: 0, rows, cols })
    };
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
    // Formats in blocks of 256 have no rows of 128.
    let small = if q_width.is_multiple_of(format.block) { format } else { format_by_name("Q4_0").unwrap() };
    let w = weight(&mut plan, "out", small, width, q_width);
    plan.matmuls(att, "out", vec![("out", w, None, branch)]);
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
    (plan.finish(logits).unwrap(), made)
}

/// The logits of the first rows, in one batch.
fn logits(backend: &mut dyn Backend, rows: usize) -> Vec<u32> {
    let ids: Vec<u32> = (0..rows as u32).map(|i| i * 7 % 40).collect();
    let batch = Batch::checked(&ids, 0, Rows::All, &backend.limits()).unwrap();
    bits(backend.forward(batch, None).unwrap())
}

fn check(format: &'static Format, precision: Precision, counts: &[usize]) {
    let (plan, made) = layer(format, precision, PLAIN);
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
    let mut vector = Cpu::new(&made, plan.clone(), sizes(MOST, MOST), 2).unwrap();
    let _turn = turn();
    let mut gpu = Gpu::new(device(), &made, plan, sizes(MOST, MOST), &mut |_| {}).unwrap();
    for &n in counts {
        let first = &expected[..40 * n];
        assert!(logits(&mut vector, n) == first, "{} {precision:?}: CPU, vectors, {n} rows", format.name);
        assert!(logits(&mut gpu, n) == first, "{} {precision:?}: GPU, {n} rows", format.name);
    }
}

#[test]
fn every_number_of_rows_has_the_bits_of_rows_one_by_one() {
    if std::env::var("SAMEBITS_ROWS").is_ok_and(|all| all == "all") {
        let all: Vec<usize> = (1..=MOST).collect();
        for format in FORMATS {
            [Precision::Fast, Precision::Precise].iter().for_each(|precision| check(format, *precision, &all));
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
        check(format_by_name(format).unwrap(), precision, &edges);
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
    ];
    let _turn = turn();
    for shape in shapes {
        let (plan, made) = layer(format_by_name("Q4_0").unwrap(), Precision::Fast, shape);
        let sizes = samebits::backend::Sizes { context: CONTEXT, batch: 40, logits_rows: 1 };
        let mut cpu = Cpu::with_isa(&made, plan.clone(), sizes, 2, Isa::Scalar).unwrap();
        let mut gpu = Gpu::new(device(), &made, plan, sizes, &mut |_| {}).unwrap();
        assert_eq!(gpu.unfused_because(), None, "{shape:?}");
        let mut position = 0;
        // Batches of forty, and single tokens around the lengths where kernels change.
        while position < CONTEXT {
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
