//! Nodes: what a tensor is computed from, until it is, and its elements afterwards.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use super::gpu::Room;
use super::machine::Machine;
use super::op::Primitive;
use super::view::View;
use super::weight::Weight;
use super::{Dtype, Tensor, TensorError};

/// Where a program asked for an op: a line and a column of a script, from 1 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The column; 0 if it is not known.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.column {
            0 => write!(f, "line {}", self.line),
            column => write!(f, "line {}, column {column}", self.line),
        }
    }
}

/// An op that has not run, and its operands.
pub(super) struct Pending {
    pub op: Box<dyn Primitive>,
    pub inputs: Vec<Tensor>,
}

/// The elements of a node, wherever they are.
#[derive(Default)]
pub(super) struct Values {
    /// As words in the host's memory: what the CPU has computed, or a constant; as they are stored ([`Dtype::words`]).
    pub words: Option<Rc<Vec<u32>>>,
    /// The same on the GPU.
    pub buffer: Option<Room>,
    /// In double precision.
    pub double: Option<Rc<Vec<f64>>>,
}

/// A result of an op, or a constant.
pub(super) struct Node {
    pub machine: Rc<Machine>,
    pub name: &'static str,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub place: Option<Place>,
    /// How many ops lie between it and what is computed.
    pub depth: usize,
    /// The rows of a model's file that a constant was made of.
    pub weight: Option<Arc<Weight>>,
    pub pending: RefCell<Option<Pending>>,
    pub values: RefCell<Values>,
}

/// So many ops wait at most: what is dropped or computed is followed from op to op.
const DEEPEST: usize = 256;

impl Node {
    /// A result that is computed when it is needed.
    pub fn of(
        op: impl Primitive + 'static,
        inputs: Vec<Tensor>,
        shape: Vec<usize>,
        dtype: Dtype,
    ) -> Result<Tensor, TensorError> {
        let Some(machine) = inputs.first().map(|t| Rc::clone(&t.node.machine)) else {
            return Err(TensorError::shape(format!("{}: no operands", op.name())));
        };
        if inputs.iter().any(|t| !Rc::ptr_eq(&t.node.machine, &machine)) {
            return Err(TensorError::shape(format!("{}: operands of two spaces", op.name())));
        }
        machine.check_size(op.name(), dtype, &shape)?;
        let depth = inputs.iter().map(|t| t.node.depth + 1).max().unwrap_or(0);
        let (name, place) = (op.name(), machine.place.get());
        let pending = RefCell::new(Some(Pending { op: Box::new(op), inputs }));
        let view = View::whole(&shape);
        let values = RefCell::default();
        let node = Rc::new(Self { machine, name, dtype, shape, place, depth, weight: None, pending, values });
        if depth >= DEEPEST {
            node.compute()?;
        }
        Ok(Tensor { node, view })
    }

    /// A constant.
    pub fn constant(machine: &Rc<Machine>, words: Vec<u32>, shape: &[usize], dtype: Dtype) -> Tensor {
        let values = Values { words: Some(Rc::new(dtype.packed(words))), ..Values::default() };
        Self::leaf(machine, values, None, shape, dtype)
    }

    /// A tensor of a model's file, whose words are made when somebody needs them.
    pub fn of_weight(machine: &Rc<Machine>, weight: Weight, shape: &[usize]) -> Tensor {
        Self::leaf(machine, Values::default(), Some(Arc::new(weight)), shape, Dtype::F32)
    }

    fn leaf(
        machine: &Rc<Machine>,
        values: Values,
        weight: Option<Arc<Weight>>,
        shape: &[usize],
        dtype: Dtype,
    ) -> Tensor {
        let node = Self {
            machine: Rc::clone(machine),
            name: "constant",
            dtype,
            shape: shape.to_vec(),
            place: machine.place.get(),
            depth: 0,
            weight,
            pending: RefCell::default(),
            values: RefCell::new(values),
        };
        Tensor { node: Rc::new(node), view: View::whole(shape) }
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Computes it, and before it what it needs.
    pub fn compute(self: &Rc<Self>) -> Result<(), TensorError> {
        let mut stack = vec![Rc::clone(self)];
        while let Some(node) = stack.last() {
            let waiting = |node: &Rc<Self>| node.pending.borrow().is_some();
            let next =
                node.pending.borrow().as_ref().and_then(|pending| {
                    pending.inputs.iter().map(|input| &input.node).find(|node| waiting(node)).cloned()
                });
            if let Some(next) = next {
                stack.push(next);
                continue;
            }
            if let Some(pending) = node.pending.take() {
                node.machine.run(node, &pending)?;
            }
            stack.pop();
        }
        Ok(())
    }
}
