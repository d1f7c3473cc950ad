//! Tokens to text, one by one, without splitting a character.

use super::Tokenizer;

/// Holds back the bytes of an unfinished UTF-8 character.
#[derive(Debug)]
pub struct StreamDecoder<'a> {
    tokenizer: &'a Tokenizer,
    held: Vec<u8>,
}

impl<'a> StreamDecoder<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self { tokenizer, held: Vec::new() }
    }

    /// The text that is complete after this token; bytes that can never be UTF-8 become U+FFFD.
    pub fn push(&mut self, id: u32) -> String {
        self.held.extend(self.tokenizer.decode(&[id]));
        let complete = self.held.len() - incomplete(&self.held);
        let text = String::from_utf8_lossy(&self.held[..complete]).into_owned();
        self.held.drain(..complete);
        text
    }

    /// What is left at the end, an unfinished character as U+FFFD.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.held).into_owned()
    }
}

/// Bytes at the end that begin a character and may still become one.
fn incomplete(bytes: &[u8]) -> usize {
    for n in 1..=bytes.len().min(3) {
        let tail = &bytes[bytes.len() - n..];
        if let Err(e) = std::str::from_utf8(tail)
            && e.valid_up_to() == 0
            && e.error_len().is_none()
        {
            return n;
        }
    }
    0
}
