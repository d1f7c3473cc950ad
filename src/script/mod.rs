//! Tensor programs as scripts in [Rhai](https://rhai.rs): the ops of [`crate::tensor`] by name, models, and checks.
//!
//! A script runs once or several times in a [`Space`]. Every op knows its line, so an op whose bits differ between the CPU and a GPU, or
//! between two runs, is found by its place. `docs/tensors.md` lists the functions.

mod functions;
mod models;
mod show;

use std::cell::RefCell;
use std::rc::Rc;

use rhai::{Dynamic, Engine, EvalAltResult, Position, Scope};
use thiserror::Error;

use crate::backend::Interrupt;
use crate::gguf::Gguf;
use crate::numerics::Precision;
use crate::tensor::{Dtype, Place, Space, Step, Tensor, TensorError};

/// Opens a model by its name, or says why there is none.
pub type OpenModel = Rc<dyn Fn(&str) -> Result<Gguf, String>>;

/// How a script runs.
pub struct Options {
    /// What `load_model` does.
    pub open_model: OpenModel,
    /// Precision of products with the matrices of models.
    pub precision: Precision,
    /// Whether results of f32 are rounded to f16.
    pub halves: bool,
    /// Operations of the language (not of tensors) after which a run ends.
    pub limit: u64,
    /// What the script finds in `args`.
    pub arguments: Vec<String>,
    /// Ends a run once it is set.
    pub interrupt: Interrupt,
}

/// Why a script did not come to its end.
#[derive(Debug, Error)]
pub enum ScriptError {
    /// It is no script, an op failed, or a check does not hold.
    #[error("{message}")]
    Failed {
        /// Where.
        place: Option<Place>,
        /// Why.
        message: String,
    },
    /// It was asked to end.
    #[error("interrupted")]
    Interrupted,
    /// Nothing more can be printed.
    #[error(transparent)]
    Print(PrintError),
}

/// Why nothing more can be printed.
pub type PrintError = Box<dyn std::error::Error>;

/// What a script prints; an error ends it.
type Print = Box<dyn Fn(&str) -> Result<(), PrintError>>;

/// What functions of a script share.
struct Host {
    space: Space,
    precision: Precision,
    halves: bool,
    open_model: OpenModel,
    /// Whether every op runs at once.
    eager: bool,
    print: Print,
    /// Why nothing more can be printed, once that is so.
    unprinted: RefCell<Option<PrintError>>,
}

/// What functions of a script give.
type Given<T> = Result<T, Box<EvalAltResult>>;

impl Host {
    /// Prints a line.
    fn say(&self, text: &str, at: Position) -> Given<()> {
        (self.print)(text).map_err(|error| {
            *self.unprinted.borrow_mut() = Some(error);
            raised("nothing more can be printed".to_owned(), at)
        })
    }

    /// Runs an op for a place of the script.
    fn op<T: Results>(&self, at: Position, f: impl FnOnce() -> Result<T, TensorError>) -> Given<T> {
        self.space.at(place(at));
        let finished = f().and_then(|results| {
            results.each(|t| {
                let t = if self.halves && t.dtype() == Dtype::F32 { t.half()? } else { t };
                if self.eager {
                    t.compute()?;
                }
                Ok(t)
            })
        });
        finished.map_err(|e| failed(&e, at))
    }
}

/// The tensors that an op gives.
trait Results: Sized {
    /// What `f` makes of each.
    fn each(self, f: impl FnMut(Tensor) -> Result<Tensor, TensorError>) -> Result<Self, TensorError>;
}

impl Results for Tensor {
    fn each(self, mut f: impl FnMut(Self) -> Result<Self, TensorError>) -> Result<Self, TensorError> {
        f(self)
    }
}

impl Results for (Tensor, Tensor) {
    fn each(self, mut f: impl FnMut(Tensor) -> Result<Tensor, TensorError>) -> Result<Self, TensorError> {
        Ok((f(self.0)?, f(self.1)?))
    }
}

fn place(at: Position) -> Option<Place> {
    at.line().map(|line| Place { line, column: at.position().unwrap_or(0) })
}

/// An error of an op, at the place where it was asked for.
fn failed(error: &TensorError, at: Position) -> Box<EvalAltResult> {
    let asked = error.place().and_then(|p| Some((u16::try_from(p.line).ok()?, u16::try_from(p.column).ok()?)));
    let at = asked.map_or(at, |(line, column)| Position::new(line, column));
    raised(error.to_string(), at)
}

fn raised(message: String, at: Position) -> Box<EvalAltResult> {
    Box::new(EvalAltResult::ErrorRuntime(Dynamic::from(message), at))
}

/// A script that can run.
pub struct Script {
    engine: Engine,
    ast: rhai::AST,
    host: Rc<Host>,
    arguments: Vec<String>,
}

impl Script {
    /// Reads a script. `print` gets what it prints, a line at a time; `eager` runs every op at once, in the order of the script.
    ///
    /// # Errors
    /// Where it is no script.
    pub fn new(
        text: &str,
        space: &Space,
        options: &Options,
        eager: bool,
        print: impl Fn(&str) -> Result<(), PrintError> + 'static,
    ) -> Result<Self, ScriptError> {
        let mut engine = Engine::new();
        engine.set_max_operations(options.limit);
        engine.set_max_expr_depths(256, 256);
        engine.set_max_call_levels(128);
        let host = Rc::new(Host {
            space: space.clone(),
            precision: options.precision,
            halves: options.halves,
            open_model: Rc::clone(&options.open_model),
            eager,
            print: Box::new(print),
            unprinted: RefCell::default(),
        });
        let (interrupt, watched) = (options.interrupt.clone(), Rc::clone(&host));
        engine.on_progress(move |_| {
            (interrupt.is_requested() || watched.unprinted.borrow().is_some()).then_some(Dynamic::UNIT)
        });
        let printed = Rc::clone(&host);
        // An error ends the script at its next operation.
        engine.on_print(move |text| drop(printed.say(text, Position::NONE)));
        functions::register(&mut engine, &host);
        models::register(&mut engine, &host);
        show::register(&mut engine, &host);
        let ast = engine
            .compile(text)
            .map_err(|e| ScriptError::Failed { place: place(e.position()), message: e.err_type().to_string() })?;
        Ok(Self { engine, ast, host, arguments: options.arguments.clone() })
    }

    /// Runs it, and gives what it has computed, in order, where `steps` are wanted.
    ///
    /// # Errors
    /// Where it ends before its end.
    pub fn run(&self, steps: bool) -> Result<Vec<Step>, ScriptError> {
        let heard = Rc::new(RefCell::new(Vec::new()));
        if steps {
            let heard = Rc::clone(&heard);
            self.host.space.listen(Some(Box::new(move |step| heard.borrow_mut().push(step.clone()))));
        }
        let mut scope = Scope::new();
        let arguments: rhai::Array = self.arguments.iter().map(|a| Dynamic::from(a.clone())).collect();
        scope.push_constant("args", arguments);
        let result = self.engine.run_ast_with_scope(&mut scope, &self.ast);
        self.host.space.listen(None);
        self.host.space.at(None);
        if let Some(error) = self.host.unprinted.take() {
            return Err(ScriptError::Print(error));
        }
        result.map_err(|error| self.said(&error))?;
        Ok(heard.take())
    }

    /// An error of a run, as a user reads it.
    fn said(&self, error: &EvalAltResult) -> ScriptError {
        let inner = error.unwrap_inner();
        let mut position = inner.position();
        if position.is_none() {
            position = error.position();
        }
        let message = match inner {
            EvalAltResult::ErrorTerminated(..) => return ScriptError::Interrupted,
            EvalAltResult::ErrorRuntime(value, _) => value.to_string(),
            EvalAltResult::ErrorTooManyOperations(_) => {
                format!("the script has made {} operations and is not at its end", self.engine.max_operations())
            }
            other => {
                let mut other = other.to_string();
                // The place is said before it.
                if let Some(at) = other.rfind(" (line ") {
                    other.truncate(at);
                }
                other
            }
        };
        ScriptError::Failed { place: place(position), message }
    }
}
