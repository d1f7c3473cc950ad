//! Bit equality: every op on the GPU against the CPU over odd shapes, and whole models however they are run.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::ops::ControlFlow;

use bytemuck::bytes_of;
use common::{Random, bits, most_few, on_cpu, on_gpu, on_gpu_few, on_isa, run_kernel, smollm2, tiny, turn};
use proptest::prelude::*;
use samebits::backend::Sampling;
use samebits::backend::cpu::Isa;
use samebits::backend::gpu::Kernel;
use samebits::engine::{SampleOn, StopReason};
use samebits::model::Model;
use samebits::numerics::{ActivationRow, Precision, f16_bits};
use samebits::ops::{
    self,
    examples::{per_row, scoring},
};
use samebits::quant::FORMATS;
use samebits::sample::{Sampler, SamplerOptions};

fn plain(shader: &'static samebits::shaders::Shader) -> Kernel {
    Kernel::new(shader)
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn rows_gather_softmax_and_argmax(width in 1usize..700, rows in 1usize..4, position in 0usize..50, seed: u64) {
        let _turn = turn();
        let mut random = Random(seed);
        let n = width * rows;
        let a = random.floats(n, -50, 6);
        let (a_bits, zero) = (bits(&a), vec![0u32; n]);
        for (op, e) in per_row(width, rows, position, &mut |n| random.floats(n, -50, 6)) {
            let operands: Vec<&[u32]> = e.operands.iter().map(Vec::as_slice).collect();
            let groups = [e.call.groups, rows as u32, 1];
            let gpu = run_kernel(Kernel::of(&e.call), &e.call.params, position as u32, groups, &operands, e.out);
            prop_assert_eq!(&gpu[..n], e.expected, "{:?}", op);
        }

        let wanted: Vec<u32> = (0..rows as u32).rev().collect();
        let p = ops::gather::Params { width: width as u32 };
        let elements = ops::gather::workgroups(&p, rows as u32);
        let gpu = run_kernel(plain(&ops::gather::SHADER), bytes_of(&p), 0, elements, &[&wanted, &a_bits, &zero], 2);
        let mut gathered = vec![0.0; n];
        ops::gather::cpu(width, &wanted, &a, &mut gathered);
        prop_assert_eq!(&gpu[..n], bits(&gathered));

        let p = ops::softmax::Params { width: width as u32 };
        let groups = ops::softmax::workgroups(&p, rows as u32);
        let gpu = run_kernel(plain(&ops::softmax::SHADER), bytes_of(&p), 0, groups, &[&a_bits, &zero], 1);
        let mut weights = vec![0.0; n];
        a.chunks(width).zip(weights.chunks_mut(width)).for_each(|(a, out)| ops::softmax::cpu(a, out));
        prop_assert_eq!(&gpu[..n], bits(&weights));

        let p = ops::argmax::Params { width: width as u32 };
        let gpu = run_kernel(plain(&ops::argmax::SHADER), bytes_of(&p), 0, groups, &[&a_bits, &zero], 1);
        let cpu: Vec<u32> = a.chunks(width).map(ops::argmax::cpu).collect();
        prop_assert_eq!(&gpu[..rows], cpu);
    }

    #[test]
    fn cache(heads in 1usize..5, half in 1usize..40, rows in 1usize..4, position in 0usize..50, seed: u64) {
        let _turn = turn();
        let mut random = Random(seed);
        let width = heads * 2 * half;
        let x = random.floats(rows * width, -70, 8);
        let p = ops::kv_store::Params { width: width as u32 };
        let groups = ops::kv_store::workgroups(&p, rows as u32);
        let cache = vec![0u32; ops::kv_store::cache_words(position + rows, width)];
        let gpu = run_kernel(plain(&ops::kv_store::SHADER), bytes_of(&p), position as u32, groups, &[&bits(&x), &bits(&x), &cache, &cache], 3);
        let mut stored = vec![0u16; (position + rows) * width];
        x.chunks(width).zip(stored.chunks_mut(width).skip(position)).for_each(|(x, row)| ops::kv_store::cpu(x, row));
        prop_assert_eq!(&gpu[..cache.len()], ops::kv_store::cache_from_rows(&stored, width));
    }

    #[test]
    fn attention(kv_heads in 1usize..4, group in 1usize..4, half in 1usize..40, rows in 1usize..4, position in 0usize..300, seed: u64) {
        let _turn = turn();
        let mut random = Random(seed);
        let (heads, head_dim, context) = (kv_heads * group, 2 * half, position + rows);
        let width = kv_heads * head_dim;
        let mut cache = || -> Vec<u16> { random.floats(context * width, -20, 3).iter().map(|x| f16_bits(*x) as u16).collect() };
        let (k, v) = (cache(), cache());
        let q = random.floats(rows * heads * head_dim, -10, 3);
        let (spec, scoring) = scoring(random.word(), kv_heads, head_dim, context);
        let sinks = if scoring.sinks.is_some() { random.floats(heads, -3, 3) } else { Vec::new() };
        let p = ops::attention::Params::new(heads, spec, scoring, context);
        let words = |rows: &[u16]| ops::kv_store::cache_from_rows(rows, width);
        let (scores, out) = (vec![0u32; rows * heads * context], vec![0u32; q.len()]);
        let bound = if sinks.is_empty() { vec![0] } else { bits(&sinks) };
        let buffers: [&[u32]; 6] = [&bits(&q), &words(&k), &words(&v), &bound, &scores, &out];
        let groups = ops::attention::workgroups(&p, rows as u32);
        let gpu = run_kernel(plain(&ops::attention::SHADER), bytes_of(&p), position as u32, groups, &buffers, 5);
        let mut cpu = vec![0.0; q.len()];
        let mut scores = vec![0.0; context];
        for (i, out) in cpu.chunks_mut(head_dim).enumerate() {
            let (row, head) = (i / heads, i % heads);
            let (count, q) = (position + row + 1, &q[i * head_dim..][..head_dim]);
            let seen = p.first(count).1 * width;
            ops::attention::cpu(&p, head, count, q, &k[seen..], &v[seen..], &sinks, &mut scores, out);
        }
        prop_assert_eq!(&gpu[..cpu.len()], bits(&cpu));
    }

    #[test]
    fn weights_of_every_format(blocks in 1usize..5, rows in 1usize..20, tokens in 1usize..4, odd in 0usize..40, precise: bool, seed: u64) {
        let _turn = turn();
        let mut random = Random(seed);
        let precision = if precise { Precision::Precise } else { Precision::Fast };
        for format in FORMATS {
            let block = format.activation_block();
            // Plain numbers also come in rows that are no multiple of 32.
            let cols = block.map_or(2 * (blocks * 16 + odd), |b| blocks * b.max(32));
            let raw = common_weights(format, rows * cols, &mut random);
            let x = random.floats(tokens * cols, -12, 4);
            let (bytes, streams) = format.split(&raw);
            let mut stored = bytes;
            stored.resize(stored.len().next_multiple_of(16), 0);
            let stored: Vec<u32> = bytemuck::pod_collect_to_vec(&stored);

            // embedding
            let ids: Vec<u32> = (0..tokens).map(|_| random.word() % rows as u32).collect();
            let p = ops::embedding::Params { cols: cols as u32, row_base: 0, rows: rows as u32, block: format.block as u32, streams };
            let kernel = Kernel::new(&ops::embedding::SHADER).format(format);
            let out = vec![0u32; tokens * cols];
            let gpu = run_kernel(kernel, bytes_of(&p), 0, ops::embedding::workgroups(&p, tokens as u32), &[&stored, &stored, &ids, &out], 3);
            let mut cpu = vec![0.0; tokens * cols];
            for (id, out) in ids.iter().zip(cpu.chunks_mut(cols)) {
                let bytes = format.row_bytes(cols);
                ops::embedding::cpu(format, &raw[*id as usize * bytes..][..bytes], out);
            }
            prop_assert_eq!(&gpu[..cpu.len()], bits(&cpu), "embedding {}", format.name);

            // activation quantisation
            let (mut hi, mut lo) = (vec![0i8; tokens * cols], vec![0i8; if precise { tokens * cols } else { 0 }]);
            let mut scale = Vec::new();
            let x_words = match block {
                None => bits(&x),
                Some(b) => {
                    scale.resize(tokens * cols / b, 0.0);
                    for t in 0..tokens {
                        let at = t * cols..(t + 1) * cols;
                        let lo = if precise { &mut lo[at.clone()] } else { &mut [][..] };
                        ops::quantize_activations::cpu(b, precision, &x[at.clone()], &mut hi[at.clone()], lo, &mut scale[t * cols / b..(t + 1) * cols / b]);
                    }
                    let p = ops::quantize_activations::Params::new(cols, b, precision);
                    let kernel = Kernel::new(&ops::quantize_activations::SHADER).precise(precise);
                    let out = vec![0u32; tokens * p.stride as usize];
                    let words = run_kernel(kernel, bytes_of(&p), 0, ops::quantize_activations::workgroups(&p, tokens as u32), &[&bits(&x), &out], 1);
                    for t in 0..tokens {
                        let row = &words[t * p.stride as usize..][..p.stride as usize];
                        let planes: Vec<i8> = bytemuck::cast_slice(&row[..cols / 4]).to_vec();
                        prop_assert_eq!(&planes, &hi[t * cols..(t + 1) * cols], "high plane {}", format.name);
                        let first_scale = cols / 4 * if precise { 2 } else { 1 };
                        prop_assert_eq!(&row[first_scale..][..cols / b], bits(&scale[t * cols / b..(t + 1) * cols / b]));
                    }
                    words
                }
            };

            // matrix product
            let p = ops::matmul::Params {
                cols: cols as u32,
                blocks: cols.div_ceil(block.unwrap_or(32)) as u32,
                block: block.unwrap_or(32) as u32,
                x_stride: block.map_or(cols, |b| ops::quantize_activations::stride(cols, b, precision)) as u32,
                rows: rows as u32,
                row_base: 0,
                out_width: rows as u32,
                has_bias: 1,
                streams,
                first: 0,
            };
            let bias = random.floats(rows, -6, 2);
            let kernel = Kernel::new(&ops::matmul::SHADER).format(format).precise(precise && block.is_some());
            let out = vec![0u32; tokens * rows];
            let buffers: [&[u32]; 6] = [&stored, &stored, &x_words, &x_words, &bits(&bias), &out];
            let gpu = run_kernel(kernel, bytes_of(&p), 0, ops::matmul::workgroups(&p, tokens as u32), &buffers, 5);
            let mut cpu = vec![0.0; tokens * rows];
            for t in 0..tokens {
                let at = t * cols..(t + 1) * cols;
                let row = match block {
                    None => ActivationRow::Float(&x[at]),
                    Some(b) => ActivationRow::Quantized {
                        scale: &scale[t * cols / b..(t + 1) * cols / b],
                        lo: if precise { Some(&lo[at.clone()]) } else { None },
                        hi: &hi[at],
                    },
                };
                for n in 0..rows {
                    let bytes = format.row_bytes(cols);
                    ops::matmul::cpu(format, &raw[n * bytes..][..bytes], &[row], Some(bias[n]), &mut cpu[t * rows + n..][..1]);
                }
            }
            prop_assert_eq!(&gpu[..cpu.len()], bits(&cpu), "matmul {} {:?}", format.name, precision);
        }
    }
}

/// Random bytes with finite scales: every bit of every field, but no exponent of 31 in an f16.
fn common_weights(format: &samebits::quant::Format, n: usize, random: &mut Random) -> Vec<u8> {
    let mut raw: Vec<u8> = (0..n / format.block * format.bytes).map(|_| random.word() as u8).collect();
    for block in raw.chunks_mut(format.bytes) {
        let mut values = vec![0.0; format.block];
        loop {
            format.dequantize(block, &mut values);
            if values.iter().all(|v| v.is_finite() && v.abs() < 1e6) {
                break;
            }
            block.iter_mut().for_each(|b| *b = random.word() as u8);
        }
    }
    raw
}

/// All rows' logits of a prompt, however it is cut and wherever it runs.
fn check_model(model: &Model, prompt: &[u32], precision: Precision, chunks: &[usize], gpu_chunks: &[usize]) {
    let scalar = on_isa(model, precision, 64, 32, 1, Isa::Scalar).feed(prompt, true).unwrap();
    let reference = bits(&scalar);
    for isa in Isa::ALL.into_iter().filter(|p| p.is_available()) {
        let got = bits(&on_isa(model, precision, 64, 19, 2, isa).feed(prompt, true).unwrap());
        assert!(got == reference, "{isa:?}, {precision:?}");
    }
    for threads in [2, 3] {
        for &chunk in chunks {
            let got = bits(&on_cpu(model, precision, 96, chunk, threads).feed(prompt, true).unwrap());
            assert!(got == reference, "CPU, {threads} threads, chunks of {chunk}, {precision:?}");
        }
    }
    let _turn = turn();
    for &chunk in gpu_chunks {
        let mut session = on_gpu_few(model, precision, 48, chunk, most_few(precision));
        for run in 0..2 {
            session.clear();
            let got = bits(&session.feed(prompt, true).unwrap());
            assert!(got == reference, "GPU, run {run}, chunks of {chunk}, {precision:?}");
        }
    }
}

#[test]
fn tiny_models() {
    let prompt: Vec<u32> = (0..37).map(|i| (i * 53 + 7) % 259).collect();
    let mut files: Vec<_> = std::fs::read_dir(common::data("tiny")).unwrap().map(|e| e.unwrap().file_name()).collect();
    files.sort();
    for file in files.iter().filter_map(|f| f.to_str()).filter(|f| f.ends_with(".gguf")) {
        println!("{file}");
        for precision in [Precision::Fast, Precision::Precise] {
            check_model(&tiny(file), &prompt, precision, &[1, 7, 32], &[1, 32]);
        }
    }
}

#[test]
fn smollm2_in_chunks() {
    let model = smollm2();
    let prompt: Vec<u32> = (0..36).map(|i| (i * 977 + 504) % 49152).collect();
    check_model(&model, &prompt, Precision::Fast, &[7, 32], &[7, 32]);
    check_model(&model, &prompt[..9], Precision::Precise, &[1], &[1]);
}

/// Attention of a single token changes with the length of the cache: more threads from 256 positions on; where the device has no
/// memory for more, two kernels from 512 on, several rounds from 1024 on.
#[test]
fn long_caches() {
    let model = tiny("tiny-q4_k.gguf");
    let id = |position: usize| (position as u32 * 53 + 7) % 259;
    let mut cpu = on_cpu(&model, Precision::Fast, 1040, 64, 2);
    let _turn = turn();
    let mut gpu = on_gpu(&model, Precision::Fast, 1040, 128);
    let mut fed = 0;
    for change in [256, 512, 1024] {
        let prompt: Vec<u32> = (fed..change - 3).map(id).collect();
        let reference = bits(&cpu.feed(&prompt, false).unwrap());
        assert!(bits(&gpu.feed(&prompt, false).unwrap()) == reference, "many rows up to {change}");
        fed = change + 3;
        for position in change - 3..fed {
            let reference = bits(&cpu.feed(&[id(position)], false).unwrap());
            assert!(bits(&gpu.feed(&[id(position)], false).unwrap()) == reference, "position {position}");
        }
    }
}

/// Where passes are alike, the next is recorded ahead: over a change of attention's kernels, back to earlier positions, with other numbers of rows.
#[test]
fn passes_of_a_few_rows_in_turn() {
    let model = tiny("tiny-q4_k.gguf");
    let ids: Vec<u32> = (0..320).map(|position| (position * 53 + 7) % 259).collect();
    let all = on_cpu(&model, Precision::Fast, 320, 64, 2).feed(&ids, true).unwrap();
    let width = all.len() / ids.len();
    let _turn = turn();
    let mut gpu = on_gpu(&model, Precision::Fast, 320, 64);
    for first in [0, 230, 247, 3, 255, 241] {
        let mut at = gpu.truncate(first);
        if at < first {
            gpu.feed(&ids[at..first], false).unwrap();
            at = first;
        }
        let passes = [(3, true, 4), (4, false, 3), (5, false, 1), (4, true, 4), (3, true, 3)];
        for (rows, every) in
            passes.into_iter().flat_map(|(rows, every, times)| std::iter::repeat_n((rows, every), times))
        {
            let got = bits(&gpu.feed(&ids[at..at + rows], every).unwrap());
            at += rows;
            let seen = if every { rows } else { 1 };
            assert!(got == bits(&all[width * (at - seen)..width * at]), "{rows} rows before position {at}");
        }
    }
}

/// Tokens that the device draws are those that the sampler draws from the same logits, with ties and cuts of every kind.
#[test]
fn drawn_tokens() {
    let _turn = turn();
    let mut random = Random(11);
    for case in 0..60 {
        let width = [1, 3, 40, 257, 3149][case % 5];
        // Few levels, so that many logits are equal.
        let levels = [3, 50, 100_000][case % 3];
        let logits: Vec<f32> =
            (0..width).map(|_| (random.word() % levels) as f32 * 12.0 / levels as f32 - 6.0).collect();
        let top_k = [1, 2, 40, 256][random.word() as usize % 4];
        let (top_p, min_p) =
            ([1.0, 0.9, 0.3][random.word() as usize % 3], [0.0, 0.05, 0.7][random.word() as usize % 3]);
        let options = ops::draw::Options::new([0.1, 0.8, 5.0][random.word() as usize % 3], top_k, top_p, min_p);
        assert!(options.on_device());
        for draw in [0.0, 0.25, (random.word() >> 8) as f32 / 16_777_216.0, 16_777_215.0 / 16_777_216.0] {
            let p = ops::draw::Params { width: width as u32 };
            let buffers = [&bits(&logits)[..], &[0; 4], bytemuck::cast_slice(bytes_of(&options)), &[draw.to_bits(); 4]];
            let gpu = run_kernel(plain(&ops::draw::SHADER), bytes_of(&p), 0, [1, 1, 1], &buffers, 1)[0];
            let cpu = ops::draw::cpu(&logits, &options, draw);
            assert_eq!(gpu, cpu, "{width} logits, {levels} levels, {options:?}, draw {draw}");
        }
    }
}

/// So is a whole run, which works ahead, wherever it is stopped; a sampler that cannot be had on the device gives the same.
#[test]
fn sampled_runs() {
    let model = tiny("tiny-q4_k.gguf");
    let sampler = |top_k| {
        Sampler::new(SamplerOptions { temperature: 1.1, top_k, min_p: 0.01, seed: 5, ..SamplerOptions::GREEDY })
    };
    let run = |session: &mut samebits::engine::Session, top_k, stop: usize| {
        session.clear();
        let mut sampler = sampler(top_k);
        let mut count = 0;
        let emit = |_: u32, _: &[f32]| {
            count += 1;
            if count < stop { ControlFlow::Continue(()) } else { ControlFlow::Break(StopReason::Interrupted) }
        };
        let options = sampler.draw_options().unwrap();
        let mut draw = || sampler.next_draw();
        let choice = SampleOn::Backend(Sampling::Draw(options, &mut draw));
        let g = session.generate(&[3, 1, 4], 50, choice, |_| false, emit).unwrap();
        (g.tokens, g.logits_hash)
    };
    let by_hand = |session: &mut samebits::engine::Session, top_k| {
        session.clear();
        let mut sampler = sampler(top_k);
        let mut by = |logits: &[f32], history: &[u32]| sampler.sample(logits, history, None);
        let g = session
            .generate(&[3, 1, 4], 50, SampleOn::Host(&mut by), |_| false, |_, _| ControlFlow::Continue(()))
            .unwrap();
        (g.tokens, g.logits_hash)
    };
    let mut cpu = on_cpu(&model, Precision::Fast, 64, 16, 2);
    let _turn = turn();
    let mut gpu = on_gpu(&model, Precision::Fast, 64, 16);
    for top_k in [0, 1, 40, 256] {
        let reference = by_hand(&mut cpu, top_k);
        assert_eq!(run(&mut cpu, top_k, 50), reference, "CPU, top_k {top_k}");
        assert_eq!(run(&mut gpu, top_k, 50), reference, "GPU, top_k {top_k}");
        assert_eq!(run(&mut gpu, top_k, 13).0, reference.0[..13], "stopped after 13");
    }
}

/// A backend that works ahead hears and leaves what one token at a time does, wherever it is stopped.
#[test]
fn greedy_runs() {
    let model = tiny("tiny-q4_k.gguf");
    let prompt: Vec<u32> = (0..9).map(|i| (i * 53 + 7) % 259).collect();
    let run = |session: &mut samebits::engine::Session, stop: usize| {
        session.clear();
        session.feed(&prompt, false).unwrap();
        let mut heard = Vec::new();
        let mut hear = |id: u32, logits: &[f32]| {
            heard.push((id, bits(logits)));
            heard.len() < stop
        };
        session.run(7, 50, Sampling::Greedy, true, &mut hear).unwrap();
        let fed = session.tokens().len();
        (heard, fed, bits(&session.feed(&[3], false).unwrap()))
    };
    let mut cpu = on_cpu(&model, Precision::Fast, 64, 16, 2);
    let _turn = turn();
    let mut gpu = on_gpu(&model, Precision::Fast, 64, 16);
    for stop in [1, 2, 9, 30, 50] {
        let (heard, fed, after) = run(&mut cpu, stop);
        assert_eq!(heard.len(), stop);
        assert!(run(&mut gpu, stop) == (heard, fed, after), "stopped after {stop}");
    }
}
