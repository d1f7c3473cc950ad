//! Products of many rows with blocks of 256: the CPU's bits from the kernel that the device has for them, which is one for matrix
//! units where there are some. `SAMEBITS_TEST_MATRIX_UNITS=8` demands those of 8 x 8.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::collections::HashMap;

use common::{Random, bits, device, sizes};
use samebits::backend::cpu::{Cpu, Isa};
use samebits::backend::gpu::Gpu;
use samebits::backend::{Backend, Batch, Rows};
use samebits::numerics::Precision;
use samebits::ops;
use samebits::plan::{Builder, Op, Plan, Weight, WeightSource};
use samebits::quant::format_by_name;

const VOCABULARY: usize = 40;

/// Weights that are in no file.
#[derive(Clone, Default)]
struct Made(HashMap<String, Vec<u8>>);

impl WeightSource for Made {
    fn data(&self, weight: &Weight) -> &[u8] {
        self.0.get(&weight.name).map_or(&[], Vec::as_slice)
    }

    fn release(&self, _: &Weight) {}
}

/// Rows of `cols` numbers by token, multiplied with a matrix of `rows` in `format`, with a bias if there are more than 200.
fn product(format: &str, rows: usize, cols: usize) -> (Plan, Made) {
    let (mut plan, mut made, mut random) = (Builder::new(Precision::Fast), Made::default(), Random(cols as u64));
    let mut weight = |plan: &mut Builder, name: &str, format: &str, rows: usize, cols: usize| {
        let format = format_by_name(format).unwrap();
        let mut raw = Vec::new();
        for row in 0..rows {
            let mut bytes = vec![0; format.row_bytes(cols)];
            // Every third row is ones and minus ones, so that sums are as large as they get.
            let mut values = random.floats(cols, -6, 1);
            if row % 3 == 2 {
                values.iter_mut().for_each(|x| *x = x.signum());
            }
            format.quantize(&values, &mut bytes);
            raw.extend(bytes);
        }
        made.0.insert(name.to_owned(), raw);
        plan.weight(Weight { name: name.to_owned(), format, first: 0, rows, cols })
    };
    let (x, y, out) = (plan.buffer("x", cols), plan.buffer("y", rows), plan.wanted_buffer("out", rows));
    let embedding = weight(&mut plan, "embedding", "F32", VOCABULARY, cols);
    let matrix = weight(&mut plan, "matrix", format, rows, cols);
    let bias = (rows > 200).then(|| weight(&mut plan, "bias", "F32", 1, rows));
    plan.step("embedding", Op::Embedding(ops::Embedding { weight: embedding, out: x }));
    plan.matmuls(x, "x", vec![("product", matrix, bias, y)]);
    plan.step("rows", Op::Gather(ops::Gather { x: y, out }));
    (plan.finish(out).unwrap(), made)
}

#[test]
fn products_of_many_rows_with_blocks_of_256_have_the_bits_of_the_cpu() {
    let kind = device().matrix_units;
    println!("matrix units: {}", kind.map_or("none".to_owned(), |units| units.to_string()));
    if let Ok(demanded) = std::env::var("SAMEBITS_TEST_MATRIX_UNITS") {
        assert_eq!(kind.map(|units| units.to_string()), Some(format!("{demanded} x {demanded}")));
    }
    let mut on_units = Vec::new();
    for format in ["Q3_K", "Q4_K", "Q5_K", "Q6_K"] {
        // One lane of a sum, all, some with a block more than others, and two more; rows of no whole tile.
        // Tiles of 64 and of 32 rows, with lanes dealt to eight workgroups or fewer; more rows than the last number that kernels are made for.
        let few = [
            (4, 256, 16),
            (132, 3 * 256, 65),
            (260, 11 * 256, 70),
            (40, 16 * 256, 300),
            (8200, 256, 70),
            (8200, 256, 20),
            (68, 3 * 256, 700),
        ];
        let large =
            [(128, 17 * 256, 64), (260, 21 * 256, 33), (132, 16 * 256, 130), (68, 19 * 256, 17), (132, 16 * 256, 32)];
        for (rows, cols, tokens) in few.into_iter().chain(large) {
            let (plan, weights) = product(format, rows, cols);
            let all = sizes(tokens, tokens);
            let ids: Vec<u32> = (0..tokens).map(|i| (i * 7 % VOCABULARY.min(rows)) as u32).collect();
            let run = |backend: &mut dyn Backend| {
                let batch = Batch::checked(&ids, 0, Rows::All, &backend.limits()).unwrap();
                bits(backend.forward(batch, None).unwrap())
            };
            let expected = run(&mut Cpu::with_isa(&weights, plan.clone(), all, 1, Isa::Scalar).unwrap());
            // Wide rows are quantised in sections, for kernels of few rows, too.
            let few = if cols > 2048 && tokens <= 64 { &[1, 64][..] } else { &[1] };
            for few in few {
                let mut gpu = Gpu::new(device(), &weights, plan.clone(), all, &mut |_| {}).unwrap().few_up_to(*few);
                let got = run(&mut gpu);
                on_units.push(kind.is_some_and(|u| gpu.kernels().iter().any(|k| k.shader.name == u.shader().name)));
                let wrong = got.iter().zip(&expected).filter(|(a, b)| a != b).count();
                let at = got.iter().zip(&expected).position(|(a, b)| a != b);
                assert!(got.len() == tokens * rows && got.iter().any(|w| *w != 0), "{format} {rows} {cols}: nothing");
                assert_eq!((wrong, at), (0, None), "{format}, {rows} x {cols}, {tokens} rows, as few up to {few}");
            }
        }
    }
    assert!(on_units.iter().all(|units| *units == kind.is_some()), "{on_units:?}");
}
