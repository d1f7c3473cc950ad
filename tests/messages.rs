//! `docs/errors.md` lists every message a user can meet, and no other.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::{Path, PathBuf};

/// What stands before a message in the source.
const MARKS: [&str; 3] = ["#[error(", "note!(", "warning!("];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The string literal at the start of `text`, if there is one.
fn literal(text: &str) -> Option<String> {
    let mut chars = text.trim_start().strip_prefix('"')?.chars();
    let mut out = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(out),
            '\\' => match chars.next()? {
                // A line that goes on in the next one.
                '\n' => {
                    let rest = chars.as_str().trim_start().to_owned();
                    let skipped = chars.as_str().len() - rest.len();
                    chars.by_ref().take(skipped).for_each(drop);
                }
                'n' => out.push('\n'),
                other => out.push(other),
            },
            other => out.push(other),
        }
    }
}

/// A message with `…` for everything that is filled in.
fn shape(message: &str) -> String {
    let mut out = String::new();
    let mut depth = 0;
    for c in message.replace("{{", "\u{1}").replace("}}", "\u{2}").chars() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                out.push('…');
            }
            c if depth == 0 => out.push(c),
            _ => {}
        }
    }
    out.replace('\u{1}', "{").replace('\u{2}', "}")
}

#[test]
fn the_list_of_messages_is_complete() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    let mut messages = Vec::new();
    for file in &files {
        let text = std::fs::read_to_string(file).unwrap();
        let text = text.split("#[cfg(test)]").next().unwrap();
        for mark in MARKS {
            let found = text.match_indices(mark).filter_map(|(at, _)| literal(&text[at + mark.len()..]));
            messages.extend(found.map(|message| shape(&message)));
        }
    }
    // Those that only pass on another text, and the statistics of a run that is done.
    messages.retain(|m| m.chars().any(|c| c.is_ascii_lowercase()));
    assert!(messages.len() > 80, "the sources are written in another way now");
    let list = std::fs::read_to_string(root.join("docs/errors.md")).unwrap();
    let listed: Vec<_> = list.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    let missing: Vec<_> = messages.iter().filter(|m| !listed.contains(&m.as_str())).collect();
    assert!(missing.is_empty(), "docs/errors.md does not list:\n{missing:#?}");
    let stale: Vec<_> = listed.iter().filter(|l| !messages.iter().any(|m| m == *l)).collect();
    assert!(stale.is_empty(), "no source has:\n{stale:#?}");
}
