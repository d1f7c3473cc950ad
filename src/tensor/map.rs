//! Functions of elements, and the layout of their results.

use super::op::{Bound, Dispatch, Domain, Fault, Input, Primitive, grid, stored};
use super::view::View;
use crate::backend::gpu::Kernel;
use crate::numerics::{exp, f16_bits, f16_value, gelu, settle, sigmoid, silu, tanh};
use crate::ops::THREADS;
use crate::shaders::{TENSOR_MAP as SHADER, params::TensorMap as Params};

/// Declares the functions in the order of their numbers in `wgsl/tensor/map.wgsl`.
macro_rules! functions {
    ($($name:ident $text:literal $operands:literal, $words:expr, $double:expr;)*) => {
        /// A function of one, two or three elements.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        #[allow(missing_docs)]
        pub enum Function { $($name),* }

        impl Function {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// Its name in reports.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// How many operands it has.
            pub fn operands(self) -> usize {
                match self { $(Self::$name => $operands),* }
            }

            /// The word of a result; the definition of its bits.
            fn word(self, words: [u32; 3]) -> Result<u32, Fault> {
                match self { $(Self::$name => { let f: fn([u32; 3]) -> Result<u32, Fault> = $words; f(words) })* }
            }

            /// The same in double precision.
            fn double(self, numbers: [f64; 3]) -> f64 {
                match self { $(Self::$name => { let f: fn([f64; 3]) -> f64 = $double; f(numbers) })* }
            }
        }
    };
}

/// A function of one f32.
macro_rules! float1 {
    ($x:ident => $e:expr) => {
        |[x, ..]| {
            let $x = f32::from_bits(x);
            stored($e)
        }
    };
}
/// A function of two f32.
macro_rules! float2 {
    ($x:ident, $y:ident => $e:expr) => {
        |[x, y, _]| {
            let ($x, $y) = (f32::from_bits(x), f32::from_bits(y));
            stored($e)
        }
    };
}
/// A word of two i32.
macro_rules! int2 {
    ($x:ident, $y:ident => $e:expr) => {
        |[x, y, _]| {
            let ($x, $y) = (x as i32, y as i32);
            Ok(($e) as u32)
        }
    };
}

functions! {
    Copy "copy" 1, |[a, ..]| Ok(a), |[x, ..]| x;
    Neg "neg" 1, float1!(x => -x), |[x, ..]| -x;
    Abs "abs" 1, float1!(x => x.abs()), |[x, ..]| x.abs();
    Exp "exp" 1, float1!(x => if x > 88.0 { f32::INFINITY } else { exp(x) }), |[x, ..]| x.exp();
    Ln "ln" 1, float1!(x => ln(x)), |[x, ..]| x.ln();
    Sqrt "sqrt" 1, float1!(x => x.sqrt()), |[x, ..]| x.sqrt();
    Rsqrt "rsqrt" 1, float1!(x => 1.0 / x.sqrt()), |[x, ..]| 1.0 / x.sqrt();
    Recip "recip" 1, float1!(x => 1.0 / x), |[x, ..]| 1.0 / x;
    Silu "silu" 1, float1!(x => silu(x)), |[x, ..]| x / (1.0 + (-x).exp());
    Gelu "gelu" 1, float1!(x => gelu(x)), |[x, ..]| x / (1.0 + (-1.595_769_121_605_730_7 * (x + 0.044_715 * x * x * x)).exp());
    Tanh "tanh" 1, float1!(x => tanh(x)), |[x, ..]| x.tanh();
    Sigmoid "sigmoid" 1, float1!(x => sigmoid(x)), |[x, ..]| 1.0 / (1.0 + (-x).exp());
    Relu "relu" 1, float1!(x => x.max(0.0)), |[x, ..]| x.max(0.0);
    Half "f16" 1, float1!(x => f16_value(f16_bits(x))), |[x, ..]| x;
    Float "f32" 1, |[a, ..]| stored(a as i32 as f32), |[x, ..]| x;
    Truncate "i32" 1, |[a, ..]| truncate(f32::from_bits(a)), |[x, ..]| x.trunc();
    Add "add" 2, float2!(x, y => x + y), |[x, y, _]| x + y;
    Sub "sub" 2, float2!(x, y => x - y), |[x, y, _]| x - y;
    Mul "mul" 2, float2!(x, y => x * y), |[x, y, _]| x * y;
    Div "div" 2, float2!(x, y => x / y), |[x, y, _]| x / y;
    Min "min" 2, float2!(x, y => x.min(y)), |[x, y, _]| x.min(y);
    Max "max" 2, float2!(x, y => x.max(y)), |[x, y, _]| x.max(y);
    Power "pow" 2, |[a, n, _]| stored(power(f32::from_bits(a), n as i32)), |[x, n, _]| x.powi(n as i32);
    Less "less" 2, |[a, b, _]| Ok(u32::from(f32::from_bits(a) < f32::from_bits(b))), |[x, y, _]| f64::from(u8::from(x < y));
    LessEqual "less_equal" 2, |[a, b, _]| Ok(u32::from(f32::from_bits(a) <= f32::from_bits(b))), |[x, y, _]| f64::from(u8::from(x <= y));
    Equal "equal" 2, |[a, b, _]| Ok(u32::from(a == b)), |[x, y, _]| f64::from(u8::from(x == y));
    NotEqual "not_equal" 2, |[a, b, _]| Ok(u32::from(a != b)), |[x, y, _]| f64::from(u8::from(x != y));
    LessInt "less" 2, int2!(x, y => x < y), |[x, y, _]| f64::from(u8::from(x < y));
    LessEqualInt "less_equal" 2, int2!(x, y => x <= y), |[x, y, _]| f64::from(u8::from(x <= y));
    NegInt "neg" 1, int2!(x, _y => x.wrapping_neg()), |[x, ..]| -x;
    AbsInt "abs" 1, int2!(x, _y => x.wrapping_abs()), |[x, ..]| x.abs();
    AddInt "add" 2, int2!(x, y => x.wrapping_add(y)), |[x, y, _]| x + y;
    SubInt "sub" 2, int2!(x, y => x.wrapping_sub(y)), |[x, y, _]| x - y;
    MulInt "mul" 2, int2!(x, y => x.wrapping_mul(y)), |[x, y, _]| x * y;
    MinInt "min" 2, int2!(x, y => x.min(y)), |[x, y, _]| x.min(y);
    MaxInt "max" 2, int2!(x, y => x.max(y)), |[x, y, _]| x.max(y);
    Where "where" 3, |[c, a, b]| Ok(if c != 0 { a } else { b }), |[c, a, b]| if c != 0.0 { a } else { b };
}

fn truncate(x: f32) -> Result<u32, Fault> {
    if x.abs() < 2_147_483_648.0 { Ok(x as i32 as u32) } else { Err(Fault::OutOfRange) }
}

/// The natural logarithm (Cephes' `logf`); infinite where there is none.
fn ln(x: f32) -> f32 {
    if x <= 0.0 {
        return f32::INFINITY;
    }
    let mut exponent = (x.to_bits() >> 23) as i32 - 126;
    let fraction = f32::from_bits(x.to_bits() & 0x7f_ffff | 126 << 23);
    let mut m = fraction - 1.0;
    if fraction < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1;
        m = (fraction + fraction) - 1.0;
    }
    let n = exponent as f32;
    let z = m * m;
    let mut p = 7.037_683_6e-2f32;
    for c in [
        -1.151_461e-1,
        1.167_699_8e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_7e-1,
        2.000_071_4e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ] {
        p = p * m + c;
    }
    let y = ((p * m) * z + n * -2.121_944_4e-4) + -0.5 * z;
    (m + y) + n * 0.693_359_4
}

/// `x` to the power of `n`, by squares.
fn power(x: f32, n: i32) -> f32 {
    let (mut left, mut square, mut product) = (n.unsigned_abs(), x, 1.0f32);
    while left > 0 {
        if left & 1 != 0 {
            product = settle(product * square);
        }
        left >>= 1;
        if left > 0 {
            square = settle(square * square);
        }
        if !product.is_finite() || !square.is_finite() {
            return f32::INFINITY;
        }
    }
    if n < 0 { 1.0 / product } else { product }
}

/// A function of each element of operands of one shape.
#[derive(Debug)]
pub(super) struct Map(pub Function);

/// The dispatch of a function, whose results go to the places of a view.
fn dispatch(function: Function, operands: &[(usize, &View)], out: &View, slot: u32) -> Option<Dispatch> {
    let count = out.len() as u32;
    let words = if function == Function::Half { count.div_ceil(2) } else { count };
    let operand = |i: usize| operands.get(i).or(operands.first()).copied();
    let operands = [operand(0)?, operand(1)?, operand(2)?];
    let views: Vec<u32> = operands.iter().map(|o| o.1).chain([out]).flat_map(View::words).collect();
    let buffers = operands.iter().map(|o| Bound::Input(o.0)).chain([Bound::Out]);
    Some(Dispatch {
        kernel: Kernel::new(&SHADER).with("FUNCTION", function as u32),
        params: bytemuck::bytes_of(&Params { count, slot }).to_vec(),
        groups: grid(words.div_ceil(THREADS)),
        bindings: [Bound::Words(views), Bound::Faults].into_iter().chain(buffers).collect(),
        rows: 1,
        position: 0,
    })
}

/// The dispatch that copies operand 0 to the result.
pub(super) fn copied(view: &View, slot: u32) -> Option<Dispatch> {
    dispatch(Function::Copy, &[(0, view)], &View::whole(&view.shape), slot)
}

impl Primitive for Map {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn cpu(&self, inputs: &[Input<'_, u32>], _: &[usize], out: &mut [u32], _: Domain<'_>) -> Result<(), Fault> {
        each(inputs, out, |words| self.0.word(words))
    }

    fn double(&self, inputs: &[Input<'_, f64>], _: &[usize], out: &mut [f64]) -> Result<(), Fault> {
        each(inputs, out, |numbers| Ok(self.0.double(numbers)))
    }

    fn gpu(&self, inputs: &[&View], shape: &[usize], slot: u32) -> Vec<Dispatch> {
        let operands: Vec<_> = inputs.iter().copied().enumerate().collect();
        dispatch(self.0, &operands, &View::whole(shape), slot).into_iter().collect()
    }
}

/// Calls `f` with the operands of each element.
fn each<T: Copy + Default>(
    inputs: &[Input<'_, T>],
    out: &mut [T],
    f: impl Fn([T; 3]) -> Result<T, Fault>,
) -> Result<(), Fault> {
    let mut operands: Vec<_> = inputs.iter().map(Input::elements).collect();
    for out in out {
        let mut values = [T::default(); 3];
        for (value, operand) in values.iter_mut().zip(&mut operands) {
            *value = operand.next().unwrap_or_default();
        }
        *out = f(values)?;
    }
    Ok(())
}

/// Operands one behind the other along an axis.
#[derive(Debug)]
pub(super) struct Concat {
    pub axis: usize,
}

impl Concat {
    /// Where each operand goes in a result of this shape.
    fn parts<'a>(&self, inputs: &[&'a View], shape: &[usize]) -> Vec<(&'a View, View)> {
        let whole = View::whole(shape);
        let mut start = 0;
        let mut part = |view: &'a View| {
            let n = view.shape[self.axis];
            let part = whole.sliced(self.axis, start, n, 1);
            start += n;
            (view, part)
        };
        inputs.iter().map(|view| part(view)).collect()
    }

    fn copy<T: Copy>(&self, inputs: &[Input<'_, T>], shape: &[usize], out: &mut [T]) {
        let views: Vec<_> = inputs.iter().map(|i| i.view).collect();
        for (input, (_, part)) in inputs.iter().zip(self.parts(&views, shape)) {
            part.places().zip(input.elements()).for_each(|(place, x)| out[place] = x);
        }
    }
}

impl Primitive for Concat {
    fn name(&self) -> &'static str {
        "concat"
    }

    fn cpu(&self, inputs: &[Input<'_, u32>], shape: &[usize], out: &mut [u32], _: Domain<'_>) -> Result<(), Fault> {
        self.copy(inputs, shape, out);
        Ok(())
    }

    fn double(&self, inputs: &[Input<'_, f64>], shape: &[usize], out: &mut [f64]) -> Result<(), Fault> {
        self.copy(inputs, shape, out);
        Ok(())
    }

    fn gpu(&self, inputs: &[&View], shape: &[usize], slot: u32) -> Vec<Dispatch> {
        let parts = self.parts(inputs, shape).into_iter().enumerate().filter(|(_, (view, _))| !view.is_empty());
        parts.filter_map(|(i, (view, part))| dispatch(Function::Copy, &[(i, view)], &part, slot)).collect()
    }
}
