//! Pre-tokenizers: how a text is cut into words before pairs are merged, as data.
//!
//! `tokenizer.ggml.pre` names one. The patterns are those of the models' own `tokenizer.json`; the names, which of them take a
//! word that is a token as it stands, and which begin a text with BOS, are llama.cpp's (`llama-vocab.cpp`).

use std::ops::Range;

use fancy_regex::Regex;

use super::TokenizerError;

/// A way to cut texts into words.
pub(super) struct PreTokenizer {
    /// Its names; the first is the one of the table in the documentation.
    pub names: &'static [&'static str],
    /// Each cuts every piece that the one before left.
    cuts: &'static [Cut],
    whole: Whole,
    /// Whether a text begins with BOS where the file does not say.
    pub add_bos: bool,
}

/// One cut.
enum Cut {
    /// Matches, and the gaps between them, are pieces.
    At(&'static str),
    /// Runs of digits are cut into groups of three, counted from their end.
    Threes,
}

/// Words that are taken as a token without merging, where they are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whole {
    None,
    All,
    Newlines,
}

macro_rules! contraction {
    () => {
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    };
}
/// What most patterns end with: punctuation with the newlines behind it, lines, spaces but for the last, spaces.
macro_rules! tail {
    () => {
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    };
}
/// Words with any one character before them that is no letter, digit or end of line.
macro_rules! words {
    ($digits:expr) => {
        concat!(contraction!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|", $digits, tail!())
    };
}
/// Words that end where lower case turns to upper. `$but` is taken from the letters.
macro_rules! cased {
    ($suffix:expr, $ends:expr, $digits:expr, $but:expr) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}",
            $but,
            r"]*[\p{Ll}\p{Lm}\p{Lo}\p{M}",
            $but,
            "]+",
            $suffix,
            r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}",
            $but,
            r"]+[\p{Ll}\p{Lm}\p{Lo}\p{M}",
            $but,
            "]*",
            $suffix,
            "|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]+",
            $ends,
            r"|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
    };
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = words!(r"\p{N}{1,3}");
const QWEN2: &str = words!(r"\p{N}");
const QWEN35: &str = concat!(
    contraction!(),
    r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const CJK: &str = "[一-龥぀-ゟ゠-ヿ]+";
const CJK_OLD: &str = "[一-龥ࠀ-一가-퟿]+";
/// Every letter with a case, as DeepSeek LLM's `tokenizer.json` lists them.
const DEEPSEEK_LETTERS: &str = concat!(
    r"\s?[A-Za-z\u{b5}\u{c0}-\u{d6}\u{d8}-\u{f6}\u{f8}-\u{1ba}\u{1bc}-\u{1bf}\u{1c4}-\u{293}\u{295}-\u{2af}\u{370}-\u{373}",
    r"\u{376}\u{377}\u{37b}-\u{37d}\u{37f}\u{386}\u{388}-\u{38a}\u{38c}\u{38e}-\u{3a1}\u{3a3}-\u{3f5}\u{3f7}-\u{481}",
    r"\u{48a}-\u{52f}\u{531}-\u{556}\u{10a0}-\u{10c5}\u{13a0}-\u{13f5}\u{13f8}-\u{13fd}\u{1c90}-\u{1cba}\u{1cbd}-\u{1cbf}",
    r"\u{1d00}-\u{1d2b}\u{1d6b}-\u{1d77}\u{1d79}-\u{1d9a}\u{1e00}-\u{1f15}\u{1f18}-\u{1f1d}\u{1f20}-\u{1f45}",
    r"\u{1f48}-\u{1f4d}\u{1f50}-\u{1f57}\u{1f59}\u{1f5b}\u{1f5d}\u{1f5f}-\u{1f7d}\u{1f80}-\u{1fb4}\u{1fb6}-\u{1fbc}\u{1fbe}",
    r"\u{1fc2}-\u{1fc4}\u{1fc6}-\u{1fcc}\u{1fd0}-\u{1fd3}\u{1fd6}-\u{1fdb}\u{1fe0}-\u{1fec}\u{1ff2}-\u{1ff4}",
    r"\u{1ff6}-\u{1ffc}\u{2102}\u{2107}\u{210a}-\u{2113}\u{2115}\u{2119}-\u{211d}\u{2124}\u{2126}\u{2128}\u{212a}-\u{212d}",
    r"\u{212f}-\u{2134}\u{2139}\u{213c}-\u{213f}\u{2145}-\u{2149}\u{214e}\u{2183}\u{2184}\u{2c00}-\u{2c7b}\u{2c7e}-\u{2ce4}",
    r"\u{2ceb}-\u{2cee}\u{2cf2}\u{2cf3}\u{a640}-\u{a66d}\u{a680}-\u{a69b}\u{a722}-\u{a76f}\u{a771}-\u{a787}",
    r"\u{a78b}-\u{a78e}\u{ab70}-\u{abbf}\u{fb00}-\u{fb06}\u{fb13}-\u{fb17}\u{ff21}-\u{ff3a}\u{ff41}-\u{ff5a}",
    r"\u{10400}-\u{1044f}\u{104b0}-\u{104d3}\u{104d8}-\u{104fb}\u{10c80}-\u{10cb2}\u{10cc0}-\u{10cf2}\u{118a0}-\u{118df}",
    r"\u{1e900}-\u{1e943}]+"
);
const DEEPSEEK3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"##,
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const JAIS2: &str = concat!(
    contraction!(),
    r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)",
    r"|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1}"
);
const EXAONE_MOE: &str = concat!(
    contraction!(),
    r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
);
const BAILINGMOE: &str =
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
const SEED_CODER: &str =
    concat!(contraction!(), r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+");
const YOUTU: &str = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+";
const BLOOM: &str = r" ?[^(\s|.,!?…。，、।۔،)]+";

const fn pre(names: &'static [&'static str], cuts: &'static [Cut]) -> PreTokenizer {
    PreTokenizer { names, cuts, whole: Whole::None, add_bos: false }
}

impl PreTokenizer {
    const fn whole(self) -> Self {
        Self { whole: Whole::All, ..self }
    }

    const fn bos(self) -> Self {
        Self { add_bos: true, ..self }
    }
}

use Cut::{At, Threes};

pub(super) static PRE_TOKENIZERS: &[PreTokenizer] = &[
    pre(&["default"], &[At(r"[\p{P}\$\+<=>\^~\|]+"), At(GPT2), At(r"\p{N}+"), At("[0-9][0-9][0-9]")]),
    pre(
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "jina-v2-es",
            "jina-v2-de",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "gigachat",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        &[At(GPT2)],
    ),
    pre(
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        &[At(r"\p{N}"), At(GPT2)],
    ),
    pre(
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
        &[At(LLAMA3)],
    )
    .whole()
    .bos(),
    pre(&["dbrx", "smaug-bpe", "chatglm-bpe"], &[At(LLAMA3)]),
    pre(&["glm4", "glm5"], &[At(LLAMA3)]).whole(),
    pre(
        &["qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan", "solar-open", "grok-2"],
        &[At(QWEN2)],
    ),
    pre(&["qwen35"], &[At(QWEN35)]),
    pre(
        &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        &[At(cased!(concat!(contraction!(), "?"), r"[\r\n/]*", r"\p{N}{1,3}", ""))],
    ),
    pre(&["tekken"], &[At(cased!("", r"[\r\n/]*", r"\p{N}", ""))]).whole().bos(),
    pre(
        &["kimi-k2"],
        &[At(concat!(r"\p{Han}+|", cased!(concat!(contraction!(), "?"), r"[\r\n]*", r"\p{N}{1,3}", r"&&[^\p{Han}]")))],
    ),
    pre(
        &["deepseek-llm"],
        &[
            At(r"[\r\n]"),
            At(DEEPSEEK_LETTERS),
            At(r"\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+"),
            At(r"\s+$"),
            At(CJK_OLD),
            At(r"\p{N}"),
        ],
    ),
    pre(&["deepseek-coder"], &[At(r"[\r\n]"), At(r"\s?\p{L}+"), At(r"\s?\p{P}+"), At(CJK_OLD), At(r"\p{N}")]),
    pre(&["deepseek-v3", "hunyuan-dense", "hy_v4", "joyai-llm"], &[At(r"\p{N}{1,3}"), At(CJK), At(DEEPSEEK3)]),
    pre(&["falcon"], &[At(r"[\p{P}\$\+<=>\^~\|`]+"), At(GPT2), At("[0-9][0-9][0-9]")]),
    pre(&["superbpe"], &[At(r"\p{N}+"), Threes]),
    pre(&["bailingmoe", "bailingmoe2", "llada-moe"], &[At(BAILINGMOE)]),
    pre(&["seed-coder"], &[At(SEED_CODER)]),
    pre(&["minicpm5"], &[At(r"\p{N}{1,3}"), At(words!(r"\p{N}+"))]).whole(),
    pre(&["jais-2"], &[At(JAIS2)]),
    pre(&["youtu"], &[At(YOUTU), At(cased!(concat!(contraction!(), "?"), r"[\r\n/]*", r"\p{N}", ""))]).whole(),
    pre(&["exaone-moe"], &[At(EXAONE_MOE)]),
    pre(&["laguna"], &[At(r"[^\n]+|[\n]+"), At(QWEN2)]),
    pre(&["ufakzeka"], &[At(concat!(r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}", tail!()))]),
    pre(&["bloom", "poro-chat", "gpt3-finnish"], &[At(BLOOM)]),
    pre(&["viking"], &[At(BLOOM), At(r"\p{N}")]),
];

/// Gemma 4's, which belongs to the tokenizer model of that name.
pub(super) static GEMMA4: PreTokenizer =
    PreTokenizer { names: &["gemma4"], cuts: &[At(r"[^\n]+|\n+")], whole: Whole::Newlines, add_bos: true };

/// The pre-tokenizer of this name.
pub(super) fn find(name: &str) -> Option<&'static PreTokenizer> {
    PRE_TOKENIZERS.iter().find(|p| p.names.contains(&name))
}

/// A pre-tokenizer ready to use.
#[derive(Debug)]
pub(super) struct Splitter {
    cuts: Vec<Option<Regex>>,
    whole: Whole,
}

impl Splitter {
    pub(super) fn new(pre: &PreTokenizer) -> Result<Self, TokenizerError> {
        let compiled = |cut: &Cut| match cut {
            At(pattern) => Regex::new(pattern).map(Some).map_err(|e| TokenizerError::Pattern(e.to_string())),
            Threes => Ok(None),
        };
        Ok(Self { cuts: pre.cuts.iter().map(compiled).collect::<Result<_, _>>()?, whole: pre.whole })
    }

    /// Whether this word is taken as it stands where it is a token.
    pub(super) fn whole_words(&self, word: &str) -> bool {
        match self.whole {
            Whole::None => false,
            Whole::All => true,
            Whole::Newlines => word.bytes().all(|b| b == b'\n'),
        }
    }

    /// The words of a text, in order and without gaps.
    pub(super) fn split(&self, text: &str) -> Result<Vec<Range<usize>>, TokenizerError> {
        let mut words = Vec::new();
        if !text.is_empty() {
            words.push(0..text.len());
        }
        for cut in &self.cuts {
            let mut next = Vec::with_capacity(words.len());
            for word in words {
                let piece = &text[word.clone()];
                let mut at = word.start;
                let mut end = |place: usize| {
                    if place > at {
                        next.push(at..place);
                        at = place;
                    }
                };
                match cut {
                    Some(regex) => {
                        for found in regex.find_iter(piece) {
                            let found = found.map_err(|e| TokenizerError::Encode(e.to_string()))?;
                            end(word.start + found.start());
                            end(word.start + found.end());
                        }
                    }
                    None => threes(piece).for_each(|place| end(word.start + place)),
                }
                end(word.end);
            }
            words = next;
        }
        Ok(words)
    }
}

/// Places in a piece that a multiple of three digits follows, and no more digits than that.
fn threes(piece: &str) -> impl Iterator<Item = usize> {
    let mut places = Vec::new();
    let mut digits = 0;
    for (place, c) in piece.char_indices().rev() {
        digits = if c.is_numeric() && is_decimal(c) { digits + 1 } else { 0 };
        if digits > 0 && digits % 3 == 0 {
            places.push(place);
        }
    }
    places.into_iter().rev()
}

/// Whether a character is a decimal digit of any script (`\d`).
fn is_decimal(c: char) -> bool {
    use std::sync::LazyLock;
    static DIGIT: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\d$").ok());
    c.is_ascii_digit()
        || (!c.is_ascii()
            && DIGIT.as_ref().is_some_and(|regex| regex.is_match(c.encode_utf8(&mut [0; 4])).unwrap_or(false)))
}

#[cfg(test)]
mod tests {
    use super::{GEMMA4, PRE_TOKENIZERS, Splitter, threes};

    #[test]
    fn every_pre_tokenizer_compiles_cuts_without_gaps_and_has_names_of_its_own() {
        let text = "It's 1234567 words,\r\n\n  DON'T über CamelCase ١٢٣٤ 中文かな 한국어 \u{301}e\u{301} <|x|> ….";
        let mut names: Vec<&str> = Vec::new();
        for pre in PRE_TOKENIZERS.iter().chain([&GEMMA4]) {
            let words =
                Splitter::new(pre).and_then(|s| s.split(text)).unwrap_or_else(|e| panic!("{:?}: {e}", pre.names));
            let mut at = 0;
            for word in words {
                assert!(word.start == at && word.end > at, "{:?}", pre.names);
                at = word.end;
            }
            assert_eq!(at, text.len(), "{:?}", pre.names);
            names.extend(pre.names);
        }
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn digits_in_threes_are_counted_from_the_end() {
        let places = |text| threes(text).collect::<Vec<_>>();
        assert_eq!(places("1234567"), [1, 4]);
        assert_eq!(places("123456"), [0, 3]);
        assert_eq!(places("12a3456"), [4]);
        assert!(places("").is_empty());
    }
}
