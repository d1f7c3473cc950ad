//! What naga says of every variant of a shader, written down by the build script: overrides, workgroup memory, threads.

use super::{Shader, Weights};

/// A word of an expression over overrides, operators behind their operands. Booleans are 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Term {
    Word(u32),
    /// By its place among the variant's.
    Override(usize),
    Add,
    Subtract,
    Multiply,
    Divide,
    Equal,
    Less,
    Greater,
    /// Behind what is taken otherwise, what is taken, and the condition.
    Select,
}

/// An override of a shader.
#[derive(Debug)]
pub struct Override {
    /// Its name.
    pub name: &'static str,
    /// Its value where none is given.
    pub default: &'static [Term],
}

/// What is known of a variant.
#[derive(Debug)]
pub struct Facts {
    /// Its overrides.
    pub overrides: &'static [Override],
    /// Its variables in workgroup memory: bytes of an element, and how many there are.
    shared: &'static [(u32, &'static [Term])],
    threads: &'static [Term],
}

include!(concat!(env!("OUT_DIR"), "/facts.rs"));

impl Facts {
    /// Bytes of workgroup memory with these values of overrides. Every variable takes a multiple of 16.
    pub fn workgroup_memory(&self, given: &[(&str, u32)]) -> u32 {
        let bytes = |(element, count): &(u32, &[Term])| (element * self.value(count, given)).next_multiple_of(16);
        self.shared.iter().map(bytes).sum()
    }

    /// Threads of a workgroup with these values of overrides.
    pub fn threads(&self, given: &[(&str, u32)]) -> u32 {
        self.value(self.threads, given)
    }

    fn value(&self, terms: &[Term], given: &[(&str, u32)]) -> u32 {
        let mut stack: Vec<u32> = Vec::new();
        for term in terms {
            let mut pop = || stack.pop().unwrap_or_default();
            let value = match *term {
                Term::Word(word) => word,
                Term::Override(i) => {
                    let Override { name, default } = &self.overrides[i];
                    let known = given.iter().find(|(n, _)| n == name);
                    known.map_or_else(|| self.value(default, given), |(_, value)| *value)
                }
                Term::Select => {
                    let (condition, accept, reject) = (pop(), pop(), pop());
                    if condition != 0 { accept } else { reject }
                }
                operator => {
                    let (b, a) = (pop(), pop());
                    match operator {
                        Term::Add => a.wrapping_add(b),
                        Term::Subtract => a.wrapping_sub(b),
                        Term::Multiply => a.wrapping_mul(b),
                        Term::Divide => a.checked_div(b).unwrap_or_default(),
                        Term::Less => u32::from(a < b),
                        Term::Greater => u32::from(a > b),
                        _ => u32::from(a == b),
                    }
                }
            };
            stack.push(value);
        }
        stack.pop().unwrap_or_default()
    }
}

impl Shader {
    /// What is known of the variant for a format; `None` for shaders that are not in the table.
    pub fn facts(&self, format: Option<&Weights>) -> Option<&'static Facts> {
        let format = format.map_or("", |f| f.name);
        FACTS.iter().find(|(shader, f, _)| *shader == self.name && *f == format).map(|(.., facts)| *facts)
    }
}
