//! Every op of tensors on the GPU against the CPU: shapes of up to four axes, odd, empty and broadcast, and views of all kinds.

use std::cell::RefCell;
use std::rc::Rc;

use serde::Serialize;

use super::ops::Random;
use crate::numerics::Precision;
use crate::quant::FORMATS;
use crate::tensor::{Space, Tensor, TensorError};

/// What was found of an op.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The op.
    pub op: &'static str,
    /// How often it was run, and how many elements it gave.
    pub runs: usize,
    /// Elements of all results.
    pub elements: usize,
    /// Shapes of results.
    pub shapes: Vec<Vec<usize>>,
    /// What differs, if anything.
    pub differs: Option<String>,
}

/// Random operands for a space.
struct Operands<'a> {
    space: &'a Space,
    random: Random,
}

impl Operands<'_> {
    /// Mostly numbers as models have them; some zeros, tiny and large ones.
    fn floats(&mut self, shape: &[usize]) -> Result<Tensor, TensorError> {
        let numbers = self.random.floats(shape.iter().product());
        self.space.tensor(shape, &numbers)
    }

    /// Numbers below `n`.
    fn integers(&mut self, shape: &[usize], n: u32) -> Result<Tensor, TensorError> {
        let count = shape.iter().product();
        let numbers: Vec<i32> = (0..count).map(|_| (self.random.word() % n) as i32).collect();
        self.space.integers(shape, &numbers)
    }

    /// A view that is not in row-major order: axes reversed, the last one backwards.
    fn turned(&mut self, shape: &[usize]) -> Result<Tensor, TensorError> {
        let reversed: Vec<usize> = shape.iter().rev().copied().collect();
        let axes: Vec<isize> = (0..shape.len() as isize).rev().collect();
        let turned = self.floats(&reversed)?.permute(&axes)?;
        if shape.is_empty() { Ok(turned) } else { turned.slice(-1, None, None, -1) }
    }
}

/// Shapes of results.
const SHAPES: [&[usize]; 9] = [&[], &[1], &[7], &[0, 4], &[3, 1], &[2, 3, 5], &[65, 33], &[2, 1, 3, 4], &[3, 5, 1, 31]];

/// Runs one op on operands of a shape.
type Case = fn(&mut Operands<'_>, &[usize]) -> Result<Vec<Tensor>, TensorError>;

/// Functions of one element, where they have a value; functions of two, with every way to broadcast; where.
fn elementwise(o: &mut Operands<'_>, shape: &[usize]) -> Result<Vec<Tensor>, TensorError> {
    let x = o.turned(shape)?;
    let small = x.minimum(&o.space.scalar(80.0))?;
    let positive = x.abs()?.add(&o.space.scalar(1e-20))?;
    let integers = o.integers(shape, 1000)?;
    let mut all = vec![
        x.neg()?,
        x.abs()?,
        small.exp()?,
        positive.ln()?,
        positive.sqrt()?,
        positive.rsqrt()?,
        positive.recip()?,
        x.silu()?,
        x.gelu()?,
        x.tanh()?,
        x.sigmoid()?,
        x.relu()?,
        x.half()?,
        integers.float()?,
        x.int()?,
        x.powi(3)?,
        x.abs()?.maximum(&o.space.scalar(1e-3))?.powi(-2)?,
        integers.neg()?,
        integers.abs()?,
    ];
    let mut others = vec![o.floats(shape)?, o.floats(&[])?];
    if let [first @ .., last] = shape {
        let ones: Vec<usize> = first.iter().map(|_| 1).chain([*last]).collect();
        let columns: Vec<usize> = first.iter().copied().chain([1]).collect();
        others.extend([o.floats(&[*last])?, o.floats(&ones)?, o.floats(&columns)?]);
    }
    for y in others {
        let divisor = y.abs()?.maximum(&o.space.scalar(1e-3))?;
        all.extend([
            x.add(&y)?,
            x.sub(&y)?,
            x.mul(&y)?,
            x.div(&divisor)?,
            x.minimum(&y)?,
            x.maximum(&y)?,
            x.less(&y)?,
            y.less_equal(&x)?,
            x.equal(&y)?,
            x.not_equal(&y)?,
            x.less(&y)?.select_from(&x, &y)?,
        ]);
    }
    let other = o.integers(shape, 1000)?;
    let pairs = [Tensor::add, Tensor::sub, Tensor::mul, Tensor::minimum, Tensor::maximum];
    for f in pairs.into_iter().chain([Tensor::less, Tensor::less_equal, Tensor::equal, Tensor::not_equal]) {
        all.push(f(&integers, &other)?);
    }
    Ok(all)
}

/// Everything along axes.
fn along_axes(o: &mut Operands<'_>, shape: &[usize]) -> Result<Vec<Tensor>, TensorError> {
    let (x, integers) = (o.turned(shape)?, o.integers(shape, 1000)?);
    let mut all = vec![x.sum(&[], false)?, integers.sum(&[], false)?];
    for axis in 0..shape.len() as isize {
        let n = shape[axis as usize];
        all.extend([x.sum(&[axis], true)?, integers.sum(&[axis], false)?, x.cumsum(axis)?, integers.cumsum(axis)?]);
        if n == 0 {
            continue;
        }
        for t in [&x, &integers] {
            all.extend([t.max(&[axis], false)?, t.min(&[axis], true)?, t.argmax(axis)?, t.argmin(axis)?]);
            let (values, places) = t.topk(n.div_ceil(2), axis)?;
            all.extend([values, places]);
        }
        let inverse = o.space.scalar(0.01);
        let small = x.mul(&inverse)?;
        all.extend([x.mean(&[axis], false)?, small.softmax(axis)?, small.log_softmax(axis)?]);
        let (w, b) = (o.floats(&[1])?, o.floats(&[1])?);
        all.push(x.layer_norm(&w, &b, 1e-5, axis)?);
        let places = o.integers(&[2, 3], n as u32)?;
        all.extend([x.take(&places, axis)?, Tensor::concat(&[&x, &x.slice(axis, Some(1), None, 1)?], axis)?]);
    }
    if shape.len() > 1 {
        all.push(x.sum(&[0, -1], false)?);
    }
    if let Some(n) = shape.last().filter(|n| **n > 0) {
        let weight = o.floats(&[*n])?;
        all.push(x.rms_norm(&weight, 1e-5)?);
    }
    all.push(o.integers(shape, 5)?.one_hot(5)?);
    Ok(all)
}

/// Everything that reads or keeps f16, through views that begin in the middle of a word and go backwards.
fn halves(o: &mut Operands<'_>, shape: &[usize]) -> Result<Vec<Tensor>, TensorError> {
    let mut wide = shape.to_vec();
    wide.iter_mut().next_back().into_iter().for_each(|n| *n += 1);
    let mut operand = || {
        let whole = o.floats(&wide)?.half()?;
        if shape.is_empty() { Ok(whole) } else { whole.slice(-1, None, Some(0), -1) }
    };
    let (x, y) = (operand()?, operand()?);
    let floats = o.floats(shape)?;
    let mut all = vec![
        x.half()?,
        x.float()?,
        x.int()?,
        x.neg()?,
        x.abs()?,
        x.sigmoid()?,
        x.powi(2)?,
        x.add(&y)?,
        x.mul(&floats)?,
        floats.less(&x)?,
        x.select_from(&y, &x)?,
        x.reshape(&[-1])?,
    ];
    for axis in 0..shape.len() as isize {
        let n = shape[axis as usize];
        all.extend([x.sum(&[axis], false)?, x.cumsum(axis)?, Tensor::concat(&[&x, &y], axis)?]);
        if n > 0 {
            let (values, places) = x.topk(n.div_ceil(2), axis)?;
            all.extend([x.max(&[axis], false)?, x.argmin(axis)?, values, places]);
            all.extend([x.take(&o.integers(&[3], n as u32)?, axis)?, x.mul(&o.space.scalar(1e-4))?.softmax(axis)?]);
        }
    }
    if shape.len() > 1 {
        all.extend([x.matmul(&y.transpose(-1, -2)?)?, floats.matmul(&y.transpose(-1, -2)?)?]);
    }
    Ok(all)
}

/// Products: `[m, k]` and `[k, n]` of sizes around those of tiles and blocks, batches, sums of several indices, diagonals.
fn products(o: &mut Operands<'_>, _: &[usize]) -> Result<Vec<Tensor>, TensorError> {
    let mut all = Vec::new();
    for [m, k, n] in [[1, 1, 1], [3, 31, 5], [64, 32, 64], [65, 33, 63], [7, 300, 130], [1, 1000, 17], [5, 0, 4]] {
        let (a, b) = (o.turned(&[m, k])?, o.turned(&[k, n])?);
        all.push(a.matmul(&b)?);
    }
    let (a, b, c) = (o.turned(&[3, 5, 7, 4])?, o.turned(&[3, 5, 6, 4])?, o.floats(&[4, 7])?);
    all.push(o.space.einsum("bhid,bhjd->bhij", &[&a, &b])?);
    all.push(o.space.einsum("bhid,bhjd,di->bj", &[&a, &b, &c])?);
    all.push(o.space.einsum("...id,di", &[&a, &c])?);
    let square = o.turned(&[5, 5, 6])?;
    all.push(o.space.einsum("iij->j", &[&square])?);
    let (x, y) = (o.integers(&[4, 5], 100)?, o.integers(&[5, 3], 100)?);
    all.push(o.space.einsum("ij,jk->ik", &[&x, &y])?);
    Ok(all)
}

/// Layers of models, in every format and precision.
fn layers(o: &mut Operands<'_>, _: &[usize]) -> Result<Vec<Tensor>, TensorError> {
    let mut all = Vec::new();
    for format in FORMATS {
        let cols = 2 * format.block.max(32);
        let weight = o.floats(&[9, cols])?.maximum(&o.space.scalar(-60.0))?.minimum(&o.space.scalar(60.0))?;
        let weight = weight.quantize(format)?;
        let x = o.floats(&[2, 2, cols])?;
        all.extend([x.linear(&weight, Precision::Fast)?, x.linear(&weight, Precision::Precise)?]);
        all.push(weight.embedding(&o.integers(&[3], 9)?)?);
    }
    let small = o.space.scalar(0.05);
    let (q, k, v) = (o.floats(&[3, 6, 34])?.mul(&small)?, o.floats(&[40, 2, 34])?, o.floats(&[40, 2, 34])?);
    let (q, k) = (q.rope(10000.0, 37, false)?, k.mul(&small)?.rope(10000.0, 0, true)?);
    all.push(q.attention(&k, &v)?);
    Ok(all)
}

/// Runs every op of tensors in a space on the CPU and on a GPU, with operands from a seed, and tells what was found. It ends at the
/// first difference.
///
/// # Errors
/// If an op cannot run at all.
pub fn verify(space: &Space, seed: u64) -> Result<Vec<Verdict>, TensorError> {
    let verdicts: Rc<RefCell<Vec<Verdict>>> = Rc::default();
    let heard = Rc::clone(&verdicts);
    space.listen(Some(Box::new(move |step| add(&mut heard.borrow_mut(), step.op, &step.shape))));
    let mut operands = Operands { space, random: Random(seed) };
    let per_shape: [Case; 3] = [elementwise, along_axes, halves];
    let cases = per_shape.into_iter().flat_map(|case| SHAPES.map(|shape| (case, shape)));
    let outcome = cases
        .chain([(products as Case, SHAPES[0]), (layers, SHAPES[0])])
        .try_for_each(|(case, shape)| case(&mut operands, shape)?.iter().try_for_each(Tensor::compute));
    space.listen(None);
    let mut verdicts = verdicts.take();
    match outcome {
        Ok(()) => {}
        Err(TensorError::Differs(mismatch)) => {
            add(&mut verdicts, mismatch.op, &mismatch.shape);
            let verdict = verdicts.iter_mut().find(|v| v.op == mismatch.op);
            verdict.into_iter().for_each(|v| v.differs = Some(mismatch.to_string()));
        }
        Err(error) => return Err(error),
    }
    verdicts.sort_by_key(|v| v.op);
    Ok(verdicts)
}

fn add(verdicts: &mut Vec<Verdict>, op: &'static str, shape: &[usize]) {
    let elements = shape.iter().product();
    match verdicts.iter_mut().find(|v| v.op == op) {
        Some(verdict) => {
            verdict.runs += 1;
            verdict.elements += elements;
            if !verdict.shapes.iter().any(|known| known == shape) {
                verdict.shapes.push(shape.to_vec());
            }
        }
        None => verdicts.push(Verdict { op, runs: 1, elements, shapes: vec![shape.to_vec()], differs: None }),
    }
}
