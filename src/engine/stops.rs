//! Strings that end a text while it is made.

/// Finds strings in a text that comes in pieces, and holds back what may become one.
///
/// The string that ends first counts, of several that end there the longest: so the text does not depend on its pieces.
#[derive(Clone, Debug, Default)]
pub struct Stops {
    strings: Vec<String>,
    held: String,
}

impl Stops {
    /// Looks for `strings`; empty ones are never found.
    pub fn new(strings: Vec<String>) -> Self {
        Self { strings: strings.into_iter().filter(|s| !s.is_empty()).collect(), held: String::new() }
    }

    /// The text that is certain after this piece, and whether a string was found. Then that text ends before the string, and
    /// what came after it is held.
    pub fn push(&mut self, piece: &str) -> (String, bool) {
        self.held.push_str(piece);
        let ends = self.strings.iter().filter_map(|s| Some((self.held.find(s.as_str())?, s.len())));
        if let Some((start, length)) = ends.min_by_key(|(start, length)| (start + length, *start)) {
            let rest = self.held.split_off(start + length);
            self.held.truncate(start);
            return (std::mem::replace(&mut self.held, rest), true);
        }
        let begins = |at: &usize| self.strings.iter().any(|s| s.starts_with(&self.held[*at..]));
        let certain = self.held.char_indices().map(|(at, _)| at).find(begins).unwrap_or(self.held.len());
        let rest = self.held.split_off(certain);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// What was held back, at the end of a text; behind a string that was found, what came after it.
    pub fn finish(self) -> String {
        self.held
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The text until the string that ends first.
    fn expected(text: &str, stops: &[String]) -> (String, bool) {
        for end in (0..=text.len()).filter(|end| text.is_char_boundary(*end)) {
            let longest =
                stops.iter().filter(|s| !s.is_empty() && text[..end].ends_with(s.as_str())).map(String::len).max();
            if let Some(length) = longest {
                return (text[..end - length].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    proptest! {
        /// Few different characters, so that strings meet, overlap and begin without ending.
        #[test]
        fn the_text_does_not_depend_on_its_pieces(
            text in "[abé]{0,24}",
            stops in prop::collection::vec("[abé]{0,4}", 0..4),
            cuts in prop::collection::vec(0..24usize, 0..8),
        ) {
            let mut finder = Stops::new(stops.clone());
            let (mut out, mut found) = (String::new(), false);
            let mut piece = String::new();
            for (i, c) in text.chars().enumerate() {
                piece.push(c);
                if cuts.contains(&i) && !found {
                    let (certain, stop) = finder.push(&std::mem::take(&mut piece));
                    out.push_str(&certain);
                    found = stop;
                }
            }
            if !found {
                let (certain, stop) = finder.push(&piece);
                out.push_str(&certain);
                found = stop;
            }
            if !found {
                out.push_str(&finder.finish());
            }
            prop_assert_eq!((out, found), expected(&text, &stops));
        }
    }

    #[test]
    fn what_may_become_a_stop_is_held_back_and_no_more() {
        let mut stops = Stops::new(vec!["<|end|>".to_owned()]);
        assert_eq!(stops.push("Hello <"), ("Hello ".to_owned(), false));
        assert_eq!(stops.push("|en"), (String::new(), false));
        assert_eq!(stops.push("try"), ("<|entry".to_owned(), false));
        assert_eq!(stops.push("<|end|> more"), (String::new(), true));
    }
}
