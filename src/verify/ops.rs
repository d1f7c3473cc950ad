//! Every op on the GPU against the CPU: random and adversarial numbers, odd shapes.

use std::collections::BTreeSet;

use bytemuck::bytes_of;

use super::{Difference, Rung, VerifyError};
use crate::backend::BackendError;
use crate::backend::gpu::{Device, Kernel};
use crate::ops;
use crate::ops::examples::{self, Example, bits};
use crate::quant::{CHUNK, Format};
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

impl From<Example> for Case {
    fn from(example: Example) -> Self {
        let Example { call, rows, position, shape, operands, out, expected } = example;
        let kernel = Kernel::of(&call);
        let groups = [call.groups, rows as u32, 1];
        Self { kernel, shape, params: call.params, position: position as u32, groups, buffers: operands, out, expected }
    }
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

/// The examples of every op, and those of functions of rows that no plan has a step for.
pub(crate) fn cases(random: &mut Random) -> Vec<Case> {
    let mut all: Vec<_> = examples::all(&mut |n| random.floats(n)).into_iter().map(Case::from).collect();
    for (width, rows) in [(1, 2), (31, 2), (64, 2), (257, 3), (2080, 1)] {
        let x = random.floats(width * rows);
        all.push(softmax(&x, width, format!("[{rows}, {width}]")));
        let p = ops::argmax::Params { width: width as u32 };
        all.push(Case {
            kernel: plain(&ops::argmax::SHADER),
            shape: format!("[{rows}, {width}]"),
            params: bytes_of(&p).to_vec(),
            position: 0,
            groups: ops::argmax::workgroups(&p, rows as u32),
            buffers: vec![bits(&x), vec![0; rows]],
            out: 1,
            expected: x.chunks(width).map(ops::argmax::cpu).collect(),
        });
    }
    // The last of three dimensions, as attention scores have them: `[heads, tokens, positions]`.
    all.push(softmax(&random.floats(3 * 5 * 77), 77, "[3, 5, 77]".to_owned()));
    all
}

fn softmax(x: &[f32], width: usize, shape: String) -> Case {
    let mut expected = vec![0.0; x.len()];
    x.chunks(width).zip(expected.chunks_mut(width)).for_each(|(x, out)| ops::softmax::cpu(x, out));
    let p = ops::softmax::Params { width: width as u32 };
    Case {
        kernel: plain(&ops::softmax::SHADER),
        shape,
        params: bytes_of(&p).to_vec(),
        position: 0,
        groups: ops::softmax::workgroups(&p, (x.len() / width) as u32),
        buffers: vec![bits(x), vec![0; x.len()]],
        out: 1,
        expected: bits(&expected),
    }
}

/// Two rows of two blocks of a format, for the self-test.
pub(super) fn unpacking(format: &'static Format) -> Option<Case> {
    let cols = 2 * format.block.max(CHUNK);
    let mut random = Random(1);
    ops::embedding::example(&mut |n| random.floats(n), format, 2, cols).map(Case::from)
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
