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

/// The source of a file before its tests.
fn source(file: &Path) -> String {
    let text = std::fs::read_to_string(file).unwrap();
    text.split("#[cfg(test)]").next().unwrap().to_owned()
}

/// What stands behind any of these marks in the sources, each with `…` for what is filled in.
fn messages(marks: &[&str]) -> Vec<String> {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    let mut messages = Vec::new();
    for text in files.iter().map(|file| source(file)) {
        for mark in marks {
            let found = text.match_indices(mark).filter_map(|(at, _)| literal(&text[at + mark.len()..]));
            messages.extend(found.map(|message| shape(&message)));
        }
    }
    // Those that only pass on another text, and the statistics of a run that is done.
    messages.retain(|m| m.chars().any(|c| c.is_ascii_lowercase()));
    messages
}

#[test]
fn the_list_of_messages_is_complete() {
    let (messages, hints) = (messages(&MARKS), messages(&["hint!("]));
    assert!(messages.len() > 80 && hints.len() > 15, "the sources are written in another way now");
    let list = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors.md")).unwrap();
    let listed: Vec<_> = list.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    // A message stands there by itself or with its hint behind it, as a terminal shows it.
    let has = |line: &str, message: &str| {
        let rest = line.strip_prefix(message);
        rest.is_some_and(|rest| {
            rest.is_empty() || rest.strip_prefix("; ").is_some_and(|r| hints.iter().any(|h| h == r))
        })
    };
    let missing: Vec<_> = messages.iter().filter(|m| !listed.iter().any(|line| has(line, m))).collect();
    assert!(missing.is_empty(), "docs/errors.md does not list:\n{missing:#?}");
    let unused: Vec<_> =
        hints.iter().filter(|h| !listed.iter().any(|line| line.ends_with(&format!("; {h}")))).collect();
    assert!(unused.is_empty(), "docs/errors.md has no message with the hints:\n{unused:#?}");
    let stale: Vec<_> = listed.iter().filter(|line| !messages.iter().any(|m| has(line, m))).collect();
    assert!(stale.is_empty(), "no source has:\n{stale:#?}");
}

/// Options and commands are the program's: what the library says must be right for who calls it from another program, too.
#[test]
fn no_message_of_the_library_names_an_option_or_a_command() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let names_option = |line: &str| {
        line.match_indices('-').any(|(at, _)| {
            let before = line[..at].trim_end_matches('-').chars().next_back();
            let starts_word = before.is_none_or(|c| c == ' ' || c == '"' || c == '`' || c == '(');
            starts_word && line[at + 1..].starts_with(|c: char| c.is_ascii_lowercase())
        })
    };
    for says in ["use --ctx N", "\"--pre\"", "(`-p TEXT`)", "-f FILE"] {
        assert!(names_option(says), "{says}");
    }
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !file.starts_with(root.join("cli"))) {
        let text = source(file);
        let code = text.lines().filter(|line| !line.trim_start().starts_with("//") && line.contains('"'));
        found.extend(code.filter(|line| line.contains("`samebits ")).map(str::to_owned));
        for mark in MARKS.into_iter().chain(["Some(\"", "=> \"", "format!("]) {
            let texts =
                text.match_indices(mark).filter_map(|(at, _)| literal(&text[at + mark.trim_end_matches('"').len()..]));
            found.extend(texts.filter(|text| names_option(text)));
        }
    }
    assert!(found.is_empty(), "of the program, not of the library:\n{found:#?}");
}
