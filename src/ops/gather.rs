//! The rows whose logits are wanted, one after the other.

use super::examples::{Example, Floats, Scene, bits};
use super::float64::Memory64;
use super::shapes::{BufferId, Shapes, same};
use super::{Call, Operand, Operation, Part, Whole};
pub use crate::shaders::{GATHER as SHADER, params::Gather as Params};

/// Rows of `width` elements: `rows` names those of `x` that `out` gets.
pub fn cpu(width: usize, rows: &[u32], x: &[f32], out: &mut [f32]) {
    for (&row, out) in rows.iter().zip(out.chunks_exact_mut(width)) {
        out.copy_from_slice(&x[row as usize * width..][..width]);
    }
}

/// Workgroups for `rows` rows.
pub fn workgroups(p: &Params, rows: u32) -> [u32; 3] {
    [super::groups(p.width), rows, 1]
}

/// The rows of `x` whose logits are wanted, in order.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub struct Gather {
    pub x: BufferId,
    pub out: BufferId,
}

impl Operation for Gather {
    fn reads(&self) -> [Option<BufferId>; 2] {
        [Some(self.x), None]
    }

    fn output(&self) -> Option<BufferId> {
        Some(self.out)
    }

    fn check(&self, shapes: &Shapes<'_>) -> Result<(), String> {
        same("an input and an output", shapes.float(self.x)?, shapes.float(self.out)?)
    }

    fn call(&self, shapes: &Shapes<'_>, _: usize, _: &Part) -> Call {
        let p = Params { width: shapes.width(self.x) as u32 };
        let operands = [Operand::Wanted, Operand::Rows(self.x), Operand::Rows(self.out)];
        Call::new(&SHADER, &p, workgroups(&p, 1), operands)
    }
}

impl Whole for Gather {
    /// All rows are wanted.
    fn rows64(&self, from: &dyn Memory64) -> Vec<f64> {
        from.rows(self.x).to_vec()
    }

    /// Rows in reverse.
    fn examples(floats: Floats<'_>) -> Vec<Example> {
        let mut example = |(width, rows): (usize, usize)| {
            let (x, wanted) = (floats(width * rows), (0..rows as u32).rev().collect::<Vec<_>>());
            let mut expected = vec![0.0; x.len()];
            cpu(width, &wanted, &x, &mut expected);
            let mut scene = Scene { wanted, ..Scene::default() };
            let (x, out) = (scene.floats(width, &x), scene.floats(width, &vec![0.0; width * rows]));
            let shape = format!("[{rows}, {width}]");
            scene.example(&Self { x, out }, [rows, 0, 0], shape, (Operand::Rows(out), bits(&expected)))
        };
        [(1, 2), (257, 3), (2080, 1)].into_iter().filter_map(&mut example).collect()
    }
}
