//! What a backend is asked to compute, checked against what it can hold.
//!
//! Kernels run without bounds checks in release builds. [`Batch::checked`] and [`Lane::checked`] are the only ways to make
//! what they are given, so that every token id, position and row that reaches them is in range.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use thiserror::Error;

/// What a backend can hold. A batch is checked against the limits of one backend and runs on no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Positions of the cache.
    pub context: usize,
    /// Rows of a batch.
    pub batch: usize,
    /// Rows of a batch whose logits are wanted.
    pub logits_rows: usize,
    /// Token ids are below this.
    pub vocabulary: usize,
}

impl Limits {
    /// Fails unless the cache has `rows` positions from `position` on.
    ///
    /// # Errors
    /// [`BatchError::Context`].
    pub fn room(&self, position: usize, rows: usize) -> Result<(), BatchError> {
        match position.checked_add(rows) {
            Some(end) if end <= self.context => Ok(()),
            _ => Err(BatchError::Context { position, rows, context: self.context }),
        }
    }

    /// Fails unless these are the limits that something was checked against.
    fn are(&self, checked: &Self) -> Result<(), BatchError> {
        if self == checked { Ok(()) } else { Err(BatchError::OtherLimits) }
    }

    fn token(&self, id: u32) -> Result<(), BatchError> {
        let vocabulary = self.vocabulary;
        if (id as usize) < vocabulary { Ok(()) } else { Err(BatchError::TokenId { id, vocabulary }) }
    }
}

/// Why a backend cannot take a batch.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum BatchError {
    /// It has no row.
    #[error("the batch has no tokens")]
    Empty,
    /// It has more rows than [`Limits::batch`].
    #[error("the batch has {rows} tokens, the backend takes {limit} at once")]
    Rows { rows: usize, limit: usize },
    /// It wants the logits of more rows than [`Limits::logits_rows`].
    #[error("the logits of {rows} tokens were asked for, the backend gives those of {limit} at once")]
    Logits { rows: usize, limit: usize },
    /// It ends behind [`Limits::context`].
    #[error("{rows} tokens from position {position} on do not fit a context of {context}")]
    Context { position: usize, rows: usize, context: usize },
    /// An id is not below [`Limits::vocabulary`].
    #[error("token id {id} is outside the vocabulary of {vocabulary}")]
    TokenId { id: u32, vocabulary: usize },
    /// It begins where layers with a window no longer have what it sees.
    #[error(
        "position {position} lies too far before {end}: layers with a window keep the newest positions only; begin again at 0"
    )]
    Replaced { position: usize, end: usize },
    /// It was checked against the limits of another backend.
    #[error("the batch was made for another backend")]
    OtherLimits,
}

/// Rows of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// None: the head is not run.
    None,
    /// The last.
    Last,
    /// All.
    All,
}

/// Consecutive tokens, at least one.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    ids: &'a [u32],
    position: usize,
    logits: Rows,
    limits: Limits,
}

impl<'a> Batch<'a> {
    /// The tokens `ids`, the first of them at `position`; everything before it is in the cache. `logits` tells which
    /// rows' logits are wanted.
    ///
    /// # Errors
    /// If the backend with these `limits` cannot take it.
    pub fn checked(ids: &'a [u32], position: usize, logits: Rows, limits: &Limits) -> Result<Self, BatchError> {
        let rows = ids.len();
        if rows == 0 {
            return Err(BatchError::Empty);
        }
        if rows > limits.batch {
            return Err(BatchError::Rows { rows, limit: limits.batch });
        }
        limits.room(position, rows)?;
        ids.iter().try_for_each(|id| limits.token(*id))?;
        let batch = Self { ids, position, logits, limits: *limits };
        let wanted = batch.wanted().len();
        if wanted > limits.logits_rows {
            return Err(BatchError::Logits { rows: wanted, limit: limits.logits_rows });
        }
        Ok(batch)
    }

    /// Token ids, one per row.
    pub fn ids(&self) -> &'a [u32] {
        self.ids
    }

    /// Position of the first row.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.ids.len()
    }

    /// The rows whose logits are wanted.
    pub fn wanted(&self) -> Range<usize> {
        let rows = self.ids.len();
        match self.logits {
            Rows::None => rows..rows,
            Rows::Last => rows - 1..rows,
            Rows::All => 0..rows,
        }
    }

    /// Fails unless it was checked against these limits.
    pub(crate) fn is_for(&self, limits: &Limits) -> Result<(), BatchError> {
        limits.are(&self.limits)
    }
}

/// A sequence that a backend continues by itself.
#[derive(Clone, Copy, Debug)]
pub struct Lane {
    token: u32,
    position: usize,
    steps: usize,
    limits: Limits,
}

impl Lane {
    /// Feeds `token` at `position`, then what is chosen, `steps` tokens in all at most.
    ///
    /// # Errors
    /// If the backend with these `limits` cannot do it.
    pub fn checked(token: u32, position: usize, steps: usize, limits: &Limits) -> Result<Self, BatchError> {
        limits.room(position, steps)?;
        limits.token(token)?;
        Ok(Self { token, position, steps, limits: *limits })
    }

    /// The first token.
    pub fn token(&self) -> u32 {
        self.token
    }

    /// Its position.
    pub fn position(&self) -> usize {
        self.position
    }

    /// Tokens to feed at most.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// Fails unless it was checked against these limits.
    pub(crate) fn is_for(&self, limits: &Limits) -> Result<(), BatchError> {
        limits.are(&self.limits)
    }
}

/// Asks a backend from outside, such as a signal handler, to stop. Clones share one flag.
#[derive(Clone, Debug, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Asks for a stop; returns whether that was done before.
    pub fn request(&self) -> bool {
        self.0.swap(true, Ordering::Relaxed)
    }

    /// Takes the request back.
    pub fn clear(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether a stop was asked for.
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Fails if a stop was asked for.
    pub(crate) fn check(&self) -> Result<(), super::BackendError> {
        if self.is_requested() { Err(super::BackendError::Interrupted) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What is accepted lies within the limits, and whatever lies within them is accepted.
        #[test]
        fn a_batch_is_checked_against_every_limit(
            ids in proptest::collection::vec(0u32..12, 0..12),
            position in prop_oneof![0usize..20, Just(usize::MAX), Just(usize::MAX - 3)],
            rows in prop_oneof![Just(Rows::None), Just(Rows::Last), Just(Rows::All)],
            context in 1usize..20,
            batch in 1usize..12,
            logits_rows in 0usize..12,
            vocabulary in 0usize..12,
        ) {
            let limits = Limits { context, batch, logits_rows, vocabulary };
            let wanted = match rows { Rows::None => 0, Rows::Last => 1, Rows::All => ids.len() };
            let fits = !ids.is_empty()
                && ids.len() <= batch
                && position <= context
                && position + ids.len() <= context
                && wanted <= logits_rows
                && ids.iter().all(|id| (*id as usize) < vocabulary);
            let checked = Batch::checked(&ids, position, rows, &limits);
            prop_assert_eq!(checked.is_ok(), fits, "{:?}", checked);
            if let Ok(batch) = checked {
                prop_assert_eq!(batch.wanted().len(), wanted);
                prop_assert_eq!(batch.wanted().end, ids.len());
                prop_assert!(batch.is_for(&limits).is_ok());
                prop_assert_eq!(batch.is_for(&Limits { context: context + 1, ..limits }), Err(BatchError::OtherLimits));
            }
        }

        #[test]
        fn a_lane_is_checked_against_every_limit(
            token in 0u32..4, position in prop_oneof![0usize..9, Just(usize::MAX)], steps in 0usize..9, context in 1usize..9,
        ) {
            let limits = Limits { context, batch: 1, logits_rows: 1, vocabulary: 2 };
            let fits = token < 2 && position <= context && position + steps <= context;
            prop_assert_eq!(Lane::checked(token, position, steps, &limits).is_ok(), fits);
        }
    }
}
