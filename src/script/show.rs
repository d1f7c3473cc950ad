//! What scripts look at, check and save.

use std::path::Path;
use std::rc::Rc;

use rhai::{Engine, FLOAT, INT, NativeCallContext, Position};

use super::functions::{functions, length};
use super::{Given, Host, failed, raised};
use crate::output::Target;
use crate::tensor::{Dtype, Tensor, TensorError};

/// Elements at each end of an axis that are shown where it is long.
const EDGE: usize = 3;

/// A tensor as text: type, shape, and its elements, of long axes both ends.
fn text(tensor: &Tensor) -> Result<String, TensorError> {
    let numbers = tensor.to_vec()?;
    let integer = tensor.dtype() == Dtype::I32;
    let mut out = format!("{} {:?} ", tensor.dtype(), tensor.shape());
    let long = numbers.len() > 64;
    write(&numbers, tensor.shape(), integer, long, 1, &mut out);
    Ok(out)
}

fn write(numbers: &[f32], shape: &[usize], integer: bool, long: bool, depth: usize, out: &mut String) {
    let Some((&n, inner)) = shape.split_first() else {
        let x = numbers[0];
        out.push_str(&if integer { format!("{}", x as i64) } else { format!("{x:?}") });
        return;
    };
    out.push('[');
    let step = numbers.len() / n.max(1);
    for i in 0..n {
        if long && n > 2 * EDGE && i >= EDGE && i < n - EDGE {
            if i == EDGE {
                out.push_str(", …");
            }
            continue;
        }
        match (i, inner.is_empty()) {
            (0, _) => {}
            (_, true) => out.push_str(", "),
            (_, false) => out.push_str(&format!(",\n{}", " ".repeat(depth))),
        }
        write(&numbers[i * step..(i + 1) * step], inner, integer, long, depth + 1, out);
    }
    out.push(']');
}

/// Figures of a tensor on one line.
fn stats(tensor: &Tensor) -> Result<String, TensorError> {
    let numbers = tensor.to_vec()?;
    let n = numbers.len() as f64;
    let wide = || numbers.iter().map(|x| f64::from(*x));
    let mean = wide().sum::<f64>() / n;
    let deviation = (wide().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
    let norm = wide().map(|x| x * x).sum::<f64>().sqrt();
    let (low, high) = wide().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
    let zeros = numbers.iter().filter(|x| **x == 0.0).count();
    Ok(format!(
        "{} {:?} min {low:.6} max {high:.6} mean {mean:.6} std {deviation:.6} norm {norm:.6} zeros {zeros}",
        tensor.dtype(),
        tensor.shape()
    ))
}

/// Fails unless every element of `a` is within `tolerance` of that of `b`.
fn assert_close(a: &Tensor, b: &Tensor, tolerance: f64, at: Position) -> Given<()> {
    if a.shape() != b.shape() {
        return Err(raised(format!("assert_close: shapes {:?} and {:?}", a.shape(), b.shape()), at));
    }
    let (x, y) = (a.to_vec().map_err(|e| failed(&e, at))?, b.to_vec().map_err(|e| failed(&e, at))?);
    let pairs = || x.iter().zip(&y).map(|(x, y)| (f64::from(*x), f64::from(*y)));
    let far = pairs().filter(|(x, y)| (x - y).abs() > tolerance).count();
    if far == 0 {
        return Ok(());
    }
    let worst = pairs().enumerate().max_by(|p, q| (p.1.0 - p.1.1).abs().total_cmp(&(q.1.0 - q.1.1).abs()));
    let (place, (x, y)) = worst.unwrap_or_default();
    let message = format!(
        "assert_close: {far} of {} elements are further apart than {tolerance:e}; the worst is element {place}: {x:e} and {y:e}",
        a.shape().iter().product::<usize>()
    );
    Err(raised(message, at))
}

/// Fails unless all bits are equal.
fn assert_bits(a: &Tensor, b: &Tensor, at: Position) -> Given<()> {
    if a.shape() != b.shape() || a.dtype() != b.dtype() {
        let types = [a.dtype(), b.dtype()];
        let message = format!("assert_bits: {} {:?} and {} {:?}", types[0], a.shape(), types[1], b.shape());
        return Err(raised(message, at));
    }
    let (x, y) = (a.words().map_err(|e| failed(&e, at))?, b.words().map_err(|e| failed(&e, at))?);
    let differ = x.iter().zip(&y).filter(|(x, y)| x != y).count();
    let Some(first) = x.iter().zip(&y).position(|(x, y)| x != y) else { return Ok(()) };
    let (x, y) = (x[first], y[first]);
    let all = a.shape().iter().product::<usize>();
    let message = match a.dtype() {
        Dtype::I32 => format!("{} and {}", x as i32, y as i32),
        Dtype::F32 | Dtype::F16 => {
            format!("{:e} ({x:08x}) and {:e} ({y:08x})", f32::from_bits(x), f32::from_bits(y))
        }
    };
    Err(raised(format!("assert_bits: {differ} of {all} elements differ; the first is element {first}: {message}"), at))
}

pub(super) fn register(engine: &mut Engine, host: &Rc<Host>) {
    let shown = |c: NativeCallContext, x: Tensor| text(&x).map_err(|e| failed(&e, c.call_position()));
    engine.register_fn("print", shown);
    engine.register_fn("to_string", shown);
    engine.register_fn("debug", |x: Tensor| format!("{x:?}"));
    engine.register_fn("to_debug", |x: Tensor| format!("{x:?}"));
    functions! { engine, host;
        "stats" => |at, h, name: &str, x: Tensor| {
            let figures = stats(&x).map_err(|e| failed(&e, at))?;
            h.say(&format!("{name}: {figures}"), at)
        };
        "stats" => |at, h, x: Tensor| h.say(&stats(&x).map_err(|e| failed(&e, at))?, at);
        "top" => |at, h, x: Tensor, best: INT| {
            let best = length(best, at)?;
            let flat = x.reshape(&[-1]).and_then(|t| t.topk(best, 0)).map_err(|e| failed(&e, at))?;
            let numbers = |t: &Tensor| t.to_vec().map_err(|e| failed(&e, at));
            let (values, places) = (numbers(&flat.0)?, numbers(&flat.1)?);
            let mut lines = values.into_iter().zip(places);
            lines.try_for_each(|(value, place)| h.say(&format!("{place:>8}  {value:>12.6}"), at))
        };
        "assert_close" => |at, _h, a: Tensor, b: Tensor, tolerance: FLOAT| assert_close(&a, &b, tolerance, at);
        "assert_bits" => |at, _h, a: Tensor, b: Tensor| assert_bits(&a, &b, at);
        "assert" => |at, _h, holds: bool| if holds { Ok(()) } else { Err(raised("assert: it does not hold".to_owned(), at)) };
        "save_npy" => |at, _h, path: &str, x: Tensor| {
            let bytes = x.to_npy().map_err(|e| failed(&e, at))?;
            let target = Target::new(Path::new(path), true, &[]).map_err(|e| raised(e.to_string(), at))?;
            target.write(&bytes).map_err(|e| raised(e.to_string(), at))
        };
    }
}
