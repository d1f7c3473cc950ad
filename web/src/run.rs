//! Requests: to open a model, to make a text, to verify.

use std::error::Error;
use std::ops::ControlFlow;

use samebits::backend::Interrupt;
use samebits::backend::gpu::{AdapterOptions, Api};
use samebits::chat::{self, Message};
use samebits::engine::Fact;
use samebits::gguf::Gguf;
use samebits::model::Model;
use samebits::numerics::Precision;
use samebits::tokenizer::EncodeOptions;
use samebits::verify::{self, known_fingerprint, verify};
use samebits::{Llm, OpenOptions, Wanted};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{FILE, say, turn};

/// Positions of the context, unless a model was trained for fewer: a page has little memory.
const CONTEXT: usize = 2048;

/// What the page can ask for.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// To open a model.
    Open {
        /// The file that the page has written to memory, or the built-in model.
        file: bool,
        /// On WebGPU, or on the CPU.
        webgpu: bool,
        /// Activations as 16 bits instead of 8.
        precise: bool,
    },
    /// To continue a text with the model that is open.
    Generate(Wish),
    /// To verify that the model that is open gives the bits that it has everywhere.
    Verify {},
}

/// What a text shall be like.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// What it continues; with `chat` a message that the model answers.
    prompt: String,
    chat: bool,
    /// Tokens at most.
    tokens: usize,
    temperature: f32,
    seed: u64,
}

/// What is open.
#[derive(Default)]
pub struct Run(Option<Opened>);

struct Opened {
    llm: Llm,
    precision: Precision,
    webgpu: bool,
}

type Answer = Result<Value, Box<dyn Error>>;

impl Run {
    /// Does what is asked for.
    pub fn answer(&mut self, request: Request, interrupt: &Interrupt) -> Answer {
        match request {
            Request::Open { file, webgpu, precise } => {
                // Two models may not fit.
                self.0 = None;
                let opened = Opened::new(file, webgpu, precise, interrupt)?;
                let answer = opened.description();
                self.0 = Some(opened);
                Ok(answer)
            }
            Request::Generate(wish) => self.opened()?.generate(&wish, interrupt),
            Request::Verify {} => self.opened()?.verify(interrupt),
        }
    }

    fn opened(&mut self) -> Result<&mut Opened, &'static str> {
        self.0.as_mut().ok_or("no model is open")
    }
}

impl Opened {
    fn new(file: bool, webgpu: bool, precise: bool, interrupt: &Interrupt) -> Result<Self, Box<dyn Error>> {
        let model = Model::new(if file { Gguf::from_bytes(FILE.take())? } else { Model::stories_file()? })?;
        let precision = if precise { Precision::Precise } else { Precision::Fast };
        let options = OpenOptions {
            backend: if webgpu { Wanted::Gpu(Api::Any) } else { Wanted::Cpu },
            precision,
            context: Some(model.config.context_length.min(CONTEXT)),
            threads: Some(1),
            cache: None,
            ..OpenOptions::default()
        };
        let (mut done, mut all) = (0, 0);
        let mut hear = |fact: Fact<'_>| match fact {
            Fact::Uploads(bytes) => all = bytes,
            Fact::Uploaded(bytes) => {
                done += bytes;
                say(&json!({ "progress": { "what": "uploading", "done": done, "all": all } }));
                turn();
            }
            Fact::Deviates { adapter, failures } => {
                let failures = failures.join("; ");
                say(&json!({ "warning": format!("{adapter} does not give the bits of other machines: {failures}") }));
            }
            Fact::Ready | Fact::Taken { .. } | Fact::Refused { .. } | Fact::FewerThreads { .. } => {}
        };
        say(&json!({ "progress": { "what": if webgpu { "compiling shaders" } else { "repacking weights" } } }));
        turn();
        let mut llm = options.run_and_hear(model, &mut hear)?;
        llm.session().backend_mut().stop_on(interrupt.clone());
        Ok(Self { llm, precision, webgpu })
    }

    fn description(&self) -> Value {
        let (config, backend) = (&self.llm.model().config, self.llm.backend());
        json!({ "opened": {
            "model": config.name,
            "parameters": config.parameters,
            "backend": backend.name(),
            "device": backend.device(),
            "context": backend.limits().context,
            "chat": self.llm.model().gguf.get(chat::KEY).is_some(),
            "unfused": backend.unfused_because(),
        } })
    }

    fn generate(&mut self, wish: &Wish, interrupt: &Interrupt) -> Answer {
        say(&json!({ "progress": { "what": "reading the prompt" } }));
        turn();
        let text = match wish.chat {
            true => self.llm.chat(&[Message::new("user", wish.prompt.as_str())])?,
            false => self.llm.generate(&wish.prompt),
        };
        let text = text.temperature(wish.temperature).seed(wish.seed).max_tokens(wish.tokens);
        let mut pieces = 0;
        let made = text.each(|piece| {
            pieces += 1;
            say(&json!({ "text": piece, "progress": { "what": "writing", "done": pieces, "all": wish.tokens } }));
            turn();
            if interrupt.is_requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(json!({ "generated": {
            "prompt_tokens": made.prompt_computed,
            "tokens": made.tokens,
            "logits_hash": made.logits_hash,
            "stop_reason": made.stop_reason,
            "prefill_seconds": made.timings.prefill.as_secs_f64(),
            "decode_seconds": made.timings.decode.as_secs_f64(),
        } }))
    }

    /// What `samebits verify --quick` does, without its fresh processes.
    fn verify(&mut self, interrupt: &Interrupt) -> Answer {
        let prompt = "Once upon a time there was a small";
        let options = verify::Options {
            gpu: self.webgpu.then(AdapterOptions::default),
            precision: self.precision,
            threads: 1,
            runs: 3,
            rounds: 1,
            prompt: self.llm.tokenizer().encode(prompt, EncodeOptions { add_special: true, parse_special: true })?,
            many: 33,
            interrupt: interrupt.clone(),
        };
        let report = verify(self.llm.model(), &options, &mut |rung| {
            say(&json!({ "rung": rung }));
            turn();
            !interrupt.is_requested()
        })?;
        let known = known_fingerprint(self.llm.model(), self.precision);
        let holds = report.rungs.iter().all(|r| r.holds) && known.as_ref().is_none_or(|k| *k == report.fingerprint);
        Ok(json!({ "verified": { "holds": holds, "fingerprint": report.fingerprint, "known": known } }))
    }
}
