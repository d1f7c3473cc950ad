//! Tensors: equal bits on the CPU and on a GPU, views, refusals, faults; and results for `scripts/tensor.py`, which compares them with
//! NumPy's in double precision.
#![allow(clippy::unwrap_used, missing_docs)]

use std::fmt::Write as _;
use std::path::Path;

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use samebits::backend::gpu::AdapterOptions;
use samebits::gguf::Gguf;
use samebits::numerics::Precision;
use samebits::tensor::{Dtype, Space, Tensor, TensorError};
use samebits::verify::tensors::verify;
use serde_json::{Value, json};

/// A space on the CPU and on a GPU that compares every op.
fn both() -> Space {
    Space::both(&AdapterOptions::default()).unwrap()
}

#[test]
fn views_and_ops_are_what_numpy_has() {
    let space = both();
    let x = space.tensor(&[2, 3], &[1.0, -2.0, 3.0, 4.0, 5.5, -6.0]).unwrap();
    let y = x.transpose(0, 1).unwrap();
    assert_eq!(y.to_vec().unwrap(), [1.0, 4.0, -2.0, 5.5, 3.0, -6.0]);
    assert_eq!(y.reshape(&[-1]).unwrap().to_vec().unwrap(), [1.0, 4.0, -2.0, 5.5, 3.0, -6.0]);
    assert_eq!(x.slice(1, None, None, -1).unwrap().to_vec().unwrap(), [3.0, -2.0, 1.0, -6.0, 5.5, 4.0]);
    let row = space.tensor(&[3], &[10.0, 20.0, 30.0]).unwrap();
    assert_eq!(x.add(&row).unwrap().to_vec().unwrap(), [11.0, 18.0, 33.0, 14.0, 25.5, 24.0]);
    assert_eq!(x.sum(&[0], false).unwrap().to_vec().unwrap(), [5.0, 3.5, -3.0]);
    assert_eq!(x.argmax(1).unwrap().to_vec().unwrap(), [2.0, 1.0]);
    let (best, places) = x.topk(2, 1).unwrap();
    assert_eq!(best.to_vec().unwrap(), [3.0, 1.0, 5.5, 4.0]);
    assert_eq!(places.to_vec().unwrap(), [2.0, 0.0, 1.0, 0.0]);
    assert_eq!(x.cumsum(1).unwrap().to_vec().unwrap(), [1.0, -1.0, 2.0, 4.0, 9.5, 3.5]);
    assert_eq!(space.einsum("ij,kj->ik", &[&x, &x]).unwrap().to_vec().unwrap(), [14.0, -25.0, -25.0, 82.25]);
    assert_eq!(x.matmul(&y).unwrap().to_vec().unwrap(), [14.0, -25.0, -25.0, 82.25]);
    assert_eq!(Tensor::concat(&[&x, &x], 1).unwrap().shape(), [2, 6]);
    assert_eq!(x.div(&space.scalar(3.0)).unwrap().to_vec().unwrap()[5], -2.0);
    assert_eq!(space.scalar(2.0).powi(-3).unwrap().item().unwrap(), 0.125);
    let places = space.integers(&[2], &[1, -1]).unwrap();
    assert_eq!(x.take(&places, 1).unwrap().to_vec().unwrap(), [-2.0, 3.0, 5.5, -6.0]);
    assert_eq!(places.one_hot(3).unwrap().to_vec().unwrap(), [0.0, 1.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(space.arange(4).unwrap().dtype(), Dtype::I32);
}

/// The same that `samebits verify --ops` runs: every op, shapes of up to four axes.
#[test]
fn every_op_has_the_same_bits_on_a_gpu() {
    let verdicts = verify(&both(), 11).unwrap();
    for verdict in &verdicts {
        assert_eq!(verdict.differs, None, "{}", verdict.op);
    }
    let ops: Vec<_> = verdicts.iter().map(|v| v.op).collect();
    for op in ["add", "einsum", "matmul", "softmax", "linear", "attention", "rope", "topk", "cumsum", "gather", "where"]
    {
        assert!(ops.contains(&op), "{op} is missing among {ops:?}");
    }
}

/// Every f32 has the right quotient and the right root: neighbours of powers of two, halves of units, and random ones.
#[test]
fn quotients_and_roots_are_correctly_rounded() {
    let space = both();
    let mut words: Vec<u32> = Vec::new();
    for exponent in [28, 60, 100, 126, 127, 128, 129, 200, 253] {
        for mantissa in
            [0, 1, 2, 3, 0x3f_ffff, 0x40_0000, 0x40_0001, 0x7f_fffe, 0x7f_ffff, 0x2a_aaab, 0x35_04f3, 0x35_04f4]
        {
            words.push(exponent << 23 | mantissa);
        }
    }
    let mut state = 1u32;
    for _ in 0..4000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        words.push(state % (226 << 23) + (28 << 23));
    }
    let numbers: Vec<f32> = words.iter().map(|word| f32::from_bits(*word)).collect();
    let n = numbers.len();
    let x = space.tensor(&[n], &numbers).unwrap();
    let settled = |x: f32| if x.abs() < 2f32.powi(-100) { 0.0 } else { x };
    let roots: Vec<f32> = numbers.iter().map(|x| settled(x.sqrt())).collect();
    assert_eq!(x.sqrt().unwrap().to_vec().unwrap(), roots);
    // Quotients of magnitudes within 2^±60, so that all are finite.
    let near: Vec<f32> = numbers.iter().copied().filter(|x| (-60.0..60.0).contains(&x.log2())).collect();
    let turned: Vec<f32> = near.iter().rev().map(|x| -x).collect();
    let (a, b) = (space.tensor(&[near.len()], &near).unwrap(), space.tensor(&[near.len()], &turned).unwrap());
    let quotients: Vec<f32> = near.iter().zip(&turned).map(|(a, b)| settled(a / b)).collect();
    assert_eq!(a.div(&b).unwrap().to_vec().unwrap(), quotients);
}

/// What has no value is the same error on both sides, and names its op.
#[test]
fn faults_are_the_same_on_both_sides() {
    type Op = fn(&Space) -> Result<Tensor, TensorError>;
    let faults: [(&str, Op); 12] = [
        ("ln", |s| s.scalar(-1.0).ln()),
        ("ln", |s| s.scalar(0.0).ln()),
        ("sqrt", |s| s.scalar(-2.0).sqrt()),
        ("rsqrt", |s| s.scalar(-2.0).rsqrt()),
        ("recip", |s| s.scalar(0.0).recip()),
        ("div", |s| s.scalar(0.0).div(&s.scalar(0.0))),
        ("exp", |s| s.scalar(88.5).exp()),
        ("mul", |s| s.scalar(1e30).mul(&s.scalar(1e30))),
        ("pow", |s| s.scalar(1e30).powi(-3)?.powi(-2)),
        ("i32", |s| s.scalar(3e9).int()),
        ("gather", |s| s.full(&[3], 1.0)?.take(&s.integers(&[1], &[3])?, 0)),
        ("einsum", |s| s.einsum("i,i", &[&s.full(&[2], 3e38)?, &s.full(&[2], 3e38)?])),
    ];
    let gpu = Space::gpu(&AdapterOptions::default()).unwrap();
    for (op, f) in faults {
        let [cpu, gpu] =
            [Space::cpu().unwrap(), gpu.clone()].map(|space| f(&space).and_then(|t| t.to_vec()).unwrap_err());
        assert_eq!(cpu.to_string(), gpu.to_string());
        assert!(cpu.to_string().starts_with(&format!("{op}: ")), "{cpu}");
    }
    // The next op runs.
    assert_eq!(gpu.scalar(2.0).add(&gpu.scalar(1.0)).unwrap().item().unwrap(), 3.0);
}

#[test]
fn what_does_not_fit_is_refused_in_one_line() {
    let space = both();
    let x = space.full(&[2, 3], 1.0).unwrap();
    let refused: [(&str, Result<Tensor, TensorError>); 14] = [
        ("add: shapes [2, 3] and [4] do not fit", x.add(&space.full(&[4], 1.0).unwrap())),
        ("cannot reshape [2, 3] to [4, -1]", x.reshape(&[4, -1])),
        ("axis 2 of a tensor with 2 axes", x.softmax(2)),
        ("permute: [0, 0] is no order of 2 axes", x.permute(&[0, 0])),
        ("einsum \"ij,jk\": it has 2 operands, 1 are given", space.einsum("ij,jk", &[&x])),
        ("einsum \"i1\": '1' is no index", space.einsum("i1", &[&x])),
        ("einsum \"ij->k\": no operand has the index k", space.einsum("ij->k", &[&x])),
        ("einsum \"ij,jk->ik\": the index j has the lengths 3 and 2", space.einsum("ij,jk->ik", &[&x, &x])),
        ("matmul: [2, 3] and [2, 3] do not fit", x.matmul(&x)),
        ("linear: the weight is not as a file has it", x.linear(&x, Precision::Fast)),
        ("indices are i32, not f32", x.take(&x, 0)),
        ("max of no elements", space.full(&[0], 1.0).unwrap().max(&[], false)),
        ("topk: 4 of an axis of 3", x.topk(4, 1).map(|t| t.0)),
        ("slice: the step is 0", x.slice(0, None, None, 0)),
    ];
    for (message, result) in refused {
        let error = result.unwrap_err().to_string();
        assert!(error.starts_with(message) && !error.contains('\n'), "{error:?} is not {message:?}");
    }
    let huge = space.full(&[1 << 20, 1 << 20], 1.0).unwrap_err().to_string();
    assert!(huge.contains("more than 2^31 elements"), "{huge}");
}

/// A long chain of ops neither overflows the stack nor is kept.
#[test]
fn long_chains_end() {
    let space = Space::cpu().unwrap();
    let one = space.scalar(1.0);
    let mut x = space.full(&[3], 0.0).unwrap();
    for _ in 0..20_000 {
        x = x.add(&one).unwrap();
    }
    assert_eq!(x.to_vec().unwrap(), [20_000.0; 3]);
}

/// A buffer that nobody has any more is used again, but not before what was recorded has read it.
#[test]
fn buffers_that_are_used_again_keep_what_was_recorded() {
    let gpu = Space::gpu(&AdapterOptions::default()).unwrap();
    let mut sums = Vec::new();
    for i in 0..20 {
        // The operands are gone before anything runs, and the next constants have their size.
        let x = gpu.full(&[64], 1.0).unwrap().add(&gpu.tensor(&[64], &[i as f32; 64]).unwrap()).unwrap();
        let y = x.mul(&x).unwrap();
        y.compute().unwrap();
        sums.push(y.sum(&[], false).unwrap());
    }
    for (i, sum) in sums.iter().enumerate() {
        assert_eq!(sum.item().unwrap(), 64.0 * (i as f64 + 1.0).powi(2));
    }
}

#[test]
fn files_of_numpy_come_back() {
    let space = Space::cpu().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npy");
    let x = space.random(&[3, 1, 5], 4).unwrap();
    for t in
        [x.clone(), x.half().unwrap(), space.arange(7).unwrap(), space.scalar(2.5), space.full(&[0, 2], 1.0).unwrap()]
    {
        std::fs::write(&path, t.to_npy().unwrap()).unwrap();
        let again = space.load_npy(&path).unwrap();
        assert_eq!((again.shape(), again.dtype()), (t.shape(), t.dtype()));
        assert_eq!(again.words().unwrap(), t.words().unwrap());
    }
    let bytes = x.to_npy().unwrap();
    for n in [0, 5, 7, 9, 40, bytes.len() - 1] {
        std::fs::write(&path, &bytes[..n]).unwrap();
        let error = space.load_npy(&path).err().unwrap().to_string();
        assert!(error.contains("x.npy: ") && !error.contains('\n'), "{error}");
    }
}

/// The tensors of a file: their numbers, and their products in their own format.
#[test]
fn weights_of_a_file() {
    let space = both();
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/stories.gguf");
    let gguf = std::sync::Arc::new(Gguf::open(&file).unwrap());
    let weight = space.weight(&gguf, "blk.0.attn_k.weight").unwrap();
    assert_eq!(weight.shape(), [128, 384]);
    let x = space.random(&[2, 384], 1).unwrap().sub(&space.scalar(0.5)).unwrap();
    let near = x.matmul(&weight.transpose(0, 1).unwrap()).unwrap();
    let far = x.linear(&weight, Precision::Precise).unwrap().sub(&near).unwrap();
    // Rounding of activations is at most half of amax / 32512, amax is below 1/2, and a row of weights has the sum of its magnitudes.
    let most = weight.abs().unwrap().sum(&[1], false).unwrap().max(&[], false).unwrap().item().unwrap();
    let largest = far.abs().unwrap().max(&[], false).unwrap().item().unwrap();
    assert!(largest > 0.0 && largest < most * 0.5 / 32512.0, "{largest} of {most}");
    assert!(matches!(space.weight(&gguf, "no.weight"), Err(TensorError::NoTensor { .. })));
}

/// A text for einsum, mostly one that means something, and shapes for it.
fn einsum_case() -> impl Strategy<Value = (String, Vec<Vec<usize>>)> {
    let letters = proptest::collection::vec(proptest::sample::select(vec!['a', 'b', 'c', 'd', 'E']), 0..4);
    let operand = (letters, proptest::option::weighted(0.2, 0usize..3), any::<u8>());
    let operands = proptest::collection::vec(operand, 1..4);
    let lengths = proptest::collection::vec(1usize..5, 5);
    (operands, lengths, any::<u32>()).prop_map(|(operands, lengths, dice)| {
        let length = |c: char| lengths[['a', 'b', 'c', 'd', 'E'].iter().position(|l| *l == c).unwrap()];
        let mut terms = Vec::new();
        let mut shapes = Vec::new();
        for (letters, ellipsis, odd) in &operands {
            let mut term = String::new();
            let mut shape = Vec::new();
            if let Some(axes) = ellipsis {
                term.push_str("...");
                shape.extend([2, 3].iter().rev().take(*axes).rev());
            }
            for c in letters {
                term.push(*c);
                // Now and then an axis of one element, or one that does not fit.
                shape.push(match odd {
                    0..12 => 1,
                    12..18 => length(*c) + 1,
                    _ => length(*c),
                });
            }
            terms.push(term);
            shapes.push(shape);
        }
        let mut all: Vec<char> = operands.iter().flat_map(|o| o.0.clone()).collect();
        all.sort_unstable();
        all.dedup();
        let any_ellipsis = operands.iter().any(|o| o.1.is_some());
        let mut text = terms.join(",");
        if dice % 3 > 0 {
            let mut result = if any_ellipsis && dice % 7 > 0 { "...".to_owned() } else { String::new() };
            all.sort_by_key(|c| (u32::from(*c).wrapping_mul(dice | 1)) % 31);
            result.extend(all.iter().filter(|c| !(dice >> (**c as u32 % 20)).is_multiple_of(3)));
            if dice % 41 == 0 {
                result.push('z');
            }
            let _ = write!(text, "->{result}");
        }
        (text, shapes)
    })
}

/// A tensor as JSON.
fn as_json(t: &Tensor) -> Value {
    json!({"shape": t.shape(), "data": t.to_vec().unwrap()})
}

/// A line for `scripts/tensor.py`: an op, its operands and other arguments, and what it gave.
fn line(op: &str, arguments: Value, operands: &[&Tensor], result: Result<Tensor, TensorError>) -> String {
    let result = match result.and_then(|t| Ok(json!({"shape": t.shape(), "data": t.to_vec()?, "double": t.to_f64()?})))
    {
        Ok(value) => value,
        Err(error) => json!({"refused": error.to_string()}),
    };
    let operands: Vec<Value> = operands.iter().map(|t| as_json(t)).collect();
    format!("{}\n", json!({"op": op, "arguments": arguments, "operands": operands, "result": result}))
}

/// Writes what `scripts/tensor.py` compares with NumPy.
#[test]
fn results_for_numpy() {
    let mut text = String::new();
    let space = Space::cpu().unwrap().with_reference().unwrap();
    let mut seed = 0;
    let mut random = |shape: &[usize], low: f32, high: f32| {
        seed += 1;
        let x = space.random(shape, seed).unwrap();
        let x = x.mul(&space.scalar(high - low)).unwrap().add(&space.scalar(low)).unwrap();
        // As a constant, which is the same in double precision.
        space.tensor(shape, &x.to_vec().unwrap()).unwrap()
    };
    type One = fn(&Tensor) -> Result<Tensor, TensorError>;
    let functions: [(&str, f32, f32, One); 14] = [
        ("neg", -9.0, 9.0, Tensor::neg),
        ("abs", -9.0, 9.0, Tensor::abs),
        ("exp", -60.0, 85.0, Tensor::exp),
        ("ln", 1e-3, 3.0, Tensor::ln),
        ("ln", 1e-30, 1e30, Tensor::ln),
        ("sqrt", 0.0, 1e9, Tensor::sqrt),
        ("rsqrt", 1e-3, 1e9, Tensor::rsqrt),
        ("recip", 1e-3, 100.0, Tensor::recip),
        ("silu", -9.0, 40.0, Tensor::silu),
        ("gelu", -2.0, 40.0, Tensor::gelu),
        ("tanh", -20.0, 20.0, Tensor::tanh),
        ("sigmoid", -20.0, 20.0, Tensor::sigmoid),
        ("relu", -9.0, 9.0, Tensor::relu),
        ("half", -9.0, 9.0, Tensor::half),
    ];
    for (name, low, high, f) in functions {
        let x = random(&[300], low, high);
        text += &line(name, json!({}), &[&x], f(&x));
    }
    type Pair = fn(&Tensor, &Tensor) -> Result<Tensor, TensorError>;
    let pairs: [(&str, Pair); 9] = [
        ("add", Tensor::add),
        ("sub", Tensor::sub),
        ("mul", Tensor::mul),
        ("div", Tensor::div),
        ("minimum", Tensor::minimum),
        ("maximum", Tensor::maximum),
        ("less", Tensor::less),
        ("equal", Tensor::equal),
        ("matmul", Tensor::matmul),
    ];
    let shapes: [[&[usize]; 2]; 8] = [
        [&[3, 5], &[3, 5]],
        [&[2, 3, 4], &[4]],
        [&[4], &[5, 1, 4]],
        [&[3, 1], &[1, 6]],
        [&[], &[7]],
        [&[2, 3], &[4, 3]],
        [&[2, 4, 70], &[70, 9]],
        [&[3, 300], &[2, 300, 5]],
    ];
    for (name, f) in pairs {
        for [a, b] in shapes {
            let (a, b) = (random(a, -4.0, 4.0), random(b, 0.5, 4.0));
            text += &line(name, json!({}), &[&a, &b], f(&a, &b));
        }
    }
    for shape in [&[7][..], &[3, 40], &[2, 3, 400], &[2, 5, 1, 3]] {
        for axis in 0..shape.len() as isize {
            let x = random(shape, -4.0, 4.0);
            let n = shape[axis as usize];
            let arguments = json!({"axis": axis});
            let (w, b) = (random(&[1], 0.5, 2.0), random(&[1], -1.0, 1.0));
            text += &line("sum", arguments.clone(), &[&x], x.sum(&[axis], false));
            text += &line("mean", arguments.clone(), &[&x], x.mean(&[axis], false));
            text += &line("max", arguments.clone(), &[&x], x.max(&[axis], false));
            text += &line("argmin", arguments.clone(), &[&x], x.argmin(axis));
            text += &line("cumsum", arguments.clone(), &[&x], x.cumsum(axis));
            text += &line("softmax", arguments.clone(), &[&x], x.softmax(axis));
            text += &line("log_softmax", arguments.clone(), &[&x], x.log_softmax(axis));
            text += &line("layer_norm", arguments.clone(), &[&x, &w, &b], x.layer_norm(&w, &b, 1e-5, axis));
            text += &line(
                "topk",
                json!({"axis": axis, "k": n.div_ceil(2)}),
                &[&x],
                x.topk(n.div_ceil(2), axis).map(|t| t.0),
            );
            let places = space.integers(&[2], &[n as i32 - 1, 0]).unwrap();
            text += &line("take", arguments, &[&x, &places], x.take(&places, axis));
        }
        let x = random(shape, -4.0, 4.0);
        let w = random(&shape[shape.len() - 1..], 0.5, 2.0);
        text += &line("rms_norm", json!({}), &[&x, &w], x.rms_norm(&w, 1e-5));
        text += &line("powi", json!({"n": 13}), &[&x], x.powi(13));
    }
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for _ in 0..1500 {
        let (einsum, shapes) = einsum_case().new_tree(&mut runner).unwrap().current();
        let operands: Vec<Tensor> = shapes.iter().map(|shape| random(shape, -1.0, 1.0)).collect();
        let operands: Vec<&Tensor> = operands.iter().collect();
        let result = space.einsum(&einsum, &operands);
        text += &line("einsum", json!({"text": einsum}), &operands, result);
    }
    std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("tensor.jsonl"), text).unwrap();
}

thread_local! {
    /// One space for all cases of a property: lavapipe takes a while for every kernel.
    static BOTH: Space = both();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Einstein's sums of any text have the same bits on a GPU, or are refused.
    #[test]
    fn einsum_has_the_same_bits_on_a_gpu((text, shapes) in einsum_case()) {
        let space = BOTH.with(Space::clone);
        let operands: Vec<Tensor> =
            shapes.iter().zip(1..).map(|(shape, seed)| space.random(shape, seed).unwrap()).collect();
        if let Ok(t) = space.einsum(&text, &operands.iter().collect::<Vec<_>>()) {
            t.to_vec().unwrap();
        }
    }

    /// Tensors of f16, through views that begin anywhere, have the same bits on a GPU, and give what f32 of the same numbers give.
    #[test]
    fn halves_have_the_same_bits_on_a_gpu(
        shape in proptest::collection::vec(1usize..8, 1..4),
        starts in any::<[u8; 3]>(),
        backwards in any::<[bool; 3]>(),
    ) {
        let space = BOTH.with(Space::clone);
        let wide: Vec<usize> = shape.iter().map(|n| n + 3).collect();
        let halves = space.random(&wide, 1).unwrap().sub(&space.scalar(0.5)).unwrap().half().unwrap();
        let floats = halves.float().unwrap();
        prop_assert_eq!((halves.dtype(), floats.dtype()), (Dtype::F16, Dtype::F32));
        let view = |t: &Tensor| {
            let all = shape.iter().zip(starts).zip(backwards).enumerate();
            all.fold(t.clone(), |t, (axis, ((n, start), back))| {
                let start = (start % 4) as isize;
                let part = t.slice(axis as isize, Some(start), Some(start + *n as isize), 1).unwrap();
                if back { part.slice(axis as isize, None, None, -1).unwrap() } else { part }
            })
        };
        let (x, y) = (view(&halves).transpose(0, -1).unwrap(), view(&floats).transpose(0, -1).unwrap());
        type Op = fn(&Tensor) -> Result<Tensor, TensorError>;
        let ops: [Op; 11] = [
            |t| Ok(t.clone()),
            |t| t.half(),
            |t| t.neg(),
            |t| t.add(t),
            |t| t.less(&t.abs()?),
            |t| t.sum(&[-1], false),
            |t| t.argmax(0),
            |t| t.cumsum(-1),
            |t| Tensor::concat(&[t, t], 0),
            |t| t.reshape(&[-1])?.matmul(&t.reshape(&[-1])?),
            |t| t.take(&t.space().integers(&[2], &[0, -1])?, -1),
        ];
        for op in ops {
            let (of_halves, of_floats) = (op(&x).unwrap(), op(&y).unwrap());
            prop_assert_eq!(of_halves.words().unwrap(), of_floats.words().unwrap(), "{:?}", of_halves);
        }
    }
}
