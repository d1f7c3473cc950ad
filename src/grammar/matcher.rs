//! Follows texts with llguidance, over the vocabulary of a model.

use std::sync::Arc;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};

use super::{Constraint, Grammar, GrammarError, Kind, THINK, Thinking, gbnf, schema};
use crate::sample::Mask;
use crate::tokenizer::Tokenizer;

/// Makes constraints for texts of a vocabulary.
///
/// Tokens are taken as they are, none is forced: which tokens a text has is left to the sampler. llguidance counts its work, not the
/// time that it takes, so that masks are the same on every machine.
pub struct Grammars {
    factory: ParserFactory,
    /// The token that begins a thought.
    think: Option<u32>,
    thoughts: Arc<Thoughts>,
}

/// Tokens that matter within a thought.
struct Thoughts {
    /// All tokens but those that end a text: a text that ends within a thought has no form.
    tokens: Mask,
    /// Tokens that may both end a thought and begin what follows it, which would not be held to the form, with their texts.
    crossing: Vec<(u32, String)>,
}

impl Grammars {
    /// For this vocabulary; takes a while for a large one.
    ///
    /// # Errors
    /// [`GrammarError::NoEnd`].
    pub fn new(tokenizer: &Tokenizer) -> Result<Self, GrammarError> {
        let size = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
        let mut ends: Vec<u32> = tokenizer.ends().filter(|id| *id < size).collect();
        ends.sort_unstable_by_key(|id| (Some(*id) != tokenizer.eos(), *id));
        let first = *ends.first().ok_or(GrammarError::NoEnd)?;
        let words: Vec<Vec<u8>> = (0..size).map(|id| word(tokenizer, id)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(size, first), &words).with_eos_tokens(&ends);
        let environment: TokEnv = Arc::new(ApproximateTokEnv::new(trie));
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let mut factory =
            ParserFactory::new(&environment, InferenceCapabilities::default(), &slices).map_err(unusable)?;
        factory.quiet().limits_mut().verbose_errors = false;
        let think = (0..size).find(|id| tokenizer.decode(&[*id]) == THINK[0].as_bytes());
        let mut tokens = Mask::new(vec![0; size.div_ceil(32) as usize]);
        (0..size).filter(|id| !ends.contains(id)).for_each(|id| tokens.insert(id));
        let text = |id| (id, String::from_utf8_lossy(&tokenizer.decode(&[id])).into_owned());
        let crosses = |text: &str| text.split_once('>').is_some_and(|(_, rest)| !rest.trim().is_empty());
        let crossing = (0..size).map(text).filter(|(_, text)| crosses(text)).collect();
        Ok(Self { factory, think, thoughts: Arc::new(Thoughts { tokens, crossing }) })
    }

    /// What follows a text of this form.
    ///
    /// # Errors
    /// Where the form is wrong, or something of it cannot be kept.
    pub fn constraint(&self, grammar: &Grammar) -> Result<Box<dyn Constraint>, GrammarError> {
        let source = &grammar.source;
        let wrong = |what| move |reason: String| GrammarError::Source { what, reason };
        let matcher = match grammar.kind {
            Kind::JsonSchema => schema::compile(source, &|schema| {
                let grammar = TopLevelGrammar::from_json_schema(schema);
                self.matcher(grammar)
            })?,
            Kind::Gbnf => self.matcher(TopLevelGrammar::from_lark(gbnf::to_lark(source)?)).map_err(wrong("grammar"))?,
            Kind::Lark => self.matcher(TopLevelGrammar::from_lark(source.clone())).map_err(wrong("grammar"))?,
            Kind::Regex => {
                let wrong = |reason: String| wrong("regular expression")(own(&reason));
                self.matcher(TopLevelGrammar::from_regex(source)).map_err(wrong)?
            }
        };
        let place = match (grammar.thinking, self.think) {
            (Thinking::Begun, _) => Place::Thought(String::new()),
            (Thinking::Allowed, Some(token)) => Place::Start(token),
            _ => Place::Form,
        };
        let (environment, thoughts) = (self.factory.tok_env().clone(), self.thoughts.clone());
        Ok(Box::new(Follower { environment, thoughts, matcher, place }))
    }

    fn matcher(&self, grammar: TopLevelGrammar) -> Result<Matcher, String> {
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        match matcher.get_error() {
            Some(error) => Err(error),
            None => Ok(matcher),
        }
    }
}

/// What is wrong with an expression, without the grammar that llguidance puts it into and its place there.
fn own(reason: &str) -> String {
    let words = reason.split_once("regex parse error:").map_or(reason, |(_, rest)| rest);
    let is_shown = |line: &&str| line.trim_start().split_once(" |").is_none_or(|(n, _)| n.parse::<u32>().is_err());
    let lines: Vec<_> = words.lines().take_while(is_shown).filter(|line| !line.trim().is_empty()).collect();
    lines.last().map_or(reason, |line| line.trim().trim_start_matches("error: ")).to_owned()
}

/// The bytes of a token as llguidance wants them; none for what no text can have.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    let bytes = tokenizer.decode(&[id]);
    let marker = TokTrie::SPECIAL_TOKEN_MARKER;
    match tokenizer.is_control(id) || tokenizer.is_end_of_generation(id) {
        true => [&[marker][..], &bytes].concat(),
        // The marker is a byte that UTF-8 does not have.
        false if bytes.contains(&marker) => Vec::new(),
        false => bytes,
    }
}

/// Where a text is.
enum Place {
    /// At its first token, which may be the one that begins a thought.
    Start(u32),
    /// In a thought, of which this is the end.
    Thought(String),
    /// In what has the form.
    Form,
}

struct Follower {
    environment: TokEnv,
    thoughts: Arc<Thoughts>,
    matcher: Matcher,
    place: Place,
}

impl Thoughts {
    /// The tokens that may follow a thought with this end.
    fn behind(&self, end: &str) -> Mask {
        let mut mask = self.tokens.clone();
        for (id, text) in &self.crossing {
            let whole = format!("{end}{text}");
            if whole.split_once(THINK[1]).is_some_and(|(_, answer)| !answer.trim().is_empty()) {
                mask.remove(*id);
            }
        }
        mask
    }
}

fn unusable(error: impl ToString) -> GrammarError {
    GrammarError::Source { what: "vocabulary", reason: error.to_string() }
}

fn stuck(error: impl ToString) -> GrammarError {
    GrammarError::Stuck(error.to_string())
}

impl Constraint for Follower {
    fn allowed(&mut self) -> Result<Option<Mask>, GrammarError> {
        if let Place::Thought(end) = &self.place {
            return Ok(Some(self.thoughts.behind(end)));
        }
        let mut mask = Mask::new(self.matcher.compute_mask_or_eos().map_err(stuck)?.as_slice().to_vec());
        if let Place::Start(think) = self.place {
            mask.insert(think);
        }
        if mask.is_empty() {
            return Err(GrammarError::Stuck("no token of the vocabulary goes on with it".to_owned()));
        }
        Ok(Some(mask))
    }

    fn accept(&mut self, token: u32) -> Result<(), GrammarError> {
        match &mut self.place {
            Place::Start(think) if token == *think => self.place = Place::Thought(String::new()),
            Place::Thought(end) => {
                end.push_str(&String::from_utf8_lossy(self.environment.tok_trie().token(token)));
                if end.contains(THINK[1]) {
                    self.place = Place::Form;
                } else {
                    let rest = end.char_indices().rev().nth(THINK[1].len()).map_or(0, |(at, _)| at);
                    end.drain(..rest);
                }
            }
            Place::Start(_) | Place::Form => {
                self.place = Place::Form;
                self.matcher.consume_token(token).map_err(stuck)?;
            }
        }
        Ok(())
    }

    fn is_complete(&self) -> bool {
        matches!(self.place, Place::Form) && self.matcher.is_stopped() && !self.matcher.is_error()
    }
}
