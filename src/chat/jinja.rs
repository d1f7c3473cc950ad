//! Jinja with the settings and additions of Python's `transformers`, for which chat templates are written.

use std::fmt::Write as _;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, Value, context};

use super::json::tojson;

/// Steps that a template may take: it comes from a file, and must end.
const FUEL: u64 = 20_000_000;
/// How deep macros and includes may call each other.
const DEPTH: usize = 100;
/// Marks the words of `raise_exception` in an error.
const RAISED: &str = "raised: ";

/// What a template is given beside the messages.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// Functions that the model may call, as a list in OpenAI's form, or nothing.
    pub tools: Value,
    /// The text of the token that begins a sequence.
    pub bos: String,
    /// The text of the token that ends one.
    pub eos: String,
    /// Whether the start of an answer stands at the end.
    pub answer: bool,
}

/// Why a template gave no text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unrendered {
    /// It says that messages like these are not allowed, in its own words.
    Refused(String),
    /// It is wrong, or does something that this Jinja does not have.
    Failed(String),
}

/// A template, ready to render.
#[derive(Debug)]
pub struct Jinja(Environment<'static>);

impl Jinja {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(source: &str) -> Result<Self, String> {
        let mut environment = environment().map_err(|e| said(&e))?;
        environment.add_template_owned("chat", without_generation_tags(source)).map_err(|e| said(&e))?;
        Ok(Self(environment))
    }

    /// The text of `messages`, a list of objects with `role` and `content`.
    ///
    /// # Errors
    /// [`Unrendered`].
    pub fn render(&self, messages: &Value, given: &Given) -> Result<String, Unrendered> {
        let failed = |e: Error| match e.detail().and_then(|d| d.strip_prefix(RAISED)) {
            Some(words) => Unrendered::Refused(words.to_owned()),
            None => Unrendered::Failed(said(&e)),
        };
        let tools = if given.tools.is_undefined() { Value::from(()) } else { given.tools.clone() };
        let Given { bos, eos, answer, .. } = given;
        let values = context! { messages, tools, bos_token => bos, eos_token => eos, add_generation_prompt => answer };
        self.0.get_template("chat").and_then(|template| template.render(values)).map_err(failed)
    }
}

/// An error in one line.
fn said(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// Jinja with the settings and additions of `transformers`.
fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(DEPTH);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", |words: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{words}")))
    });
    environment.add_function("strftime_now", |format: String| -> Result<String, Error> {
        let mut text = String::new();
        write!(text, "{}", jiff::ZonedDateTime::now().strftime(&format))
            .map_err(|_| Error::new(ErrorKind::InvalidOperation, format!("strftime_now does not know {format:?}")))?;
        Ok(text)
    });
    // Loops take what is none for an empty list; templates ask first, and mean Python's answer.
    environment.add_test("iterable", |value: &Value| match value.kind() {
        ValueKind::None => false,
        ValueKind::String => true,
        _ => value.try_iter().is_ok(),
    });
    // Python writes its constants with capitals.
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::None => out.write_str("None").map_err(Error::from),
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }).map_err(Error::from),
        _ => minijinja::escape_formatter(out, state, value),
    });
    Ok(environment)
}

/// `transformers` marks the text of answers with tags of its own, which show nothing.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        out.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let inner = tag[..end].trim_start_matches("{%").trim_end_matches("%}");
        let word = inner.trim_matches(['-', '+', ' ', '\n', '\t']);
        match word {
            "generation" => out.push_str(&tag[..end].replace(word, "if true")),
            "endgeneration" => out.push_str(&tag[..end].replace(word, "endif")),
            _ => out.push_str(&tag[..end]),
        }
        rest = &tag[end..];
    }
    out + rest
}
