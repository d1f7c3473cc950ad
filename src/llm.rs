//! The front door: a model that is opened and asked for texts.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::Path;

use thiserror::Error;

use crate::backend::{Backend, BackendError};
#[cfg(feature = "chat")]
use crate::chat::{ChatError, Message, Template};
use crate::engine::{self, EngineError, Fact, Generator, OpenOptions, Request, Session, Text};
use crate::grammar::{Constraints, Grammar, GrammarError, Thinking};
use crate::model::{Model, ModelError};
use crate::sample::{Order, SamplerOptions};
use crate::tokenizer::{EncodeOptions, Tokenizer, TokenizerError};

/// Tokens that a backend which works ahead makes at once for a stream.
const AHEAD: usize = 8;

/// Why a model is not opened, or gives no text.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum Error {
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    #[cfg(feature = "chat")]
    #[error(transparent)]
    Chat(#[from] ChatError),
    /// An adapter that was asked for by name does not keep the numerics contract.
    #[error("{adapter} does not compute what other machines do: {}", failures.join("; "))]
    Deviates { adapter: String, failures: Vec<String> },
}

/// Opens a GGUF file on the best GPU that passes the self-test, or on the CPU. [`OpenOptions::open`] has the choice.
///
/// # Errors
/// Where the file is no model that this crate runs.
///
/// ```
/// # fn main() -> Result<(), samebits::Error> {
/// let mut llm = samebits::open("models/stories.gguf")?;
/// let text = llm.generate("Once upon a time").max_tokens(16).text()?;
/// assert_eq!(text.tokens.len(), 16);
/// # Ok(())
/// # }
/// ```
pub fn open(path: impl AsRef<Path>) -> Result<Llm, Error> {
    OpenOptions::default().open(path)
}

impl OpenOptions {
    /// Opens a GGUF file.
    ///
    /// # Errors
    /// Where the file is no model that this crate runs, or the backend that is asked for does not run it.
    ///
    /// ```
    /// use samebits::{OpenOptions, Wanted};
    ///
    /// # fn main() -> Result<(), samebits::Error> {
    /// let options = OpenOptions { backend: Wanted::Cpu, context: Some(256), threads: Some(1), ..OpenOptions::default() };
    /// let llm = options.open("models/stories.gguf")?;
    /// assert_eq!(llm.backend().name(), "cpu");
    /// # Ok(())
    /// # }
    /// ```
    pub fn open(&self, path: impl AsRef<Path>) -> Result<Llm, Error> {
        self.run(Model::open(path.as_ref())?)
    }

    /// Runs a model that is open already.
    ///
    /// # Errors
    /// Where the backend that is asked for does not run it.
    pub fn run(&self, model: Model) -> Result<Llm, Error> {
        let mut deviates = None;
        let llm = self.run_and_hear(model, &mut |fact| {
            if let Fact::Deviates { adapter, failures } = fact {
                deviates = Some(Error::Deviates { adapter: adapter.to_owned(), failures: failures.to_vec() });
            }
        })?;
        match deviates {
            Some(error) => Err(error),
            None => Ok(llm),
        }
    }

    /// The same; `hear` is told what happens, and a backend that deviates from others is only told.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_and_hear(&self, model: Model, hear: &mut dyn FnMut(Fact<'_>)) -> Result<Llm, Error> {
        let tokenizer = Tokenizer::from_gguf(&model.gguf)?;
        let plan = model.for_context(self.context_of(&model)).plan(self.precision)?;
        let backend = engine::open(&model, &plan, self, hear)?;
        let chunk = backend.limits().batch;
        let session = Session::new(backend, chunk).looking_up(self.lookup);
        Ok(Llm { model, tokenizer, session, last: None, constraints: Constraints::default() })
    }
}

/// A model on a backend.
pub struct Llm {
    model: Model,
    tokenizer: Tokenizer,
    session: Session,
    last: Option<Text>,
    constraints: Constraints,
}

impl Llm {
    /// A text behind `prompt`, to be described and then made. What the prompt begins with in common with the text before is not
    /// computed again.
    ///
    /// ```
    /// # fn main() -> Result<(), samebits::Error> {
    /// let mut llm = samebits::open("models/stories.gguf")?;
    /// let mut tell = |seed| llm.generate("Once upon a time").temperature(0.8).seed(seed).max_tokens(8).text();
    /// let (one, two, again) = (tell(1)?, tell(2)?, tell(1)?);
    /// assert_ne!(one.tokens, two.tokens);
    /// // The same request has the same bits.
    /// assert_eq!(one.logits_hash, again.logits_hash);
    /// # Ok(())
    /// # }
    /// ```
    pub fn generate<'a>(&'a mut self, prompt: &str) -> Generate<'a> {
        let encoded = self.tokenizer.encode(prompt, EncodeOptions { add_special: true, parse_special: true });
        Generate::new(self, encoded.map_err(Error::from))
    }

    /// A text behind tokens.
    pub fn generate_from<'a>(&'a mut self, prompt: &[u32]) -> Generate<'a> {
        Generate::new(self, Ok(prompt.to_vec()))
    }

    /// The answer of a model that is made for conversations, by its own template.
    ///
    /// # Errors
    /// [`ChatError::NoTemplate`]; what the template refuses.
    #[cfg(feature = "chat")]
    pub fn chat<'a>(&'a mut self, messages: &[Message]) -> Result<Generate<'a>, Error> {
        let template = Template::of_model(&self.model.gguf, &self.tokenizer)?;
        let prompt = template.prompt(messages)?;
        let thinking = template.thinking(&prompt.text);
        Ok(Generate { thinking, ..Generate::new(self, Ok(prompt.ids)) })
    }

    /// The same by a template of this name (`chat::names`).
    ///
    /// # Errors
    /// [`ChatError::Unknown`]; what the template refuses.
    #[cfg(feature = "chat")]
    pub fn chat_by<'a>(&'a mut self, template: &str, messages: &[Message]) -> Result<Generate<'a>, Error> {
        let template = Template::named(template, &self.model.gguf, &self.tokenizer)?;
        let prompt = template.prompt(messages)?;
        let thinking = template.thinking(&prompt.text);
        Ok(Generate { thinking, ..Generate::new(self, Ok(prompt.ids)) })
    }

    /// The text that was made last, as far as it was.
    pub fn last(&self) -> Option<&Text> {
        self.last.as_ref()
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Its vocabulary.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// What computes.
    pub fn backend(&self) -> &dyn Backend {
        self.session.backend()
    }

    /// The sequence of tokens in the cache, for instruments.
    pub fn session(&mut self) -> &mut Session {
        &mut self.session
    }
}

/// A text that is being described. [`Self::stream`] and [`Self::text`] make it.
pub struct Generate<'a> {
    llm: &'a mut Llm,
    prompt: Result<Vec<u32>, Error>,
    request: Request,
    grammar: Option<Grammar>,
    thinking: Thinking,
}

impl<'a> Generate<'a> {
    fn new(llm: &'a mut Llm, prompt: Result<Vec<u32>, Error>) -> Self {
        let request = Request::new(Vec::new());
        Self { llm, prompt, request, grammar: None, thinking: Thinking::Never }
    }

    fn sampling(mut self, change: impl FnOnce(&mut SamplerOptions)) -> Self {
        change(&mut self.request.sampling);
        self
    }

    /// 0 always takes the likeliest token, which is the default; higher is more varied.
    pub fn temperature(self, temperature: f32) -> Self {
        self.sampling(|s| s.temperature = temperature)
    }

    /// Draws from the `n` likeliest tokens only, 0 for all (40).
    pub fn top_k(self, n: usize) -> Self {
        self.sampling(|s| s.top_k = n)
    }

    /// Draws from the likeliest tokens that together have this probability (0.95).
    pub fn top_p(self, share: f32) -> Self {
        self.sampling(|s| s.top_p = share)
    }

    /// Drops tokens less likely than this share of the likeliest (0.05).
    pub fn min_p(self, share: f32) -> Self {
        self.sampling(|s| s.min_p = share)
    }

    /// Divides the logits of the last `n` tokens by `penalty`; 1 is off, which is the default.
    pub fn repeat_penalty(self, penalty: f32, n: usize) -> Self {
        self.sampling(|s| (s.repeat_penalty, s.repeat_last_n) = (penalty, n))
    }

    /// The seed of the draws (0).
    pub fn seed(self, seed: u64) -> Self {
        self.sampling(|s| s.seed = seed)
    }

    /// Which samplers are applied, in which order.
    pub fn samplers(self, order: Order) -> Self {
        self.sampling(|s| s.order = order)
    }

    /// Tokens to make at most; without it the text ends where the model ends it, or where the context is full.
    pub fn max_tokens(mut self, n: usize) -> Self {
        self.request.max_tokens = Some(n);
        self
    }

    /// Ends before this string; may be called several times.
    pub fn stop(mut self, text: impl Into<String>) -> Self {
        self.request.stop.push(text.into());
        self
    }

    /// Goes on behind tokens that end a text.
    pub fn ignore_eos(mut self) -> Self {
        self.request.ignore_eos = true;
        self
    }

    /// Keeps to a form. Needs the feature `structured`.
    pub fn grammar(mut self, grammar: Grammar) -> Self {
        self.grammar = Some(grammar);
        self
    }

    /// All that the text depends on, as a record keeps it.
    ///
    /// # Errors
    /// Where the prompt cannot be encoded.
    pub fn request(self) -> Result<Request, Error> {
        Ok(self.parts()?.1)
    }

    fn parts(self) -> Result<(&'a mut Llm, Request), Error> {
        let grammar = self.grammar.map(|grammar| Grammar { thinking: self.thinking, ..grammar });
        Ok((self.llm, Request { prompt: self.prompt?, grammar, ..self.request }))
    }

    fn begin(self) -> Result<(Generator<'a>, &'a mut Session, &'a mut Option<Text>), Error> {
        let thinking = self.thinking;
        let (llm, request) = self.parts()?;
        let constraint = llm.constraints.of(request.grammar.as_ref(), &llm.tokenizer)?;
        let generator = Generator::new(&llm.tokenizer, request, constraint)?.thinking(thinking);
        Ok((generator, &mut llm.session, &mut llm.last))
    }

    /// Makes the text piece by piece, as the iterator is asked for them. What is left of it when the iterator is dropped is not made.
    ///
    /// # Errors
    /// Where the prompt or the form cannot be used.
    pub fn stream(self) -> Result<Stream<'a>, Error> {
        let (generator, session, last) = self.begin()?;
        // A backend that runs token by token is asked for one, so that none is made in vain.
        let ahead = if session.backend().name() == "cpu" { 1 } else { AHEAD };
        Ok(Stream { generator: Some(generator), session, last, ready: VecDeque::new(), ahead })
    }

    /// Makes the whole text.
    ///
    /// # Errors
    /// Where the prompt or the form cannot be used, or the backend fails.
    pub fn text(self) -> Result<Text, Error> {
        self.each(|_| ControlFlow::Continue(()))
    }

    /// Makes the whole text; `hear` is told each piece, and may stop it.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub fn each(self, mut hear: impl FnMut(&str) -> ControlFlow<()>) -> Result<Text, Error> {
        let (generator, session, last) = self.begin()?;
        let mut tell = |piece: &str| if piece.is_empty() { ControlFlow::Continue(()) } else { hear(piece) };
        let text = generator.run(session, &mut |token| tell(token.text))?;
        let _ = tell(&text.tail);
        *last = Some(text.clone());
        Ok(text)
    }
}

/// The pieces of a text. Where it ends, [`Llm::last`] has all of it.
pub struct Stream<'a> {
    generator: Option<Generator<'a>>,
    session: &'a mut Session,
    last: &'a mut Option<Text>,
    ready: VecDeque<String>,
    ahead: usize,
}

impl Iterator for Stream<'_> {
    type Item = Result<String, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let Self { generator, session, last, ready, ahead } = self;
        loop {
            if let Some(piece) = ready.pop_front() {
                return Some(Ok(piece));
            }
            let advanced = generator.as_mut()?.advance(session, *ahead, &mut |token| {
                if !token.text.is_empty() {
                    ready.push_back(token.text.to_owned());
                }
                ControlFlow::Continue(())
            });
            match advanced {
                Ok(false) => {}
                Ok(true) => {
                    let text = generator.take()?.finish();
                    if !text.tail.is_empty() {
                        ready.push_back(text.tail.clone());
                    }
                    **last = Some(text);
                }
                Err(error) => {
                    *generator = None;
                    return Some(Err(error.into()));
                }
            }
        }
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        if let Some(generator) = self.generator.take() {
            *self.last = Some(generator.finish());
        }
    }
}
