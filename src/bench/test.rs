//! What is measured, and how it is written on the command line.

use std::str::FromStr;

/// The most numbers a range may stand for.
const LONGEST_RANGE: usize = 1000;
/// The largest number of tokens.
const MOST_TOKENS: u32 = 1 << 20;

/// A measurement: a prompt of `prompt` tokens, then `generate` new ones, behind `depth` others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Tokens generated.
    pub generate: usize,
    /// Tokens in the cache before.
    pub depth: usize,
}

impl Test {
    /// llama-bench's name: `pp512`, `tg128`, `pp512+tg128`, `tg128 @ d4096`.
    pub fn name(self) -> String {
        let name = match (self.prompt, self.generate) {
            (prompt, 0) => format!("pp{prompt}"),
            (0, generate) => format!("tg{generate}"),
            (prompt, generate) => format!("pp{prompt}+tg{generate}"),
        };
        if self.depth > 0 { format!("{name} @ d{}", self.depth) } else { name }
    }

    /// Tokens that are timed.
    pub fn tokens(self) -> usize {
        self.prompt + self.generate
    }

    /// Its passes, of `chunk` tokens of the prompt and of one that is generated.
    pub fn passes(self, chunk: usize) -> usize {
        self.prompt.div_ceil(chunk.max(1)) + self.generate
    }

    /// Rows of its passes, which have `chunk` at most, where all have as many.
    pub fn rows_per_pass(self, chunk: usize) -> Option<usize> {
        match (self.prompt, self.generate) {
            (0, _) => Some(1),
            (prompt, 0) if prompt <= chunk || prompt % chunk == 0 => Some(prompt.min(chunk)),
            _ => None,
        }
    }

    /// The position in the middle of the tokens that are timed.
    pub fn middle(self) -> usize {
        self.depth.max(1) + self.tokens() / 2
    }

    /// Positions the cache must hold; generation begins behind one token at least.
    pub fn context(self) -> usize {
        self.depth.max(1) + self.tokens()
    }
}

/// All tests in llama-bench's order: for each depth the prompts, then the generations, then both together. Zeros ask
/// for no test.
pub fn tests(prompts: &[u32], generations: &[u32], pairs: &[Pair], depths: &[u32]) -> Vec<Test> {
    let mut tests = Vec::new();
    for depth in depths.iter().map(|d| *d as usize) {
        let prompts = prompts.iter().map(|&p| (p, 0));
        let generations = generations.iter().map(|&g| (0, g));
        for (prompt, generate) in prompts.chain(generations).chain(pairs.iter().map(|p| (p.0, p.1))) {
            if prompt + generate > 0 {
                tests.push(Test { prompt: prompt as usize, generate: generate as usize, depth });
            }
        }
    }
    tests
}

/// A number or a range of them: `5`, `1-8`, `512-4096+512`, `1-64*2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbers(pub Vec<u32>);

impl FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((first, rest)) = text.split_once('-') else { return Ok(Self(vec![number(text)?])) };
        let (last, step, multiply) = match rest.split_once(['+', '*']) {
            None => (rest, 1, false),
            Some((last, step)) => (last, number(step)?, rest.contains('*')),
        };
        let (first, last) = (number(first)?, number(last)?);
        let mut numbers = Vec::new();
        let mut n = first;
        while n <= last {
            numbers.push(n);
            let next = if multiply { n.saturating_mul(step) } else { n.saturating_add(step) };
            if next <= n || numbers.len() > LONGEST_RANGE {
                return Err(format!("the range gives {n} again and again, or more than {LONGEST_RANGE} numbers"));
            }
            n = next;
        }
        if numbers.is_empty() {
            return Err(format!("{last} is less than {first}"));
        }
        Ok(Self(numbers))
    }
}

/// Two numbers, `PP,TG`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pair(pub u32, pub u32);

impl FromStr for Pair {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (prompt, generate) = text.split_once(',').ok_or("two numbers PP,TG are needed, as in 512,128")?;
        Ok(Self(number(prompt)?, number(generate)?))
    }
}

fn number(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(n) if n <= MOST_TOKENS => Ok(n),
        _ => Err(format!("'{text}' is no number from 0 to {MOST_TOKENS}; ranges are 1-8, 512-4096+512 or 1-64*2")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn ranges_are_llama_benchs() {
        let numbers = |text: &str| text.parse::<Numbers>().map(|n| n.0);
        assert_eq!(numbers("512").unwrap(), [512]);
        assert_eq!(numbers("0").unwrap(), [0]);
        assert_eq!(numbers("1-4").unwrap(), [1, 2, 3, 4]);
        assert_eq!(numbers("512-2000+512").unwrap(), [512, 1024, 1536]);
        assert_eq!(numbers("1-8*2").unwrap(), [1, 2, 4, 8]);
        for wrong in ["", "x", "-1", "1-", "8-1", "1-8+0", "1-8*1", "0-8*2", "1-2-3", "1-8+2*3", "9999999", "0-99999"] {
            assert!(numbers(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn tests_come_in_llama_benchs_order() {
        let names: Vec<_> =
            super::tests(&[512, 0], &[128], &[Pair(64, 16)], &[0, 4096]).into_iter().map(Test::name).collect();
        let behind = ["pp512 @ d4096", "tg128 @ d4096", "pp64+tg16 @ d4096"];
        assert_eq!(names, [&["pp512", "tg128", "pp64+tg16"][..], &behind].concat());
        assert_eq!("512,128".parse(), Ok(Pair(512, 128)));
        assert!("512".parse::<Pair>().is_err() && "5,x".parse::<Pair>().is_err());
    }
}
