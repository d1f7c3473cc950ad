//! What every WGSL compiler takes (`docs/shaders.md`), on naga's IR and, for what that does not keep, on the text.
//!
//! naga accepts more than other compilers do. FXC, the compiler that every Windows has, follows values only so far: it cannot
//! write a component of a vector at a computed index inside a loop, and takes a barrier only where it sees that all threads of
//! a workgroup get there. Tint demands the parentheses of the WGSL grammar. For Metal naga 30 declares an operand of a packed dot
//! product once for each product that has it.

use std::collections::{HashMap, HashSet};

use naga::back::PipelineConstants;
use naga::{
    AddressSpace, Binding, Block, BuiltIn, Expression, Function, Handle, MathFunction, Module, Statement,
    StorageAccess, TypeInner,
};
use naga::{ShaderStage, valid};

/// Workgroup memory that DX12, Metal and WebGPU give at least, in bytes.
pub const WORKGROUP_MEMORY: u32 = 32 << 10;

/// Bytes of workgroup memory of the entry point `entry` with these values of overrides: every variable takes a multiple of 16.
///
/// # Errors
/// Where a value or an expression does not fit the module.
pub fn workgroup_memory(
    module: &Module,
    info: &valid::ModuleInfo,
    entry: &str,
    constants: &PipelineConstants,
) -> Result<u32, String> {
    let point = Some((ShaderStage::Compute, entry));
    let (module, _) =
        naga::back::pipeline_constants::process_overrides(module, info, point, constants).map_err(|e| e.to_string())?;
    let shared = module.global_variables.iter().filter(|(_, v)| v.space == AddressSpace::WorkGroup);
    Ok(shared.map(|(_, v)| module.types[v.ty].inner.size(module.to_ctx()).next_multiple_of(16)).sum())
}

/// What a module has that some compilers refuse or get wrong.
pub fn unportable(module: &Module, info: &valid::ModuleInfo) -> Vec<String> {
    let mut found = Vec::new();
    for (handle, function) in module.functions.iter() {
        component_stores(module, function, &info[handle], &mut found);
    }
    let functions: Vec<_> = module.functions.iter().map(|(_, f)| f).collect();
    for (i, entry) in module.entry_points.iter().enumerate() {
        component_stores(module, &entry.function, info.get_entry_point(i), &mut found);
        if let Ok(bytes) = workgroup_memory(module, info, &entry.name, &PipelineConstants::default())
            && bytes > WORKGROUP_MEMORY
            && !super::uses_matrix_units(module)
        {
            let name = &entry.name;
            found.push(format!("{name}: {bytes} bytes of workgroup memory by default, at most {WORKGROUP_MEMORY}"));
        }
        let uniform = |binding: &Option<Binding>| {
            let group = [BuiltIn::WorkGroupId, BuiltIn::NumWorkGroups];
            matches!(binding, Some(Binding::BuiltIn(b)) if group.contains(b))
        };
        let arguments = entry.function.arguments.iter().map(|a| uniform(&a.binding)).collect();
        let mut flow = Flow { module, known: HashMap::new() };
        found.extend(flow.of(&entry.function, &entry.name, arguments).found.iter().cloned());
    }
    for function in functions.into_iter().chain(module.entry_points.iter().map(|e| &e.function)) {
        let name = function.name.as_deref().unwrap_or("main");
        if returns_before_barrier(module, &function.body) {
            found.push(format!("{name}: a return before a barrier"));
        }
        if shares_dot_operand(function) {
            found.push(format!("{name}: an operand of two packed dot products"));
        }
    }
    found.sort();
    found.dedup();
    found
}

/// Components of vectors that are written at an index only known at run time; in workgroup and storage memory, which has
/// addresses, that is fine.
fn component_stores(module: &Module, function: &Function, info: &valid::FunctionInfo, found: &mut Vec<String>) {
    let name = function.name.as_deref().unwrap_or("main");
    let local = |space| matches!(space, AddressSpace::Function | AddressSpace::Private);
    let vector = |e: Handle<Expression>| match *info[e].ty.inner_with(&module.types) {
        TypeInner::Pointer { base, space } => {
            local(space) && matches!(module.types[base].inner, TypeInner::Vector { .. })
        }
        TypeInner::ValuePointer { size: Some(_), space, .. } => local(space),
        _ => false,
    };
    each(&function.body, &mut |statement| {
        if let Statement::Store { pointer, .. } = *statement
            && let Expression::Access { base, .. } = function.expressions[pointer]
            && vector(base)
        {
            found.push(format!("{name}: a vector's component written at a computed index"));
        }
    });
}

/// Whether a value is an operand of more than one packed dot product. In Metal's text of it naga declares the same variable twice.
fn shares_dot_operand(function: &Function) -> bool {
    let mut operands = HashSet::new();
    let mut new = |e: &Option<Handle<Expression>>| e.is_none_or(|e| operands.insert(e));
    function.expressions.iter().any(|(_, e)| match e {
        Expression::Math { fun: MathFunction::Dot4I8Packed | MathFunction::Dot4U8Packed, arg, arg1, .. } => {
            !(new(&Some(*arg)) && new(arg1))
        }
        _ => false,
    })
}

/// Calls `f` with every statement of a block, in order, those inside others after them.
fn each<'a>(block: &'a Block, f: &mut impl FnMut(&'a Statement)) {
    for statement in block.iter() {
        f(statement);
        for inner in blocks(statement) {
            each(inner, f);
        }
    }
}

/// The blocks of a statement.
fn blocks(statement: &Statement) -> Vec<&Block> {
    match statement {
        Statement::Block(b) => vec![b],
        Statement::If { accept, reject, .. } => vec![accept, reject],
        Statement::Loop { body, continuing, .. } => vec![body, continuing],
        Statement::Switch { cases, .. } => cases.iter().map(|c| &c.body).collect(),
        _ => Vec::new(),
    }
}

/// Whether all threads of a workgroup must meet in a block.
fn has_barrier(module: &Module, block: &Block) -> bool {
    let mut found = false;
    each(block, &mut |statement| {
        found |= match *statement {
            Statement::ControlBarrier(_) | Statement::WorkGroupUniformLoad { .. } => true,
            Statement::Call { function, .. } => has_barrier(module, &module.functions[function].body),
            _ => false,
        };
    });
    found
}

fn has(block: &Block, wanted: fn(&Statement) -> bool) -> bool {
    let mut found = false;
    each(block, &mut |statement| found |= wanted(statement));
    found
}

/// Whether a block leaves the function before a barrier that other threads get to.
fn returns_before_barrier(module: &Module, block: &Block) -> bool {
    let returns = |b: &&Block| has(b, |s| matches!(s, Statement::Return { .. }));
    let mut returned = false;
    for statement in block.iter() {
        let inner = blocks(statement);
        let meets = matches!(statement, Statement::ControlBarrier(_) | Statement::WorkGroupUniformLoad { .. })
            || matches!(statement, Statement::Call { function, .. } if has_barrier(module, &module.functions[*function].body))
            || inner.iter().any(|b| has_barrier(module, b));
        if meets && returned || inner.iter().any(|b| returns_before_barrier(module, b)) {
            return true;
        }
        returned |= inner.iter().any(returns);
        // In a loop the barrier may come in the next round.
        if meets && returned && matches!(statement, Statement::Loop { .. }) {
            return true;
        }
    }
    false
}

/// What is known of a function, called with arguments of which some are the same in all threads of a workgroup.
#[derive(Default)]
struct Called {
    /// Whether the result is the same in all threads.
    uniform: bool,
    found: Vec<String>,
}

/// Follows which values are the same in all threads of a workgroup.
struct Flow<'a> {
    module: &'a Module,
    known: HashMap<(String, Vec<bool>), std::rc::Rc<Called>>,
}

/// A function while it is walked through.
struct Frame<'a> {
    function: &'a Function,
    name: &'a str,
    arguments: Vec<bool>,
    /// Whether each local variable is the same in all threads.
    locals: HashMap<Handle<naga::LocalVariable>, bool>,
    /// Whether the results of calls are.
    results: HashMap<Handle<Expression>, bool>,
    called: Called,
}

impl<'a> Flow<'a> {
    fn of(&mut self, function: &'a Function, name: &'a str, arguments: Vec<bool>) -> std::rc::Rc<Called> {
        let key = (name.to_owned(), arguments.clone());
        if let Some(known) = self.known.get(&key) {
            return std::rc::Rc::clone(known);
        }
        let mut frame = Frame {
            function,
            name,
            arguments,
            locals: function.local_variables.iter().map(|(v, _)| (v, true)).collect(),
            results: HashMap::new(),
            called: Called::default(),
        };
        // A variable that turns out to differ makes others differ that were looked at before.
        loop {
            let before = (frame.locals.clone(), frame.results.clone());
            frame.called = Called { uniform: true, found: Vec::new() };
            self.walk(&mut frame, &function.body, true);
            if before == (frame.locals.clone(), frame.results.clone()) {
                break;
            }
        }
        let called = std::rc::Rc::new(frame.called);
        self.known.insert(key, std::rc::Rc::clone(&called));
        called
    }

    /// `together`: whether all threads are here.
    fn walk(&mut self, f: &mut Frame<'a>, block: &'a Block, mut together: bool) {
        for statement in block.iter() {
            match statement {
                Statement::ControlBarrier(_) | Statement::WorkGroupUniformLoad { .. } if !together => {
                    let name = f.name;
                    f.called
                        .found
                        .push(format!("{name}: a barrier that not all threads reach, as far as compilers see"));
                }
                Statement::Store { pointer, value } => {
                    let uniform = together && self.uniform(f, *value) && self.uniform(f, *pointer);
                    if let Some(variable) = root(f.function, *pointer) {
                        *f.locals.entry(variable).or_insert(true) &= uniform;
                    }
                }
                Statement::Call { function, arguments, result } => {
                    let uniform: Vec<_> = arguments.iter().map(|a| self.uniform(f, *a)).collect();
                    let callee = &self.module.functions[*function];
                    let called = self.of(callee, callee.name.as_deref().unwrap_or("?"), uniform);
                    f.called.found.extend(called.found.iter().cloned());
                    if !together && has_barrier(self.module, &callee.body) {
                        let (name, callee) = (f.name, callee.name.as_deref().unwrap_or("?"));
                        f.called.found.push(format!("{name}: not all threads reach the barriers of {callee}"));
                    }
                    if let Some(result) = result {
                        f.results.insert(*result, together && called.uniform);
                    }
                    // What a call writes through a pointer is not followed.
                    for variable in arguments.iter().filter_map(|a| root(f.function, *a)) {
                        f.locals.insert(variable, false);
                    }
                }
                Statement::Return { value } => {
                    let uniform = together && value.is_none_or(|v| self.uniform(f, v));
                    f.called.uniform &= uniform;
                }
                Statement::Block(b) => self.walk(f, b, together),
                Statement::If { condition, accept, reject } => {
                    let here = together && self.uniform(f, *condition);
                    self.walk(f, accept, here);
                    self.walk(f, reject, here);
                    if !here && [accept, reject].iter().any(|b| has(b, |s| matches!(s, Statement::Return { .. }))) {
                        together = false;
                    }
                }
                Statement::Switch { selector, cases } => {
                    let here = together && self.uniform(f, *selector);
                    cases.iter().for_each(|c| self.walk(f, &c.body, here));
                }
                Statement::Loop { body, continuing, break_if } => {
                    let here = together && break_if.is_none_or(|c| self.uniform(f, c)) && !self.strays(f, body, false);
                    self.walk(f, body, here);
                    self.walk(f, continuing, here);
                }
                _ => {}
            }
        }
    }

    /// Whether threads may leave a loop, or a round of it, one without the other; `apart`: whether they are apart already.
    fn strays(&self, f: &Frame<'a>, block: &Block, apart: bool) -> bool {
        block.iter().any(|statement| match statement {
            Statement::Break | Statement::Continue | Statement::Return { .. } => apart,
            Statement::If { condition, accept, reject } => {
                let apart = apart || !self.uniform(f, *condition);
                self.strays(f, accept, apart) || self.strays(f, reject, apart)
            }
            // What leaves a loop inside does not leave this one.
            Statement::Loop { body, .. } => has(body, |s| matches!(s, Statement::Return { .. })),
            other => blocks(other).iter().any(|b| self.strays(f, b, apart)),
        })
    }

    /// Whether an expression has the same value in all threads of a workgroup.
    fn uniform(&self, f: &Frame<'_>, e: Handle<Expression>) -> bool {
        let all = |list: &[Handle<Expression>]| list.iter().all(|e| self.uniform(f, *e));
        match f.function.expressions[e] {
            Expression::Literal(_)
            | Expression::Constant(_)
            | Expression::Override(_)
            | Expression::ZeroValue(_)
            | Expression::ArrayLength(_) => true,
            Expression::FunctionArgument(i) => f.arguments.get(i as usize).copied().unwrap_or(false),
            // What other threads write is the same for all only between barriers, which compilers do not look at.
            Expression::GlobalVariable(g) => match self.module.global_variables[g].space {
                AddressSpace::Uniform => true,
                AddressSpace::Storage { access } => !access.contains(StorageAccess::STORE),
                _ => false,
            },
            Expression::LocalVariable(v) => f.locals.get(&v).copied().unwrap_or(false),
            Expression::WorkGroupUniformLoadResult { .. } => true,
            Expression::CallResult(_) => f.results.get(&e).copied().unwrap_or(true),
            Expression::Load { pointer: inner }
            | Expression::AccessIndex { base: inner, .. }
            | Expression::Splat { value: inner, .. }
            | Expression::Swizzle { vector: inner, .. }
            | Expression::Unary { expr: inner, .. }
            | Expression::Relational { argument: inner, .. }
            | Expression::As { expr: inner, .. } => self.uniform(f, inner),
            Expression::Access { base, index } => all(&[base, index]),
            Expression::Binary { left, right, .. } => all(&[left, right]),
            Expression::Select { condition, accept, reject } => all(&[condition, accept, reject]),
            Expression::Compose { ref components, .. } => all(components),
            Expression::Math { arg, arg1, arg2, arg3, .. } => {
                self.uniform(f, arg) && [arg1, arg2, arg3].into_iter().flatten().all(|a| self.uniform(f, a))
            }
            _ => false,
        }
    }
}

/// The local variable that a pointer points into.
fn root(function: &Function, mut pointer: Handle<Expression>) -> Option<Handle<naga::LocalVariable>> {
    loop {
        pointer = match function.expressions[pointer] {
            Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => base,
            Expression::LocalVariable(variable) => return Some(variable),
            _ => return None,
        };
    }
}
