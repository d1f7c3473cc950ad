//! What a graph is made of: operations on views of buffers, each with its function on the CPU, in double precision, and its
//! dispatches on a GPU.

use std::fmt;
use std::sync::Arc;

use super::view::{Places, View};
use super::weight::Weight;
use crate::backend::cpu::{Isa, Pool};
use crate::backend::gpu::Kernel;
use crate::numerics::settle;

/// An operation.
pub(super) trait Primitive: fmt::Debug {
    /// Its name in reports.
    fn name(&self) -> &'static str;

    /// Computes all elements of a result of this shape: the definition of their bits.
    fn cpu(&self, inputs: &[Input<'_, u32>], shape: &[usize], out: &mut [u32], domain: Domain<'_>)
    -> Result<(), Fault>;

    /// The same in double precision, with nothing rounded on the way.
    fn double(&self, inputs: &[Input<'_, f64>], shape: &[usize], out: &mut [f64]) -> Result<(), Fault>;

    /// The words of buffers that its dispatches need besides the result.
    fn scratch(&self, _inputs: &[&View], _shape: &[usize]) -> Vec<usize> {
        Vec::new()
    }

    /// Its dispatches, in order; faults are told in word `slot`.
    fn gpu(&self, inputs: &[&View], shape: &[usize], slot: u32) -> Vec<Dispatch>;
}

/// What the CPU computes with.
pub(super) struct Domain<'a> {
    pub pool: &'a mut Pool,
    pub isa: Isa,
}

/// Why elements have no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A result is infinite or not a number.
    NotFinite,
    /// An index beyond its axis, or a number beyond i32.
    OutOfRange,
}

impl Fault {
    /// The fault with this number in `wgsl/lib/strided.wgsl`.
    pub(super) fn of(word: u32) -> Option<Self> {
        match word {
            0 => None,
            1 => Some(Self::NotFinite),
            _ => Some(Self::OutOfRange),
        }
    }
}

/// The word of a result as it is stored (`wgsl/lib/strided.wgsl`).
pub(super) fn stored(x: f32) -> Result<u32, Fault> {
    if x.is_finite() { Ok(settle(x).to_bits()) } else { Err(Fault::NotFinite) }
}

/// An operand.
pub(super) struct Input<'a, T> {
    pub view: &'a View,
    pub buffer: &'a [T],
}

impl<'a, T: Copy> Input<'a, T> {
    /// Its elements, in row-major order.
    pub fn elements(&self) -> Elements<'a, T> {
        Elements { places: self.view.places(), buffer: self.buffer }
    }

    /// The same buffer through another view.
    pub fn through<'b>(&self, view: &'b View) -> Input<'b, T>
    where
        'a: 'b,
    {
        Input { view, buffer: self.buffer }
    }
}

/// An iterator over the elements of a view.
pub(super) struct Elements<'a, T> {
    places: Places,
    buffer: &'a [T],
}

impl<T: Copy> Iterator for Elements<'_, T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.places.next().map(|place| self.buffer[place])
    }
}

/// A dispatch of a kernel.
#[derive(Debug)]
pub(super) struct Dispatch {
    pub kernel: Kernel,
    /// The bytes of its parameters, binding 1.
    pub params: Vec<u8>,
    pub groups: [u32; 3],
    /// What is bound behind the parameters.
    pub bindings: Vec<Bound>,
    /// What its state tells: how many rows there are, and the position of the first.
    pub rows: u32,
    pub position: u32,
}

/// What a kernel binds.
#[derive(Debug)]
pub(super) enum Bound {
    /// Constants.
    Words(Vec<u32>),
    /// Where faults are told.
    Faults,
    /// The buffer of an operand.
    Input(usize),
    /// A buffer that no other op sees ([`Primitive::scratch`]).
    Scratch(usize),
    /// A matrix of a model.
    Matrix(Arc<Weight>),
    /// The result.
    Out,
}

/// So many workgroups as a grid (`GRID_WIDTH` in `wgsl/lib/strided.wgsl`).
pub(super) fn grid(groups: u32) -> [u32; 3] {
    const WIDTH: u32 = 32768;
    [groups.min(WIDTH), groups.div_ceil(WIDTH), 1]
}
