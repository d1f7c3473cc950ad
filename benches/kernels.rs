//! The CPU kernels: a layer of TinyLlama's shape with random weights, its steps timed by the backend itself. One layer
//! stays in the caches, so a token measures the kernel here, not the memory.
//! `SAMEBITS_CPU=scalar|avx2|avx512|amx|neon cargo bench --bench kernels` measures another path than the processor's best.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use samebits::backend::cpu::{Cpu, Isa};
use samebits::backend::{Backend, Batch, Rows, Sizes};
use samebits::gguf::{Gguf, GgufWriter, Value};
use samebits::model::Model;
use samebits::numerics::Precision;
use samebits::ops;
use samebits::quant::{self, FORMATS, Format};

const WIDTH: usize = 2048;
const KV_WIDTH: usize = 256;
const FEED_FORWARD: usize = 5632;
const VOCABULARY: usize = 256;
/// Positions of the cache that attention reads.
const DEPTH: usize = 512;
/// Tokens of a prompt's chunk.
const CHUNK: usize = 64;

fn numbers(n: usize) -> Vec<f32> {
    (0..n as u64)
        .map(|i| {
            let x = (i + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            ((x ^ (x >> 29)) >> 40) as f32 / (1 << 24) as f32 - 0.5
        })
        .collect()
}

/// A matrix whose rows repeat: quantising takes longer than all measurements.
fn matrix(format: &Format, rows: usize, cols: usize) -> Vec<u8> {
    const DIFFERENT: usize = 16;
    let bytes = format.row_bytes(cols);
    let mut raw = vec![0; DIFFERENT * bytes];
    format.quantize(&numbers(DIFFERENT * cols), &mut raw);
    raw.repeat(rows / DIFFERENT)
}

/// One layer with matrices in `format`.
fn layer(format: &'static Format) -> Model {
    let plain = quant::format_by_name("F32").unwrap();
    let shapes: [(&str, usize, usize, &Format); 11] = [
        ("token_embd", VOCABULARY, WIDTH, format),
        ("blk.0.attn_norm", 1, WIDTH, plain),
        ("blk.0.attn_q", WIDTH, WIDTH, format),
        ("blk.0.attn_k", KV_WIDTH, WIDTH, format),
        ("blk.0.attn_v", KV_WIDTH, WIDTH, format),
        ("blk.0.attn_output", WIDTH, WIDTH, format),
        ("blk.0.ffn_norm", 1, WIDTH, plain),
        ("blk.0.ffn_gate", FEED_FORWARD, WIDTH, format),
        ("blk.0.ffn_up", FEED_FORWARD, WIDTH, format),
        ("blk.0.ffn_down", WIDTH, FEED_FORWARD, format),
        ("output_norm", 1, WIDTH, plain),
    ];
    let key = |name: &str, value| (format!("llama.{name}"), value);
    let count = |name: &str, n: usize| key(name, Value::U32(n as u32));
    let metadata = [
        ("general.architecture".to_owned(), Value::String("llama".to_owned())),
        count("embedding_length", WIDTH),
        count("feed_forward_length", FEED_FORWARD),
        count("block_count", 1),
        count("context_length", 2 * DEPTH),
        count("attention.head_count", 32),
        count("attention.head_count_kv", 4),
        key("attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
    ];
    let tensors = shapes.map(|(name, rows, cols, format)| {
        let dims = if rows == 1 { vec![cols as u64] } else { vec![cols as u64, rows as u64] };
        (format!("{name}.weight"), dims, format.type_id)
    });
    let mut writer = GgufWriter::new(&metadata, &tensors).unwrap();
    let mut file = Vec::new();
    writer.write_header(&mut file).unwrap();
    for (_, rows, cols, format) in shapes {
        let data = if rows == 1 { bytemuck::cast_slice(&numbers(cols)).to_vec() } else { matrix(format, rows, cols) };
        writer.write_tensor(&mut file, &data).unwrap();
    }
    Model::new(Gguf::from_bytes(file).unwrap()).unwrap()
}

fn cpu(model: &Model) -> Cpu {
    let sizes = Sizes { context: 2 * DEPTH, batch: CHUNK, logits_rows: 1 };
    let plan = model.plan(Precision::Fast).unwrap();
    Cpu::with_isa(model, plan, sizes, num_cpus::get_physical(), Isa::from_environment().unwrap())
        .expect("a CPU backend")
}

/// Time that `op` takes in `n` batches of `tokens` tokens; matrix products only where the step's name holds `step`.
fn time(cpu: &mut Cpu, n: u64, tokens: usize, op: &str, step: &str) -> Duration {
    let ids: Vec<u32> = (0..tokens as u32).collect();
    let mut sum = Duration::ZERO;
    for _ in 0..n {
        let batch = Batch::checked(&ids, DEPTH, Rows::None, &cpu.limits()).expect("a batch");
        let times = cpu.profile(batch).unwrap();
        sum += times.iter().filter(|t| t.op == op && t.steps[0].part.contains(step)).map(|t| t.time).sum::<Duration>();
    }
    sum
}

/// Gate and up projection, two products of 5632 by 2048, in every format: the dot products.
fn products(c: &mut Criterion) {
    let mut group = c.benchmark_group("matmul");
    for format in FORMATS {
        let model = layer(format);
        let mut cpu = cpu(&model);
        let rows = 2 * FEED_FORWARD;
        for tokens in [1, CHUNK] {
            group.throughput(match tokens {
                1 => Throughput::Bytes((rows * format.row_bytes(WIDTH)) as u64),
                n => Throughput::Elements((n * rows * WIDTH) as u64),
            });
            group.bench_function(BenchmarkId::new(format.name, tokens), |b| {
                b.iter_custom(|n| time(&mut cpu, n, tokens, "matmul", "ffn_gate"));
            });
        }
    }
}

/// The other ops, for a token and for a chunk of a prompt, behind a cache of 512 positions.
fn others(c: &mut Criterion) {
    let model = layer(quant::format_by_name("Q4_0").unwrap());
    let mut cpu = cpu(&model);
    for op in ["rms_norm", "quantize_activations", "rope", "kv_store", "attention", "silu_mul", "add"] {
        let mut group = c.benchmark_group(op);
        for tokens in [1, CHUNK] {
            group.throughput(Throughput::Elements(tokens as u64));
            group.bench_function(BenchmarkId::from_parameter(tokens), |b| {
                b.iter_custom(|n| time(&mut cpu, n, tokens, op, ""));
            });
        }
    }
    let (scores, mut weights) = (numbers(DEPTH), vec![0.0; DEPTH]);
    c.bench_function("softmax/512 scores", |b| b.iter(|| ops::softmax::cpu(&scores, &mut weights)));
}

criterion_group! {
    name = kernels;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(500));
    targets = products, others
}
criterion_main!(kernels);
