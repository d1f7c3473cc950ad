//! llama.cpp's grammars (GBNF) as llguidance reads them (Lark).

use std::collections::HashMap;
use std::fmt::Write;

use super::GrammarError;

/// Nesting of groups that is followed.
const DEEPEST: usize = 64;

/// A grammar in Lark: its rules have the names `r0`, `r1`, …, and `start` is the rule `root`.
///
/// # Errors
/// [`GrammarError::Gbnf`], with the line.
pub(super) fn to_lark(source: &str) -> Result<String, GrammarError> {
    let mut parser = Parser { source: source.chars().collect(), at: 0, rules: Vec::new(), names: HashMap::new() };
    parser.space(true);
    while parser.at < parser.source.len() {
        parser.rule()?;
    }
    let root = parser.names.get("root").copied();
    let root = root.ok_or_else(|| parser.wrong("there is no rule root"))?;
    let mut lark = format!("start: r{root}\n");
    for (i, rule) in parser.rules.iter().enumerate() {
        let Rule { line, text } = rule;
        let text = text.as_ref().ok_or_else(|| {
            let name = parser.names.iter().find(|(_, number)| **number == i).map_or("", |(name, _)| name);
            GrammarError::Gbnf { line: *line, reason: format!("there is no rule {name}") }
        })?;
        let _ = writeln!(lark, "r{i}: {text}");
    }
    Ok(lark)
}

/// A rule by its number, which may be used before it is written.
struct Rule {
    /// Where it is first named.
    line: usize,
    text: Option<String>,
}

struct Parser {
    source: Vec<char>,
    at: usize,
    rules: Vec<Rule>,
    names: HashMap<String, usize>,
}

impl Parser {
    fn line(&self) -> usize {
        1 + self.source[..self.at.min(self.source.len())].iter().filter(|c| **c == '\n').count()
    }

    fn wrong(&self, reason: impl Into<String>) -> GrammarError {
        GrammarError::Gbnf { line: self.line(), reason: reason.into() }
    }

    fn peek(&self) -> Option<char> {
        self.source.get(self.at).copied()
    }

    fn take(&mut self, text: &str) -> bool {
        let found = text.chars().enumerate().all(|(i, c)| self.source.get(self.at + i) == Some(&c));
        if found {
            self.at += text.chars().count();
        }
        found
    }

    /// Passes white space and comments, and the ends of lines if `lines`.
    fn space(&mut self, lines: bool) {
        while let Some(c) = self.peek() {
            match c {
                '#' => self.at += self.source[self.at..].iter().take_while(|c| **c != '\n').count(),
                '\n' | '\r' if !lines => return,
                c if c.is_whitespace() => self.at += 1,
                _ => return,
            }
        }
    }

    fn name(&mut self) -> Result<usize, GrammarError> {
        let start = self.at;
        while self.peek().is_some_and(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') {
            self.at += 1;
        }
        if start == self.at {
            return Err(self.wrong(match self.peek() {
                Some(c @ ('<' | '!')) => format!("{c} begins a token, which is not supported; write its text"),
                Some(c) => format!("{c:?} does not belong here"),
                None => "it ends too early".to_owned(),
            }));
        }
        let name: String = self.source[start..self.at].iter().collect();
        if let Some(number) = self.names.get(&name) {
            return Ok(*number);
        }
        let number = self.rules.len();
        self.rules.push(Rule { line: self.line(), text: None });
        self.names.insert(name, number);
        Ok(number)
    }

    fn rule(&mut self) -> Result<(), GrammarError> {
        let number = self.name()?;
        self.space(false);
        if !self.take("::=") {
            return Err(self.wrong("::= is missing behind the name of a rule"));
        }
        self.space(true);
        let text = self.alternatives(0)?;
        if self.rules[number].text.replace(text).is_some() {
            return Err(self.wrong("a rule is written twice"));
        }
        match self.peek() {
            Some('\n' | '\r') | None => self.space(true),
            Some(c) => return Err(self.wrong(format!("{c:?} does not belong here"))),
        }
        Ok(())
    }

    fn alternatives(&mut self, depth: usize) -> Result<String, GrammarError> {
        if depth > DEEPEST {
            return Err(self.wrong("its groups are nested too deeply"));
        }
        let mut all = vec![self.sequence(depth)?];
        while self.take("|") {
            self.space(true);
            all.push(self.sequence(depth)?);
        }
        Ok(all.join(" | "))
    }

    fn sequence(&mut self, depth: usize) -> Result<String, GrammarError> {
        let mut parts: Vec<String> = Vec::new();
        while let Some(c) = self.peek() {
            match c {
                '"' => parts.push(self.literal()?),
                '[' => parts.push(self.class()?),
                '(' => {
                    self.at += 1;
                    self.space(true);
                    let inner = self.alternatives(depth + 1)?;
                    if !self.take(")") {
                        return Err(self.wrong(") is missing"));
                    }
                    parts.push(format!("({inner})"));
                }
                '.' => {
                    self.at += 1;
                    parts.push("/./s".to_owned());
                }
                '*' | '+' | '?' | '{' => {
                    let operator = self.repetition()?;
                    let what = parts.pop().ok_or_else(|| self.wrong("there is nothing to repeat"))?;
                    parts.push(format!("({what}){operator}"));
                }
                '|' | ')' | '\n' | '\r' => break,
                _ => parts.push(format!("r{}", self.name()?)),
            }
            self.space(depth > 0);
        }
        Ok(if parts.is_empty() { "\"\"".to_owned() } else { parts.join(" ") })
    }

    fn repetition(&mut self) -> Result<String, GrammarError> {
        for operator in ["*", "+", "?"] {
            if self.take(operator) {
                return Ok(operator.to_owned());
            }
        }
        let end = self.source[self.at..].iter().position(|c| *c == '}');
        let end = end.ok_or_else(|| self.wrong("} is missing"))?;
        let text: String = self.source[self.at + 1..self.at + end].iter().filter(|c| !c.is_whitespace()).collect();
        self.at += end + 1;
        let (least, most) = text.split_once(',').map_or((text.as_str(), Some(text.as_str())), |(least, most)| {
            (least, Some(most).filter(|most| !most.is_empty()))
        });
        let number = |text: &str| text.parse::<u16>().ok();
        match (number(least), most.map(number)) {
            (Some(least), None) => Ok(format!("{{{least},}}")),
            (Some(least), Some(Some(most))) if least <= most => Ok(format!("{{{least},{most}}}")),
            _ => Err(self.wrong(format!("{{{text}}} is no repetition; write {{m}}, {{m,}} or {{m,n}}"))),
        }
    }

    fn literal(&mut self) -> Result<String, GrammarError> {
        self.at += 1;
        let mut text = "\"".to_owned();
        while !self.take("\"") {
            match self.character()? {
                // As in JSON, also what needs no escape there.
                c if c.is_control() || c == '"' || c == '\\' => {
                    let _ = write!(text, "\\u{:04x}", u32::from(c));
                }
                c => text.push(c),
            }
        }
        text.push('"');
        Ok(text)
    }

    fn class(&mut self) -> Result<String, GrammarError> {
        self.at += 1;
        let mut text = if self.take("^") { "/[^" } else { "/[" }.to_owned();
        let before = text.len();
        while !self.take("]") {
            let first = self.character()?;
            let _ = write!(text, "\\x{{{:x}}}", u32::from(first));
            if self.peek() == Some('-') && self.source.get(self.at + 1).is_some_and(|c| *c != ']') {
                self.at += 1;
                let last = self.character()?;
                if last < first {
                    return Err(self.wrong(format!("{first:?}-{last:?} is no range")));
                }
                let _ = write!(text, "-\\x{{{:x}}}", u32::from(last));
            }
        }
        if text.len() == before {
            return Err(self.wrong("[] has no character"));
        }
        text.push_str("]/");
        Ok(text)
    }

    /// A character of a literal or a class.
    fn character(&mut self) -> Result<char, GrammarError> {
        let c = self.peek().filter(|c| *c != '\n').ok_or_else(|| self.wrong("a text or class does not end"))?;
        self.at += 1;
        if c != '\\' {
            return Ok(c);
        }
        let c = self.peek().ok_or_else(|| self.wrong("it ends with \\"))?;
        self.at += 1;
        let digits = match c {
            'n' => return Ok('\n'),
            'r' => return Ok('\r'),
            't' => return Ok('\t'),
            '"' | '\\' | '[' | ']' => return Ok(c),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            c => return Err(self.wrong(format!("\\{c} is unknown"))),
        };
        let hex: String = self.source[self.at..].iter().take(digits).collect();
        self.at = (self.at + digits).min(self.source.len());
        let code = u32::from_str_radix(&hex, 16).ok().filter(|_| hex.len() == digits);
        code.and_then(char::from_u32).ok_or_else(|| self.wrong(format!("\\{c}{hex} is no character")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grammar_of_llama_cpp_is_one_of_lark() {
        let gbnf = "# a list\nroot ::= item (\",\" ws item)* # the end\n\
                    item ::= \"a\\n\\\"\" |\n  [^a-z\\]\\x41]+ | .{2} | [\\u00e9-]{1,}\nws ::= [ \\t]{0,3}|\n";
        let lark = "start: r0\nr0: r1 (\",\" r2 r1)*\n".replace("(\",\" r2 r1)*", "((\",\" r2 r1))*")
            + "r1: \"a\\u000a\\u0022\" | (/[^\\x{61}-\\x{7a}\\x{5d}\\x{41}]/)+ | (/./s){2,2} | (/[\\x{e9}\\x{2d}]/){1,}\n\
               r2: (/[\\x{20}\\x{9}]/){0,3} | \"\"\n";
        assert_eq!(to_lark(gbnf), Ok(lark));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (line, gbnf) in [
            (1, ""),
            (1, "a ::= \"b\""),
            (1, "root = \"b\""),
            (2, "root ::= a\na ::= b"),
            (1, "root ::= \"b"),
            (1, "root ::= [a"),
            (1, "root ::= []"),
            (1, "root ::= [z-a]"),
            (1, "root ::= (\"a\""),
            (1, "root ::= \"a\")"),
            (1, "root ::= *"),
            (1, "root ::= \"a\"{2,1}"),
            (1, "root ::= \"a\"{x}"),
            (1, "root ::= \"a\"{"),
            (1, "root ::= \"\\q\""),
            (1, "root ::= \"\\x4\""),
            (2, "root ::= \"a\"\nroot ::= \"b\""),
            (1, "root ::= <think>"),
            (1, "root ::= $"),
        ] {
            match to_lark(gbnf) {
                Err(GrammarError::Gbnf { line: found, .. }) => assert_eq!(found, line, "{gbnf}"),
                other => panic!("{gbnf}: {other:?}"),
            }
        }
        assert!(to_lark(&format!("root ::= {}", "(".repeat(100_000))).is_err());
    }
}
