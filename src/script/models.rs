//! Models in scripts: their tensors, their metadata, their tokens, and what the program itself makes of a prompt.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use rhai::{Array, Dynamic, Engine, INT, NativeCallContext, Position};

use super::functions::{functions, lengths};
use super::{Given, Host, raised};
use crate::engine::{self, OpenOptions, Session, Wanted};
use crate::gguf::{Gguf, Value};
use crate::model::Model;
use crate::tensor::Tensor;
use crate::tokenizer::{EncodeOptions, Tokenizer};

/// An opened file.
#[derive(Clone)]
struct Opened {
    gguf: Arc<Gguf>,
    tensors: Rc<RefCell<HashMap<String, Tensor>>>,
}

/// A value of the metadata, as scripts have it.
fn value(value: &Value) -> Option<Dynamic> {
    if let Some(n) = value.as_u64() {
        return Some(Dynamic::from(n as INT));
    }
    match value {
        Value::Bool(b) => Some(Dynamic::from(*b)),
        Value::F32(x) => Some(Dynamic::from(f64::from(*x))),
        Value::F64(x) => Some(Dynamic::from(*x)),
        Value::String(text) => Some(Dynamic::from(text.clone())),
        _ => None,
    }
}

impl Opened {
    fn tokenizer(&self, at: Position) -> Given<Tokenizer> {
        Tokenizer::from_gguf(&self.gguf).map_err(|e| raised(e.to_string(), at))
    }

    /// The logits after every token, by the program's own engine on the CPU: `[tokens, vocabulary]`.
    fn logits(&self, host: &Host, ids: &Tensor, at: Position) -> Given<Tensor> {
        let ids: Vec<u32> = ids.words().map_err(|e| super::failed(&e, at))?;
        let wrong = |e: &dyn std::error::Error| raised(e.to_string(), at);
        let model = Model::new(Arc::clone(&self.gguf)).map_err(|e| wrong(&e))?;
        let options = OpenOptions {
            backend: Wanted::Cpu,
            precision: host.precision,
            context: Some(ids.len().max(1)),
            logits_rows: usize::MAX,
            ..OpenOptions::default()
        };
        let plan = model.plan(host.precision).map_err(|e| wrong(&e))?;
        let backend = engine::open(&model, &plan, &options, &mut |_| ()).map_err(|e| wrong(&e))?;
        let chunk = backend.limits().batch;
        let logits = Session::new(backend, chunk).feed(&ids, true).map_err(|e| wrong(&e))?;
        let shape = [ids.len(), model.config.vocabulary];
        host.op(at, || host.space.tensor(&shape, &logits))
    }
}

pub(super) fn register(engine: &mut Engine, host: &Rc<Host>) {
    engine.register_type_with_name::<Opened>("model");
    functions! { engine, host;
        "load_model" => |at, h, name: &str| {
            let gguf = (h.open_model)(name).map_err(|message| raised(message, at))?;
            Given::Ok(Opened { gguf: Arc::new(gguf), tensors: Rc::default() })
        };
        "load_model" => |at, _h| {
            let gguf = Model::stories_file().map_err(|e| raised(e.to_string(), at))?;
            Given::Ok(Opened { gguf: Arc::new(gguf), tensors: Rc::default() })
        };
        "tensor" => |at, h, model: Opened, name: &str| {
            if let Some(known) = model.tensors.borrow().get(name) {
                return Given::Ok(known.clone());
            }
            let tensor = h.op(at, || h.space.weight(&model.gguf, name))?;
            model.tensors.borrow_mut().insert(name.to_owned(), tensor.clone());
            Ok(tensor)
        };
        "has" => |_at, _h, model: Opened, name: &str| model.gguf.tensor(name).is_some();
        "get" => |at, _h, model: Opened, key: &str| {
            let found = model.gguf.get(key).and_then(value);
            found.ok_or_else(|| raised(format!("the file has no number or text '{key}'"), at))
        };
        "get_or" => |_at, _h, model: Opened, key: &str, otherwise: Dynamic| {
            model.gguf.get(key).and_then(value).unwrap_or(otherwise)
        };
        "tokenize" => |at, h, model: Opened, text: &str| {
            let options = EncodeOptions { add_special: true, parse_special: true };
            let ids = model.tokenizer(at)?.encode(text, options).map_err(|e| raised(e.to_string(), at))?;
            let ids: Vec<i32> = ids.into_iter().map(|id| id as i32).collect();
            h.op(at, || h.space.integers(&[ids.len()], &ids))
        };
        "detokenize" => |at, _h, model: Opened, ids: Tensor| {
            let ids = ids.words().map_err(|e| super::failed(&e, at))?;
            Given::Ok(String::from_utf8_lossy(&model.tokenizer(at)?.decode(&ids)).into_owned())
        };
        "logits" => |at, h, model: Opened, ids: Tensor| model.logits(h, &ids, at);
    }
    functions! { engine, host;
        "shape" => |_at, _h, x: Tensor| x.shape().iter().map(|n| Dynamic::from(*n as INT)).collect::<Array>();
        "item" => |at, _h, x: Tensor| x.item().map_err(|e| super::failed(&e, at));
        "integers" => |at, h, shape: Array, numbers: Array| {
            let shape = lengths(&shape, at)?;
            let numbers = super::functions::integers(&numbers, at)?;
            let wrong = |n: isize| raised(format!("{n} is beyond i32"), at);
            let numbers = numbers.into_iter().map(|n| i32::try_from(n).map_err(|_| wrong(n)));
            let numbers = numbers.collect::<Given<Vec<_>>>()?;
            h.op(at, || h.space.integers(&shape, &numbers))
        };
    }
}
