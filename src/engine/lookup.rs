//! Drafts from the text itself: what followed its last tokens where they stood before may follow again (prompt lookup decoding,
//! Saxena 2023). A pass computes all tokens of a draft at once. A drafted token counts only if it is the one that is sampled
//! anyway, so a draft changes how fast a text comes, and no bit of it.

use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;

use super::{EngineError, Hear, Pending, SampleOn, Session, StopReason, done};
use crate::backend::{BackendError, Batch, Rows, Sampling};

/// Tokens of a draft at most: with the token before it, it has 16 rows.
pub(super) const MOST: usize = 15;

/// Tokens that have to be the same before one is drafted.
const SAME: usize = 3;

/// Tokens without a draft at most, after drafts of which nothing held.
const PAUSE: usize = 64;

/// How many tokens were drafted, and how many of them were sampled afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drafts {
    /// Tokens that were computed on trial.
    pub drafted: usize,
    /// Those that the text has.
    pub accepted: usize,
}

/// A text, and where its sequences of [`SAME`] tokens ended.
#[derive(Clone, Debug)]
pub(super) struct Lookup {
    tokens: Vec<u32>,
    ends: HashMap<[u32; SAME], usize>,
    /// Where the sequence at the text's end ended before.
    before: Option<usize>,
    most: usize,
    /// Tokens of the next draft: more where drafts hold, fewer where they do not.
    size: usize,
    /// No draft until the text is so long; how much longer than now after the next draft of which nothing holds.
    resume: usize,
    pause: usize,
    pub counts: Drafts,
}

impl Lookup {
    /// For drafts of up to `most` tokens behind a text.
    pub fn new(text: &[u32], most: usize) -> Self {
        let (tokens, ends, counts) = (Vec::new(), HashMap::new(), Drafts::default());
        let mut lookup = Self { tokens, ends, before: None, most, size: SAME, resume: 0, pause: 1, counts };
        text.iter().for_each(|token| lookup.push(*token));
        lookup
    }

    /// Appends a token of the text.
    pub fn push(&mut self, token: u32) {
        self.tokens.push(token);
        if let Some(last) = self.tokens.last_chunk::<SAME>() {
            self.before = self.ends.insert(*last, self.tokens.len());
        }
    }

    /// Whether there is a draft.
    pub fn is_ready(&self) -> bool {
        self.most > 0 && self.before.is_some() && self.tokens.len() >= self.resume
    }

    /// What may come next, at most `room` tokens; a text that repeats its end is continued through that.
    pub fn draft(&self, room: usize) -> Vec<u32> {
        let Some(at) = self.before.filter(|_| self.is_ready()) else { return Vec::new() };
        let mut draft = Vec::new();
        for i in at..at + self.size.min(self.most).min(room) {
            draft.push(if i < self.tokens.len() { self.tokens[i] } else { draft[i - self.tokens.len()] });
        }
        draft
    }

    /// Learns how much of a draft held.
    pub fn held(&mut self, drafted: usize, accepted: usize) {
        self.counts.drafted += drafted;
        self.counts.accepted += accepted;
        if accepted == drafted {
            self.size = (2 * self.size + 1).min(MOST);
        } else if 2 * accepted < drafted {
            self.size = (self.size / 2).max(1);
        }
        if accepted > 0 {
            self.pause = 1;
        } else {
            self.resume = self.tokens.len() + self.pause;
            self.pause = (2 * self.pause).min(PAUSE);
        }
    }
}

/// What samples, with the random numbers that a backend took for tokens that it did not tell.
struct Sampler<'a> {
    on: SampleOn<'a>,
    numbers: VecDeque<f32>,
}

impl Sampler<'_> {
    fn sample(&mut self, logits: &[f32], history: &[u32]) -> u32 {
        match &mut self.on {
            SampleOn::Host(sample) => sample(logits, history),
            SampleOn::Backend(Sampling::Draw(options, next)) => {
                let number = self.numbers.pop_front().unwrap_or_else(next);
                Sampling::Draw(*options, &mut || number).sample(logits)
            }
            SampleOn::Backend(greedy) => greedy.sample(logits),
        }
    }

    /// Up to `steps` tokens behind `token` by the backend alone, where it samples; else one.
    fn run(
        &mut self,
        session: &mut Session,
        token: u32,
        steps: usize,
        hear: &mut dyn FnMut(u32, &[f32]) -> bool,
    ) -> Result<(), EngineError> {
        let mut told = 0;
        let mut hear = |token: u32, logits: &[f32]| {
            told += 1;
            hear(token, logits)
        };
        match &mut self.on {
            SampleOn::Host(sample) => {
                let logits = session.feed(&[token], false)?;
                hear(sample(&logits, &session.tokens), &logits);
                Ok(())
            }
            SampleOn::Backend(Sampling::Greedy) => session.run(token, steps, Sampling::Greedy, true, &mut hear),
            SampleOn::Backend(Sampling::Draw(options, next)) => {
                let (numbers, mut taken) = (&mut self.numbers, Vec::new());
                let mut number = || {
                    taken.push(numbers.pop_front().unwrap_or_else(&mut *next));
                    taken[taken.len() - 1]
                };
                let run = session.run(token, steps, Sampling::Draw(*options, &mut number), true, &mut hear);
                taken.drain(told.min(taken.len())..).rev().for_each(|number| numbers.push_front(number));
                run
            }
        }
    }
}

impl Session {
    /// [`Session::advance`] with drafts.
    pub(super) fn advance_by_lookup(
        &mut self,
        next: &mut Pending,
        on: SampleOn<'_>,
        mut most: usize,
        lookup: &mut Lookup,
        hear: Hear<'_>,
    ) -> Result<Option<StopReason>, EngineError> {
        let mut sampler = Sampler { on, numbers: VecDeque::new() };
        // A backend that works ahead of a draft works in vain: behind one it is asked for few tokens, then for more and more.
        let mut stretch = 1;
        loop {
            let (mut flow, left) = (ControlFlow::Continue(()), most);
            let mut tell = |token: u32, logits: &[f32], next: &mut Pending, lookup: &mut Lookup| {
                lookup.push(token);
                *next = Pending::Token(token);
                most = most.saturating_sub(1);
                flow = hear(token, logits);
                flow.is_continue()
            };
            let ran = match std::mem::take(next) {
                Pending::Logits(logits) => {
                    tell(sampler.sample(&logits, &self.tokens), &logits, next, lookup);
                    Ok(())
                }
                Pending::Token(token) => {
                    *next = Pending::Token(token);
                    let room = self.limits.context - self.tokens.len();
                    if room == 0 {
                        return Ok(Some(StopReason::ContextFull));
                    }
                    let draft = lookup.draft(room.min(left) - 1);
                    if draft.is_empty() {
                        let steps = stretch.min(room).min(left);
                        stretch = 4 * stretch.min(self.limits.context);
                        sampler.run(self, token, steps, &mut |token, logits| {
                            tell(token, logits, next, lookup) && !lookup.is_ready()
                        })
                    } else {
                        stretch = 1;
                        let ids: Vec<u32> = std::iter::once(token).chain(draft).collect();
                        self.run_draft(&ids, &mut sampler, lookup, &mut |token, logits, lookup| {
                            tell(token, logits, next, lookup)
                        })
                    }
                }
            };
            match (done(ran)?, flow) {
                (_, ControlFlow::Break(reason)) => return Ok(reason),
                (None, ControlFlow::Continue(())) => return Ok(Some(StopReason::Interrupted)),
                (Some(()), ControlFlow::Continue(())) => {}
            }
        }
    }

    /// Computes a token and the draft behind it in one pass, and samples as long as the draft holds.
    fn run_draft(
        &mut self,
        ids: &[u32],
        sampler: &mut Sampler<'_>,
        lookup: &mut Lookup,
        tell: &mut dyn FnMut(u32, &[f32], &mut Lookup) -> bool,
    ) -> Result<(), EngineError> {
        let first = self.tokens.len();
        let batch =
            |rows: usize| Batch::checked(&ids[..rows], first, Rows::All, &self.limits).map_err(BackendError::from);
        let logits = self.backend.forward(batch(ids.len())?, None)?;
        let mut is_finite = true;
        for (i, row) in logits.chunks_exact(logits.len() / ids.len()).enumerate() {
            // What a draft that does not hold gives is of no interest.
            is_finite = row.iter().all(|x| x.is_finite());
            if !is_finite {
                break;
            }
            self.tokens.push(ids[i]);
            let token = sampler.sample(row, &self.tokens);
            if !tell(token, row, lookup) || ids.get(i + 1) != Some(&token) {
                break;
            }
        }
        let computed = self.tokens.len() - first;
        if !is_finite {
            let batch = batch(computed + 1)?;
            return Err(self.name_non_finite(batch).into());
        }
        lookup.held(ids.len() - 1, computed - 1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_followed_before_is_drafted() {
        let mut lookup = Lookup::new(&[1, 2, 3, 4, 5, 6, 7, 1, 2], MOST);
        assert!(!lookup.is_ready() && lookup.draft(9).is_empty());
        lookup.push(3);
        assert!(lookup.is_ready());
        assert_eq!(lookup.draft(9), [4, 5, 6]);
        assert_eq!(lookup.draft(2), [4, 5]);
        lookup.held(3, 3);
        assert_eq!(lookup.draft(9), [4, 5, 6, 7, 1, 2, 3]);
        lookup.held(7, 1);
        assert_eq!(lookup.draft(9), [4, 5, 6]);
        assert_eq!(lookup.counts, Drafts { drafted: 10, accepted: 4 });
    }

    #[test]
    fn a_draft_goes_on_through_itself() {
        let mut lookup = Lookup::new(&[8, 9, 8, 9, 8], MOST);
        (0..3).for_each(|_| lookup.held(3, 3));
        assert_eq!(lookup.draft(MOST), [9, 8, 9, 8, 9, 8, 9, 8, 9, 8, 9, 8, 9, 8, 9]);
    }

    #[test]
    fn drafts_that_do_not_hold_become_rare() {
        let mut lookup = Lookup::new(&[1; 8], MOST);
        let mut drafts = 0;
        for _ in 0..1000 {
            if lookup.is_ready() {
                drafts += 1;
                lookup.held(lookup.draft(MOST).len(), 0);
            }
            lookup.push(1);
        }
        assert!((10..30).contains(&drafts), "{drafts} drafts in 1000 tokens");
    }

    proptest! {
        /// A draft is what stands behind the latest place that has the same last tokens, and as long as there is room for.
        #[test]
        fn a_draft_is_from_the_text(text in proptest::collection::vec(0u32..3, 0..60), room in 0usize..20) {
            let lookup = Lookup::new(&text, MOST);
            let draft = lookup.draft(room);
            let n = text.len();
            let found = (SAME..n).rev().find(|end| text[end - SAME..*end] == text[n - SAME..]);
            prop_assert_eq!(found.is_some(), lookup.is_ready());
            let all: Vec<u32> = text.iter().chain(&draft).copied().collect();
            let want = found.map_or(&[][..], |at| &all[at..at + draft.len()]);
            prop_assert_eq!(&draft, want);
            prop_assert_eq!(draft.len(), found.map_or(0, |_| room.min(SAME)));
        }
    }
}
