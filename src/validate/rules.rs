//! The numerics contract (`docs/numerics.md`, rules 1 and 2) on naga's IR.

use naga::{BinaryOperator, Expression, Handle, Module, ScalarKind, Statement, TypeInner};

/// What a module does against the contract: float results that are not sealed, and banned operations.
pub fn violations(module: &Module, info: &naga::valid::ModuleInfo) -> Vec<String> {
    let mut found = Vec::new();
    for (handle, function) in module.functions.iter() {
        check(module, function, &info[handle], &mut found);
    }
    for (i, entry) in module.entry_points.iter().enumerate() {
        check(module, &entry.function, info.get_entry_point(i), &mut found);
    }
    found
}

fn check(module: &Module, function: &naga::Function, info: &naga::valid::FunctionInfo, found: &mut Vec<String>) {
    let name = function.name.clone().unwrap_or_default();
    let float = |e: Handle<Expression>| {
        let kind = |s: &naga::Scalar| s.kind == ScalarKind::Float;
        match info[e].ty.inner_with(&module.types) {
            TypeInner::Scalar(s) | TypeInner::Vector { scalar: s, .. } | TypeInner::Matrix { scalar: s, .. } => kind(s),
            _ => false,
        }
    };
    let sealed = sealed_arguments(module, &function.body);
    for (handle, expression) in function.expressions.iter() {
        match expression {
            Expression::Binary { op, .. } if float(handle) => match op {
                BinaryOperator::Divide | BinaryOperator::Modulo => found.push(format!("{name}: float {op:?}")),
                // An exact product may be fused with the sum it goes to.
                BinaryOperator::Multiply if name.starts_with("add_exact") => {}
                // `seal` hides its argument; only there a float result may go.
                _ if !sealed.contains(&handle) => found.push(format!("{name}: unsealed {op:?}")),
                _ => {}
            },
            Expression::Math { fun, arg, .. } if float(*arg) => {
                use naga::MathFunction as F;
                let allowed = [F::Abs, F::Min, F::Max, F::Clamp, F::Floor, F::Trunc, F::Round];
                // What wgsl/lib/native.wgsl makes the operations of, and wgsl/lib/units.wgsl those of halves.
                let operations = ["add", "sub", "mul", "add4", "mul4", "add_exact", "add_exact4"];
                let of_halves = ["sub_half", "sub_half4", "mul_half4"];
                let operation = operations.iter().chain(&of_halves).any(|o| *o == name);
                if !(allowed.contains(fun) || *fun == F::Fma && operation) {
                    found.push(format!("{name}: banned {fun:?}"));
                }
            }
            Expression::Math { fun: naga::MathFunction::Unpack2x16float, .. } if !name.starts_with("f16") => {
                found.push(format!("{name}: banned Unpack2x16float"));
            }
            Expression::Derivative { .. } => found.push(format!("{name}: derivative")),
            _ => {}
        }
    }
}

/// Arguments of calls to `seal` and `seal4`.
fn sealed_arguments(module: &Module, block: &naga::Block) -> Vec<Handle<Expression>> {
    let mut out = Vec::new();
    for statement in block.iter() {
        match statement {
            Statement::Call { function, arguments, .. }
                if matches!(module.functions[*function].name.as_deref(), Some("seal" | "seal4")) =>
            {
                out.extend(arguments);
            }
            Statement::Block(b) => out.extend(sealed_arguments(module, b)),
            Statement::If { accept, reject, .. } => {
                out.extend(sealed_arguments(module, accept));
                out.extend(sealed_arguments(module, reject));
            }
            Statement::Loop { body, continuing, .. } => {
                out.extend(sealed_arguments(module, body));
                out.extend(sealed_arguments(module, continuing));
            }
            Statement::Switch { cases, .. } => {
                cases.iter().for_each(|c| out.extend(sealed_arguments(module, &c.body)));
            }
            _ => {}
        }
    }
    out
}
