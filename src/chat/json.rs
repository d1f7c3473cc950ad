//! JSON as Python's `json.dumps` writes it, which templates print.

use std::fmt::Write as _;

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;

/// Python's `json.dumps`, with its spaces, and without the escapes for HTML that Jinja's own filter makes.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let indent = options.get::<Option<usize>>("indent")?;
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let sorted = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let failed = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let mut json = serde_json::to_value(value).map_err(failed)?;
    if sorted {
        json.sort_all_objects();
    }
    let [item, key] = match separators.as_deref() {
        Some([item, key]) => [item.clone(), key.clone()],
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators are two strings")),
        None => [if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()],
    };
    let mut out = Vec::new();
    let style = Python { item, key, indent, depth: 0, filled: false };
    json.serialize(&mut serde_json::Serializer::with_formatter(&mut out, style)).map_err(failed)?;
    let text = String::from_utf8_lossy(&out);
    Ok(if ascii { escaped(&text) } else { text.into_owned() })
}

/// Characters beyond ASCII as JSON's escapes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii() {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

/// How Python lays out JSON.
struct Python {
    item: String,
    key: String,
    indent: Option<usize>,
    depth: usize,
    /// Whether the object or array that ends has elements.
    filled: bool,
}

impl Python {
    fn line<W: ?Sized + std::io::Write>(&self, out: &mut W) -> std::io::Result<()> {
        match self.indent {
            Some(indent) => write!(out, "\n{:width$}", "", width = indent * self.depth),
            None => Ok(()),
        }
    }

    fn begin<W: ?Sized + std::io::Write>(&mut self, out: &mut W, bracket: &[u8]) -> std::io::Result<()> {
        self.depth += 1;
        self.filled = false;
        out.write_all(bracket)
    }

    fn end<W: ?Sized + std::io::Write>(&mut self, out: &mut W, bracket: &[u8]) -> std::io::Result<()> {
        self.depth -= 1;
        if self.filled {
            self.line(out)?;
        }
        self.filled = true;
        out.write_all(bracket)
    }

    fn element<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        if !first {
            out.write_all(self.item.as_bytes())?;
        }
        self.line(out)
    }
}

impl serde_json::ser::Formatter for Python {
    fn begin_array<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        self.begin(out, b"[")
    }

    fn end_array<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        self.end(out, b"]")
    }

    fn begin_array_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        self.element(out, first)
    }

    fn end_array_value<W: ?Sized + std::io::Write>(&mut self, _: &mut W) -> std::io::Result<()> {
        self.filled = true;
        Ok(())
    }

    fn begin_object<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        self.begin(out, b"{")
    }

    fn end_object<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        self.end(out, b"}")
    }

    fn begin_object_key<W: ?Sized + std::io::Write>(&mut self, out: &mut W, first: bool) -> std::io::Result<()> {
        self.element(out, first)
    }

    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + std::io::Write>(&mut self, _: &mut W) -> std::io::Result<()> {
        self.filled = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use crate::chat::{Given, Jinja};

    /// What Python 3.11's `json.dumps` writes.
    #[test]
    fn json_is_laid_out_as_python_does_it() {
        let value = r#"{'b': [1, -0.5, 1e100, true, none], 'a': 'é<&>\'"\\\n\t😀', 'e': [], 'o': {}}"#;
        let of = |options: &str| {
            let template = format!("{{{{ {value} | tojson({options}) }}}}");
            Jinja::new(&template).unwrap().render(&().into(), &Given::default()).unwrap()
        };
        let a = r#""é<&>'\"\\\n\t😀""#;
        assert_eq!(of(""), format!(r#"{{"b": [1, -0.5, 1e+100, true, null], "a": {a}, "e": [], "o": {{}}}}"#));
        assert_eq!(
            of("separators=(',', ':'), sort_keys=true"),
            format!(r#"{{"a":{a},"b":[1,-0.5,1e+100,true,null],"e":[],"o":{{}}}}"#)
        );
        let escaped = r#""\u00e9<&>'\"\\\n\t\ud83d\ude00""#;
        assert!(of("ensure_ascii=true").contains(escaped));
        let lines = [
            "{",
            "  \"b\": [",
            "    1,",
            "    -0.5,",
            "    1e+100,",
            "    true,",
            "    null",
            "  ],",
            &format!("  \"a\": {a},"),
            "  \"e\": [],",
            "  \"o\": {}",
            "}",
        ];
        assert_eq!(of("indent=2"), lines.join("\n"));
    }
}
