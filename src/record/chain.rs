//! A chain of hashes over the tokens of a text and the logits that they were chosen from.

use sha2::{Digest, Sha256};

use crate::engine::{hash_numbers, hex};

/// Bytes of a link.
const LINK: usize = 16;

/// Each link is the start of the SHA-256 of the link before, the token's id and its logits, all little-endian; before the first
/// stands the hash of the prompt's ids. So links are equal up to the first token or logit that is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain([u8; LINK]);

impl Chain {
    /// Before the first token behind this prompt.
    pub fn new(prompt: &[u32]) -> Self {
        let mut hash = Sha256::new();
        prompt.iter().for_each(|id| hash.update(id.to_le_bytes()));
        Self::of(hash)
    }

    /// Behind a link that [`Self::link`] has given; `None` for other texts.
    pub fn from_link(link: &str) -> Option<Self> {
        let mut bytes = [0; LINK];
        if link.len() != 2 * LINK || !link.is_ascii() {
            return None;
        }
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&link[2 * i..2 * i + 2], 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Goes on with a token and the logits that it was chosen from.
    pub fn push(&mut self, token: u32, logits: &[f32]) {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash.update(token.to_le_bytes());
        hash_numbers(&mut hash, logits);
        *self = Self::of(hash);
    }

    /// The last link, as hex.
    pub fn link(&self) -> String {
        hex(&self.0)
    }

    fn of(hash: Sha256) -> Self {
        let mut link = [0; LINK];
        link.copy_from_slice(&hash.finalize()[..LINK]);
        Self(link)
    }
}
