//! Every op on the GPU against the CPU: random and adversarial numbers, odd shapes.

use std::collections::BTreeSet;

use bytemuck::bytes_of;

use super::{Difference, Rung, VerifyError};
use crate::backend::BackendError;
use crate::backend::gpu::{Device, Kernel, weights};
use crate::numerics::{ActivationRow, Precision, f16_bits};
use crate::ops::attention::Scoring;
use crate::ops::shapes::{CacheSpec, WeightId};
use crate::ops::{self, examples::examples};
use crate::quant::{FORMATS, Format};
use crate::shaders::Shader;
use crate::shaders::params::State;

/// One dispatch and the words it must give.
pub(crate) struct Case {
    pub kernel: Kernel,
    /// The shape of its operands, for reports.
    pub shape: String,
    pub params: Vec<u8>,
    pub position: u32,
    pub groups: [u32; 3],
    pub buffers: Vec<Vec<u32>>,
    /// Which buffer is the result.
    pub out: usize,
    pub expected: Vec<u32>,
}

impl Case {
    /// The state, binding 0.
    pub fn state(&self) -> State {
        State { position: self.position, rows: self.groups[1], ..State::default() }
    }
}

/// Runs `rounds` rounds of cases; the first that differs is named.
pub(super) fn verify(device: &mut Device, rounds: u64) -> Result<Rung, VerifyError> {
    let (mut count, mut elements, mut ops) = (0, 0, BTreeSet::new());
    for round in 0..rounds {
        for case in cases(&mut Random(round)) {
            let got = run(device, &case)?;
            count += 1;
            ops.insert(case.kernel.shader.name);
            elements += case.expected.len();
            if got != case.expected {
                let name = case.kernel.name();
                let floats = !["argmax", "kv_store", "quantize_activations"].contains(&case.kernel.shader.name);
                let place = format!("op {name} {}", case.shape);
                let difference = Difference { place, file: format!("op.{name}"), floats, words: [case.expected, got] };
                let detail = difference.describe();
                return Ok(Rung { name: "ops, GPU = CPU", holds: false, detail, difference: Some(difference) });
            }
        }
    }
    let detail = format!("{count} dispatches of {} ops, {elements} elements: the same bits", ops.len());
    Ok(Rung { name: "ops, GPU = CPU", holds: true, detail, difference: None })
}

/// Runs a case; gives the words of its result.
pub(super) fn run(device: &mut Device, case: &Case) -> Result<Vec<u32>, BackendError> {
    let pipeline = device.pipeline(&case.kernel)?;
    let state = device.upload("state", bytes_of(&case.state()))?;
    let params = device.uniform("params", &case.params)?;
    let buffers = case
        .buffers
        .iter()
        .map(|b| device.upload("operand", bytemuck::cast_slice(b)))
        .collect::<Result<Vec<_>, _>>()?;
    let bindings = device.bind(&pipeline, &[&state, &params].into_iter().chain(&buffers).collect::<Vec<_>>());
    let mut encoder = device.device.create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(pipeline.code()?);
        pass.set_bind_group(0, &bindings, &[0]);
        pass.dispatch_workgroups(case.groups[0], case.groups[1], case.groups[2]);
    }
    device.queue.submit([encoder.finish()]);
    device.read(&buffers[case.out], 0, case.expected.len())
}

pub(super) fn plain(shader: &'static Shader) -> Kernel {
    Kernel::new(shader)
}

/// A dispatch of every op with operands of every kind.
pub(crate) fn cases(random: &mut Random) -> Vec<Case> {
    let mut all = Vec::new();
    for (width, rows) in [(1, 2), (31, 2), (64, 2), (257, 3), (2080, 1)] {
        elementwise(random, width, rows, &mut all);
    }
    softmax_3d(random, [3, 5, 77], &mut all);
    // One head; one key head for all queries; odd sizes; SmolLM2's and TinyLlama's heads; more positions than a pass takes.
    for (kv_heads, group, head_dim, position) in
        [(1, 1, 2, 37), (1, 4, 32, 37), (2, 3, 30, 37), (3, 3, 64, 37), (4, 8, 64, 5), (1, 2, 2, 2100)]
    {
        let spec = CacheSpec { kv_heads, head_dim, window: None };
        heads(random, group, spec, Scoring::usual(head_dim), position, &mut all);
    }
    // Windows, one of them longer than the cache; scores that are capped; a score without a value.
    for (window, cap, sinks) in [(Some(9), None, false), (Some(300), Some(30.0), true), (None, Some(2.5), true)] {
        let spec = CacheSpec { kv_heads: 2, head_dim: 34, window };
        let scoring = Scoring { divisor: 3.0, cap, sinks: sinks.then_some(WeightId(0)) };
        heads(random, 2, spec, scoring, 290, &mut all);
    }
    for format in FORMATS {
        for precision in [Precision::Fast, Precision::Precise] {
            matrices(random, format, precision, 3, &mut all);
        }
    }
    // More terms than a workgroup adds at once.
    if let Some(format) = FORMATS.iter().find(|f| f.activation_block() == Some(32)) {
        matrices(random, format, Precision::Fast, 67, &mut all);
    }
    all
}

/// A function of a row of each operand.
type PerRow<'a> = &'a dyn Fn(&[f32], &[f32], &mut [f32]);

fn elementwise(random: &mut Random, width: usize, rows: usize, all: &mut Vec<Case>) {
    let n = width * rows;
    let (a, b) = (random.floats(n), random.floats(n));
    let zero = vec![0u32; n];
    let w = width as u32;
    let groups = |x: u32| [x.div_ceil(ops::THREADS), rows as u32, 1];
    let per_row = |f: PerRow<'_>| {
        let mut out = vec![0.0; n];
        for ((a, b), out) in a.chunks(width).zip(b.chunks(width)).zip(out.chunks_mut(width)) {
            f(a, b, out);
        }
        bits(&out)
    };
    let mut add = |shader, params: &[u8], groups, buffers, out, expected| {
        let (kernel, shape, params) = (plain(shader), format!("[{rows}, {width}]"), params.to_vec());
        all.push(Case { kernel, shape, params, position: 0, groups, buffers, out, expected });
    };
    let p = ops::gather::Params { width: w };
    let wanted: Vec<u32> = (0..rows as u32).rev().collect();
    let mut gathered = vec![0.0; n];
    ops::gather::cpu(width, &wanted, &a, &mut gathered);
    let buffers = vec![wanted, bits(&a), zero.clone()];
    add(&ops::gather::SHADER, bytes_of(&p), groups(w), buffers, 2, bits(&gathered));
    let expected = per_row(&|a, _, out| ops::softmax::cpu(a, out));
    add(&ops::softmax::SHADER, bytes_of(&p), [1, rows as u32, 1], vec![bits(&a), zero.clone()], 1, expected);
    let expected = a.chunks(width).map(ops::argmax::cpu).collect();
    add(&ops::argmax::SHADER, bytes_of(&p), [1, rows as u32, 1], vec![bits(&a), zero.clone()], 1, expected);
    for (_, example) in examples(width, rows, 37, &mut |n| random.floats(n)) {
        let kernel = Kernel { format: example.call.format, ..plain(example.call.shader) };
        all.push(Case {
            kernel,
            shape: format!("[{rows}, {width}]"),
            params: example.call.params,
            position: 37,
            groups: [example.call.groups, rows as u32, 1],
            buffers: example.operands,
            out: example.out,
            expected: example.expected,
        });
    }
}

/// Softmax over the last of three dimensions, as attention scores have them: `[heads, tokens, positions]`.
fn softmax_3d(random: &mut Random, [heads, tokens, width]: [usize; 3], all: &mut Vec<Case>) {
    let rows = heads * tokens;
    let x = random.floats(rows * width);
    let mut expected = vec![0.0; x.len()];
    x.chunks(width).zip(expected.chunks_mut(width)).for_each(|(x, out)| ops::softmax::cpu(x, out));
    let p = ops::softmax::Params { width: width as u32 };
    all.push(Case {
        kernel: plain(&ops::softmax::SHADER),
        shape: format!("[{heads}, {tokens}, {width}]"),
        params: bytes_of(&p).to_vec(),
        position: 0,
        groups: ops::softmax::workgroups(&p, rows as u32),
        buffers: vec![bits(&x), vec![0; x.len()]],
        out: 1,
        expected: bits(&expected),
    });
}

fn heads(random: &mut Random, group: usize, spec: CacheSpec, scoring: Scoring, position: usize, all: &mut Vec<Case>) {
    let (rows, CacheSpec { kv_heads, head_dim, window }) = (2, spec);
    let (heads, context, width) = (kv_heads * group, position + rows, kv_heads * head_dim);
    let mut add = |shader, params: &[u8], groups, buffers, out, expected| {
        let (kernel, params, at) = (plain(shader), params.to_vec(), position as u32);
        let shape = format!("[{rows}, {heads} heads on {kv_heads}, {head_dim}] at position {position}");
        let shape = window.map_or(shape.clone(), |window| format!("{shape}, window {window}"));
        all.push(Case { kernel, shape, params, position: at, groups, buffers, out, expected });
    };
    let x = random.floats(rows * width);
    let p = ops::kv_store::Params { width: width as u32 };
    let mut cache = vec![0u16; context * width];
    ops::kv_store::cpu(&x, &mut cache[position * width..]);
    let expected = ops::kv_store::cache_from_rows(&cache, width);
    let empty = vec![0u32; expected.len()];
    let buffers = vec![bits(&x), bits(&x), empty.clone(), empty];
    add(&ops::kv_store::SHADER, bytes_of(&p), ops::kv_store::workgroups(&p, rows as u32), buffers, 3, expected);

    let mut cache = || random.floats(context * width).iter().map(|x| f16_bits(x * 0.1) as u16).collect::<Vec<_>>();
    let (k, v) = (cache(), cache());
    let cached = |rows: &[u16]| ops::kv_store::cache_from_rows(rows, width);
    let q = random.floats(rows * heads * head_dim);
    let p = ops::attention::Params::new(heads, spec, scoring, context);
    let sinks = if scoring.sinks.is_some() { random.floats(heads) } else { Vec::new() };
    let mut expected = vec![0.0; q.len()];
    let mut scores = vec![0.0; context];
    for (i, out) in expected.chunks_mut(head_dim).enumerate() {
        let (row, head) = (i / heads, i % heads);
        ops::attention::cpu(
            &p,
            head,
            position + row + 1,
            &q[i * head_dim..][..head_dim],
            &k,
            &v,
            &sinks,
            &mut scores,
            out,
        );
    }
    let sinks = if sinks.is_empty() { vec![0] } else { bits(&sinks) };
    let buffers = vec![bits(&q), cached(&k), cached(&v), sinks, vec![0; rows * heads * context], vec![0; q.len()]];
    let groups = ops::attention::workgroups(&p, rows as u32);
    add(&ops::attention::SHADER, bytes_of(&p), groups, buffers, 5, bits(&expected));
}

/// A matrix of random numbers, as a file has it and as the GPU.
struct Matrix {
    rows: usize,
    cols: usize,
    raw: Vec<u8>,
    stored: Vec<u32>,
    streams: [u32; 4],
}

impl Matrix {
    fn random(random: &mut Random, format: &Format, rows: usize, cols: usize) -> Self {
        let mut raw = vec![0u8; rows * format.row_bytes(cols)];
        let numbers: Vec<f32> = random.floats(rows * cols).iter().map(|x| x.clamp(-60.0, 60.0)).collect();
        format.quantize(&numbers, &mut raw);
        let (mut stored, streams) = weights::split(format, &raw);
        stored.resize(stored.len().next_multiple_of(16) + 16, 0);
        let stored = stored.chunks(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        Self { rows, cols, raw, stored, streams }
    }
}

/// The last row of a matrix and the first, by their ids.
fn embedding(format: &'static Format, m: &Matrix) -> Case {
    let &Matrix { rows, cols, streams, .. } = m;
    let ids = vec![rows as u32 - 1, 0];
    let p = ops::embedding::Params::new(format, cols, 0, rows, streams);
    let mut expected = vec![0.0; ids.len() * cols];
    for (id, out) in ids.iter().zip(expected.chunks_mut(cols)) {
        let bytes = format.row_bytes(cols);
        ops::embedding::cpu(format, &m.raw[*id as usize * bytes..][..bytes], out);
    }
    Case {
        kernel: Kernel::new(&ops::embedding::SHADER).format(format),
        shape: format!("[{}] of [{rows}, {cols}]", ids.len()),
        params: bytes_of(&p).to_vec(),
        position: 0,
        groups: ops::embedding::workgroups(&p, ids.len() as u32),
        buffers: vec![m.stored.clone(), m.stored.clone(), ids, vec![0; expected.len()]],
        out: 3,
        expected: bits(&expected),
    }
}

/// Two rows of two blocks, for the self-test.
pub(super) fn unpacking(format: &'static Format) -> Case {
    embedding(format, &Matrix::random(&mut Random(1), format, 2, 2 * format.block.max(crate::quant::CHUNK)))
}

/// Embedding, quantisation of activations and matrix product.
fn matrices(random: &mut Random, format: &'static Format, precision: Precision, blocks: usize, all: &mut Vec<Case>) {
    let (rows, tokens) = (11, 2);
    let block = format.activation_block();
    let cols = block.map_or(74, |b| blocks * b);
    let matrix = Matrix::random(random, format, rows, cols);
    let precise = block.is_some() && precision == Precision::Precise;
    let x = random.floats(tokens * cols);
    let (mut hi, mut lo) = (vec![0i8; x.len()], vec![0i8; if precise { x.len() } else { 0 }]);
    let mut scale = vec![0.0; x.len() / block.unwrap_or(x.len())];
    let mut words = bits(&x);
    if let Some(b) = block {
        ops::quantize_activations::cpu(b, precision, &x, &mut hi, &mut lo, &mut scale);
        let p = ops::quantize_activations::Params::new(cols, b, precision);
        words.clear();
        for t in 0..tokens {
            for plane in [&hi, &lo] {
                let row = plane.get(t * cols..(t + 1) * cols).unwrap_or_default();
                words.extend(row.chunks(4).map(|q| u32::from_le_bytes([q[0], q[1], q[2], q[3]].map(|q| q as u8))));
            }
            words.extend(scale[t * cols / b..(t + 1) * cols / b].iter().map(|s| s.to_bits()));
            words.resize((t + 1) * p.stride as usize, 0);
        }
        let kernel = Kernel::new(&ops::quantize_activations::SHADER).precise(precise);
        let groups = ops::quantize_activations::workgroups(&p, tokens as u32);
        let buffers = vec![bits(&x), vec![0; words.len()]];
        let (params, expected) = (bytes_of(&p).to_vec(), words.clone());
        let shape = format!("[{tokens}, {cols}]");
        all.push(Case { kernel, shape, params, position: 0, groups, buffers, out: 1, expected });
    }
    all.push(embedding(format, &matrix));

    let Matrix { raw, stored, streams, .. } = matrix;
    let term = block.unwrap_or(crate::quant::CHUNK);
    let p = ops::matmul::Params {
        cols: cols as u32,
        blocks: cols.div_ceil(term) as u32,
        block: term as u32,
        x_stride: (words.len() / tokens) as u32,
        rows: rows as u32,
        row_base: 0,
        out_width: rows as u32,
        has_bias: 1,
        streams,
        first: 0,
    };
    let bias = random.floats(rows);
    let mut expected = vec![0.0; tokens * rows];
    for (i, out) in expected.chunks_mut(1).enumerate() {
        let (t, n) = (i / rows, i % rows);
        let at = t * cols..(t + 1) * cols;
        let row = match block {
            None => ActivationRow::Float(&x[at]),
            Some(b) => ActivationRow::Quantized {
                scale: &scale[at.start / b..at.end / b],
                lo: if precise { Some(&lo[at.clone()]) } else { None },
                hi: &hi[at],
            },
        };
        let bytes = format.row_bytes(cols);
        ops::matmul::cpu(format, &raw[n * bytes..][..bytes], &[row], Some(bias[n]), out);
    }
    let kernel = Kernel::new(&ops::matmul::SHADER).format(format).precise(precise);
    let groups = ops::matmul::workgroups(&p, tokens as u32);
    let buffers = vec![stored.clone(), stored, words.clone(), words, bits(&bias), vec![0; tokens * rows]];
    let (params, expected) = (bytes_of(&p).to_vec(), bits(&expected));
    let shape = format!("[{tokens}, {cols}] times [{rows}, {cols}]");
    all.push(Case { kernel, shape, params, position: 0, groups, buffers, out: 5, expected });
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

/// SplitMix64 (Steele et al. 2014).
pub(crate) struct Random(pub u64);

impl Random {
    pub fn word(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 32) as u32
    }

    /// Mostly numbers as models have them; some zeros, tiny and large ones.
    pub fn floats(&mut self, n: usize) -> Vec<f32> {
        let mut float = || {
            let word = self.word();
            let exponent = match word % 16 {
                0 => return if word & 16 == 0 { 0.0 } else { -0.0 },
                1 => 127 - 70 + self.word() % 40,
                2 => 127 + self.word() % 8,
                _ => 127 - 6 + self.word() % 6,
            };
            f32::from_bits((self.word() & 0x807f_ffff) | exponent << 23)
        };
        (0..n).map(|_| float()).collect()
    }
}
