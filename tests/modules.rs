//! The table of modules in docs/architecture.md is true: a module uses those that its row names, and no other.
#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The text of a module's files, without comments and tests.
fn text(path: &Path) -> String {
    if path.is_dir() {
        return std::fs::read_dir(path).unwrap().map(|entry| text(&entry.unwrap().path())).collect();
    }
    let all = std::fs::read_to_string(path).unwrap();
    let code = all.split("\n#[cfg(test)]").next().unwrap().split("\n#[cfg(all(test").next().unwrap().to_owned();
    code.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect()
}

/// The words of a text.
fn words(text: &str) -> BTreeSet<&str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').collect()
}

#[test]
fn a_module_uses_those_that_the_table_names() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let names = std::fs::read_dir(root.join("src")).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), path)
    });
    let mut modules: BTreeMap<String, _> = names.collect();
    modules.retain(|name, _| name != "lib" && name != "main");
    let document = std::fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let mut rows = BTreeMap::new();
    for line in document.lines().filter(|line| line.starts_with("| `src/")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").collect();
        for name in cells[0].split('`').filter_map(|cell| cell.strip_prefix("src/")) {
            // Parts of modules have rows of their own, for people.
            if let Some(name) = name.strip_suffix(".rs").or(name.strip_suffix('/')).filter(|name| !name.contains('/')) {
                rows.insert(name.to_owned(), cells[2].to_owned());
            }
        }
    }
    assert_eq!(
        rows.keys().collect::<Vec<_>>(),
        modules.keys().collect::<Vec<_>>(),
        "the table has a row for every module"
    );
    for (name, path) in &modules {
        let (text, allowed) = (text(path), rows[name].as_str());
        if allowed.starts_with("everything") {
            continue;
        }
        let mut uses = BTreeSet::new();
        for part in text.split("crate::").skip(1) {
            let group = part
                .strip_prefix('{')
                .map_or_else(|| part.split("::").next().unwrap(), |p| p.split('}').next().unwrap());
            uses.extend(words(group).into_iter().filter(|word| modules.contains_key(*word) && word != name));
        }
        let named: BTreeSet<_> = words(allowed).into_iter().filter(|word| modules.contains_key(*word)).collect();
        assert_eq!(uses, named, "src/{name}: what it uses, and what docs/architecture.md says");
    }
}
