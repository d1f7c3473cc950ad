//! The ops of tensors by name.

use std::rc::Rc;

use rhai::{Array, Dynamic, Engine, FLOAT, INT, NativeCallContext, Position};

use super::{Given, Host, raised};
use crate::quant::{FORMATS, format_by_name};
use crate::tensor::{Tensor, TensorError};

/// Whole numbers of an array.
pub(super) fn integers(array: &Array, at: Position) -> Given<Vec<isize>> {
    let number = |value: &Dynamic| value.as_int().map(|n| n as isize);
    let wrong = |found| raised(format!("a list of whole numbers is needed, not one with a {found}"), at);
    array.iter().map(|value| number(value).map_err(wrong)).collect()
}

/// The lengths of a shape.
pub(super) fn lengths(array: &Array, at: Position) -> Given<Vec<usize>> {
    let wrong = |n| raised(format!("a length is 0 or more, not {n}"), at);
    integers(array, at)?.into_iter().map(|n| usize::try_from(n).map_err(|_| wrong(n))).collect()
}

pub(super) fn length(n: INT, at: Position) -> Given<usize> {
    usize::try_from(n).map_err(|_| raised(format!("a number of 0 or more is needed, not {n}"), at))
}

/// One number as a tensor: i32 for a whole number that meets an i32.
fn number(like: &Tensor, value: &Number) -> Tensor {
    let space = like.space();
    match *value {
        Number::Int(n) if like.dtype() == crate::tensor::Dtype::I32 && i32::try_from(n).is_ok() => {
            space.integer(n as i32)
        }
        Number::Int(n) => space.scalar(n as f32),
        Number::Float(x) => space.scalar(x as f32),
    }
}

enum Number {
    Int(INT),
    Float(FLOAT),
}

type One = fn(&Tensor) -> Result<Tensor, TensorError>;
type Pair = fn(&Tensor, &Tensor) -> Result<Tensor, TensorError>;

/// Registers functions of a host: the place of the call, the host, and what the script gives.
macro_rules! functions {
    ($engine:ident, $host:ident; $($name:expr => |$at:ident, $h:ident $(, $a:ident: $t:ty)*| $body:expr;)*) => {$(
        let host = Rc::clone($host);
        $engine.register_fn($name, move |context: NativeCallContext $(, $a: $t)*| {
            let ($at, $h) = (context.call_position(), &host);
            $body
        });
    )*};
}
pub(super) use functions;

/// A function of two tensors, or of a tensor and a number on either side.
fn pair(engine: &mut Engine, host: &Rc<Host>, name: &str, f: Pair) {
    functions! { engine, host;
        name => |at, h, a: Tensor, b: Tensor| h.op(at, || f(&a, &b));
        name => |at, h, a: Tensor, b: INT| h.op(at, || f(&a, &number(&a, &Number::Int(b))));
        name => |at, h, a: Tensor, b: FLOAT| h.op(at, || f(&a, &number(&a, &Number::Float(b))));
        name => |at, h, a: INT, b: Tensor| h.op(at, || f(&number(&b, &Number::Int(a)), &b));
        name => |at, h, a: FLOAT, b: Tensor| h.op(at, || f(&number(&b, &Number::Float(a)), &b));
    }
}

pub(super) fn register(engine: &mut Engine, host: &Rc<Host>) {
    engine.register_type_with_name::<Tensor>("tensor");
    let unary: [(&str, One); 16] = [
        ("-", Tensor::neg),
        ("neg", Tensor::neg),
        ("abs", Tensor::abs),
        ("exp", Tensor::exp),
        ("ln", Tensor::ln),
        ("sqrt", Tensor::sqrt),
        ("rsqrt", Tensor::rsqrt),
        ("recip", Tensor::recip),
        ("silu", Tensor::silu),
        ("gelu", Tensor::gelu),
        ("tanh", Tensor::tanh),
        ("sigmoid", Tensor::sigmoid),
        ("relu", Tensor::relu),
        ("float", Tensor::float),
        ("half", Tensor::half),
        ("int", Tensor::int),
    ];
    for (name, f) in unary {
        functions! { engine, host; name => |at, h, x: Tensor| h.op(at, || f(&x)); }
    }
    let pairs: [(&str, Pair); 14] = [
        ("+", Tensor::add),
        ("-", Tensor::sub),
        ("*", Tensor::mul),
        ("/", Tensor::div),
        ("minimum", Tensor::minimum),
        ("maximum", Tensor::maximum),
        ("<", Tensor::less),
        ("<=", Tensor::less_equal),
        (">", |a, b| b.less(a)),
        (">=", |a, b| b.less_equal(a)),
        ("==", Tensor::equal),
        ("!=", Tensor::not_equal),
        ("less", Tensor::less),
        ("equal", Tensor::equal),
    ];
    for (name, f) in pairs {
        pair(engine, host, name, f);
    }
    create(engine, host);
    views(engine, host);
    along_axes(engine, host);
    layers(engine, host);
}

/// Tensors from numbers.
fn create(engine: &mut Engine, host: &Rc<Host>) {
    functions! { engine, host;
        "tensor" => |at, h, array: Array| {
            let (mut shape, mut numbers) = (Vec::new(), Vec::new());
            flatten(&array, 0, &mut shape, &mut numbers, at)?;
            let whole = numbers.iter().all(|n| matches!(n, Number::Int(_)));
            h.op(at, || {
                let float = |n: &Number| match *n {
                    Number::Int(n) => n as f32,
                    Number::Float(x) => x as f32,
                };
                let t = h.space.tensor(&shape, &numbers.iter().map(float).collect::<Vec<_>>())?;
                if whole && !numbers.is_empty() { t.int() } else { Ok(t) }
            })
        };
        "zeros" => |at, h, shape: Array| { let shape = lengths(&shape, at)?; h.op(at, || h.space.full(&shape, 0.0)) };
        "ones" => |at, h, shape: Array| { let shape = lengths(&shape, at)?; h.op(at, || h.space.full(&shape, 1.0)) };
        "full" => |at, h, shape: Array, x: FLOAT| {
            let shape = lengths(&shape, at)?;
            h.op(at, || h.space.full(&shape, x as f32))
        };
        "arange" => |at, h, n: INT| { let n = length(n, at)?; h.op(at, || h.space.arange(n)) };
        "random" => |at, h, shape: Array, seed: INT| {
            let shape = lengths(&shape, at)?;
            h.op(at, || h.space.random(&shape, seed as u64))
        };
        "one_hot" => |at, h, x: Tensor, n: INT| { let n = length(n, at)?; h.op(at, || x.one_hot(n)) };
        "load_npy" => |at, h, path: &str| h.op(at, || h.space.load_npy(path.as_ref()));
    }
}

/// The shape and the numbers of lists in lists.
fn flatten(array: &Array, depth: usize, shape: &mut Vec<usize>, numbers: &mut Vec<Number>, at: Position) -> Given<()> {
    match shape.get(depth) {
        None => shape.push(array.len()),
        Some(n) if *n == array.len() => {}
        Some(n) => return Err(raised(format!("a list of {} stands where others have {n}", array.len()), at)),
    }
    for value in array {
        if let Some(inner) = value.read_lock::<Array>() {
            flatten(&inner, depth + 1, shape, numbers, at)?;
        } else if shape.len() > depth + 1 {
            return Err(raised("numbers and lists stand beside each other".to_owned(), at));
        } else if let Ok(n) = value.as_int() {
            numbers.push(Number::Int(n));
        } else if let Ok(x) = value.as_float() {
            numbers.push(Number::Float(x));
        } else {
            return Err(raised(format!("a {} is no number", value.type_name()), at));
        }
    }
    Ok(())
}

/// The tensors of a list.
fn tensors(op: &str, list: Array, at: Position) -> Given<Vec<Tensor>> {
    let tensor = |value: Dynamic| {
        let name = value.type_name();
        value.try_cast::<Tensor>().ok_or_else(|| raised(format!("{op}: a {name} is no tensor"), at))
    };
    list.into_iter().map(tensor).collect()
}

fn views(engine: &mut Engine, host: &Rc<Host>) {
    functions! { engine, host;
        "reshape" => |at, h, x: Tensor, shape: Array| { let shape = integers(&shape, at)?; h.op(at, || x.reshape(&shape)) };
        "permute" => |at, h, x: Tensor, axes: Array| { let axes = integers(&axes, at)?; h.op(at, || x.permute(&axes)) };
        "transpose" => |at, h, x: Tensor| h.op(at, || x.transpose(-2, -1));
        "transpose" => |at, h, x: Tensor, a: INT, b: INT| h.op(at, || x.transpose(a as isize, b as isize));
        "broadcast_to" => |at, h, x: Tensor, shape: Array| {
            let shape = lengths(&shape, at)?;
            h.op(at, || x.broadcast_to(&shape))
        };
        "squeeze" => |at, h, x: Tensor, axis: INT| h.op(at, || x.squeeze(axis as isize));
        "unsqueeze" => |at, h, x: Tensor, axis: INT| h.op(at, || x.unsqueeze(axis as isize));
        "slice" => |at, h, x: Tensor, axis: INT, start: INT, end: INT| {
            h.op(at, || x.slice(axis as isize, Some(start as isize), Some(end as isize), 1))
        };
        "slice" => |at, h, x: Tensor, axis: INT, start: INT, end: INT, step: INT| {
            h.op(at, || x.slice(axis as isize, Some(start as isize), Some(end as isize), step as isize))
        };
        "flip" => |at, h, x: Tensor, axis: INT| h.op(at, || x.slice(axis as isize, None, None, -1));
        "select" => |at, h, x: Tensor, axis: INT, index: INT| h.op(at, || x.select(axis as isize, index as isize));
        "concat" => |at, h, parts: Array, axis: INT| {
            let tensors = tensors("concat", parts, at)?;
            h.op(at, || Tensor::concat(&tensors.iter().collect::<Vec<_>>(), axis as isize))
        };
    }
    let h = Rc::clone(host);
    engine.register_indexer_get(move |c: NativeCallContext, x: &mut Tensor, index: INT| {
        h.op(c.call_position(), || x.select(0, index as isize))
    });
}

fn along_axes(engine: &mut Engine, host: &Rc<Host>) {
    type Over = fn(&Tensor, &[isize], bool) -> Result<Tensor, TensorError>;
    let reductions: [(&str, Over); 4] =
        [("sum", Tensor::sum), ("mean", Tensor::mean), ("max", Tensor::max), ("min", Tensor::min)];
    for (name, f) in reductions {
        functions! { engine, host; name => |at, h, x: Tensor| h.op(at, || f(&x, &[], false)); }
        for (suffix, keep) in [("", false), ("_keep", true)] {
            functions! { engine, host;
                format!("{name}{suffix}") => |at, h, x: Tensor, axis: INT| h.op(at, || f(&x, &[axis as isize], keep));
                format!("{name}{suffix}") => |at, h, x: Tensor, axes: Array| {
                    let axes = integers(&axes, at)?;
                    h.op(at, || f(&x, &axes, keep))
                };
            }
        }
    }
    functions! { engine, host;
        "argmax" => |at, h, x: Tensor, axis: INT| h.op(at, || x.argmax(axis as isize));
        "argmin" => |at, h, x: Tensor, axis: INT| h.op(at, || x.argmin(axis as isize));
        "cumsum" => |at, h, x: Tensor, axis: INT| h.op(at, || x.cumsum(axis as isize));
        "topk" => |at, h, x: Tensor, best: INT, axis: INT| {
            let best = length(best, at)?;
            let (values, places) = h.op(at, || x.topk(best, axis as isize))?;
            Ok::<_, Box<rhai::EvalAltResult>>(vec![Dynamic::from(values), Dynamic::from(places)])
        };
        "gather" => |at, h, x: Tensor, indices: Tensor, axis: INT| h.op(at, || x.take(&indices, axis as isize));
        "take_along" => |at, h, x: Tensor, indices: Tensor, axis: INT| h.op(at, || x.take_along(&indices, axis as isize));
        "softmax" => |at, h, x: Tensor, axis: INT| h.op(at, || x.softmax(axis as isize));
        "log_softmax" => |at, h, x: Tensor, axis: INT| h.op(at, || x.log_softmax(axis as isize));
        "pow" => |at, h, x: Tensor, n: INT| {
            let n = i32::try_from(n).map_err(|_| raised(format!("pow: {n} is beyond i32"), at))?;
            h.op(at, || x.powi(n))
        };
        "where" => |at, h, c: Tensor, a: Tensor, b: Tensor| h.op(at, || c.select_from(&a, &b));
        "where" => |at, h, c: Tensor, a: Tensor, b: FLOAT| h.op(at, || c.select_from(&a, &h.space.scalar(b as f32)));
        "where" => |at, h, c: Tensor, a: FLOAT, b: Tensor| h.op(at, || c.select_from(&h.space.scalar(a as f32), &b));
    }
}

fn layers(engine: &mut Engine, host: &Rc<Host>) {
    functions! { engine, host;
        "matmul" => |at, h, a: Tensor, b: Tensor| h.op(at, || a.matmul(&b));
        "einsum" => |at, h, text: &str, a: Tensor| h.op(at, || h.space.einsum(text, &[&a]));
        "einsum" => |at, h, text: &str, a: Tensor, b: Tensor| h.op(at, || h.space.einsum(text, &[&a, &b]));
        "einsum" => |at, h, text: &str, a: Tensor, b: Tensor, c: Tensor| {
            h.op(at, || h.space.einsum(text, &[&a, &b, &c]))
        };
        "einsum" => |at, h, text: &str, a: Tensor, b: Tensor, c: Tensor, d: Tensor| {
            h.op(at, || h.space.einsum(text, &[&a, &b, &c, &d]))
        };
        "einsum" => |at, h, text: &str, operands: Array| {
            let operands = tensors("einsum", operands, at)?;
            h.op(at, || h.space.einsum(text, &operands.iter().collect::<Vec<_>>()))
        };
        "linear" => |at, h, x: Tensor, weight: Tensor| h.op(at, || x.linear(&weight, h.precision));
        "quantize" => |at, h, x: Tensor, format: &str| {
            let Some(format) = format_by_name(format) else {
                let known: Vec<_> = FORMATS.iter().map(|f| f.name).collect();
                return Err(raised(format!("there is no format {format}; there are {}", known.join(", ")), at));
            };
            h.op(at, || x.quantize(format))
        };
        "embedding" => |at, h, weight: Tensor, ids: Tensor| h.op(at, || weight.embedding(&ids));
        "rms_norm" => |at, h, x: Tensor, weight: Tensor, eps: FLOAT| h.op(at, || x.rms_norm(&weight, eps as f32));
        "layer_norm" => |at, h, x: Tensor, weight: Tensor, bias: Tensor, eps: FLOAT| {
            h.op(at, || x.layer_norm(&weight, &bias, eps as f32, -1))
        };
        "rope" => |at, h, x: Tensor, base: FLOAT, first: INT| {
            let first = length(first, at)?;
            h.op(at, || x.rope(base, first, false))
        };
        "rope_neox" => |at, h, x: Tensor, base: FLOAT, first: INT| {
            let first = length(first, at)?;
            h.op(at, || x.rope(base, first, true))
        };
        "attention" => |at, h, q: Tensor, k: Tensor, v: Tensor| h.op(at, || q.attention(&k, &v));
    }
}
