//! The WGSL grammar's parentheses, which naga does not ask for and Tint does.

/// What takes a list in `<>`.
const TEMPLATES: [&str; 8] = ["vec", "mat", "array", "atomic", "bitcast", "var", "ptr", "coop"];

/// Operators of two characters.
const TWO: [&str; 18] =
    ["->", "&&", "||", "<<", ">>", "==", "!=", "<=", ">=", "+=", "-=", "*=", "/=", "%=", "&=", "|=", "^=", "++"];

/// Expressions that mix `&`, `|`, `^` or shifts with other operators without parentheses, by line.
pub fn mixed_operators(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    // The operators of the expressions that are open, innermost last.
    let mut open: Vec<Vec<&str>> = vec![Vec::new()];
    let mut templates = 0;
    let mut before = "";
    for (line, token) in tokens(source) {
        let value = before.ends_with([')', ']']) || before.starts_with(is_word);
        match token {
            "(" | "[" => open.push(Vec::new()),
            ")" | "]" => drop(open.pop()),
            "<" if TEMPLATES.iter().any(|t| before.starts_with(t)) => {
                templates += 1;
                open.push(Vec::new());
            }
            ">" | ">>" if templates > 0 => {
                for _ in 0..token.len().min(templates) {
                    templates -= 1;
                    open.pop();
                }
            }
            _ if value && open.last_mut().is_some_and(|operators| mixes(operators, token)) => {
                let text = source.lines().nth(line).unwrap_or_default().trim();
                found.push(format!("line {}: `{token}` needs parentheses: {text}", line + 1));
            }
            "," | ";" | ":" | "{" | "}" | "=" => {
                open.last_mut().into_iter().for_each(Vec::clear);
            }
            _ => {}
        }
        before = if ["return", "if", "while"].contains(&token) { "" } else { token };
    }
    found
}

/// Whether an operator may not stand beside those of its expression; takes it in where it is one.
fn mixes<'a>(operators: &mut Vec<&'a str>, token: &'a str) -> bool {
    let bits = |o: &&str| ["&", "|", "^"].contains(o);
    let shift = |o: &&str| ["<<", ">>"].contains(o);
    let compares = |o: &&str| ["<", ">", "<=", ">=", "==", "!="].contains(o);
    let logical = |o: &&str| ["&&", "||"].contains(o);
    let mixed = match token {
        t if bits(&t) => operators.iter().any(|o| *o != t),
        t if shift(&t) => !operators.iter().all(|o| compares(o) || logical(o)),
        t if compares(&t) => operators.iter().any(bits),
        "+" | "-" | "*" | "/" | "%" => operators.iter().any(|o| bits(o) || shift(o)),
        t if logical(&t) => operators.iter().any(|o| bits(o) || logical(o) && *o != t),
        _ => return false,
    };
    if compares(&token) || logical(&token) {
        operators.retain(|o| logical(o));
    }
    operators.push(token);
    mixed
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '.'
}

/// Words and operators without comments, with the number of their line.
fn tokens(source: &str) -> Vec<(usize, &str)> {
    let mut all = Vec::new();
    for (number, line) in source.lines().enumerate() {
        let mut rest = line.split("//").next().unwrap_or_default().trim();
        while let Some(first) = rest.chars().next() {
            let length = if is_word(first) {
                rest.find(|c| !is_word(c)).unwrap_or(rest.len())
            } else if rest.get(..2).is_some_and(|two| TWO.contains(&two)) {
                2
            } else {
                first.len_utf8()
            };
            let (token, behind) = rest.split_at(length);
            all.push((number, token));
            rest = behind.trim_start();
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the grammar takes and what it refuses (WGSL, section 8.18).
    #[test]
    fn mixed_operators_need_parentheses() {
        let mixed = [
            "let a = thread / 8u & 7u;",
            "let a = x & 7u | y;",
            "let a = x + 1u << 2u;",
            "let a = x << 2u << 2u;",
            "let a = x & 7u == 0u;",
            "if 0u == x & 7u { }",
            "let a = b && c & d;",
            "let a = b == c && d || e;",
            "f(a, b |\n  c * d);",
            "return a[i ^ 1u + j];",
        ];
        for text in mixed {
            assert_eq!(mixed_operators(text).len(), 1, "{text}");
        }
        let right = [
            "let a = (thread / 8u) & 7u; let b = x & y & z;",
            "let p = bitcast<vec2<i32>>(a + b) + c; var<workgroup> t: array<vec4<f32>, 8u * D>;",
            "f(&a, &b[i * 2u], x - 1u);",
            "if x << 2u == y >> 3u && a > b && (a & b) != 0u { } // a & b | c",
            "let m = -(x & 3u) + 4; a |= x * 3u; let n = a < b;",
        ];
        for text in right {
            assert_eq!(mixed_operators(text), Vec::<String>::new(), "{text}");
        }
    }
}
