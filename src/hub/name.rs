//! How models of the hub are written: `hf:OWNER/REPO[:QUANT|FILE][@REVISION]`.

use std::fmt;
use std::str::FromStr;

use super::HubError;

/// What the name of a model on the hub begins with.
pub const SCHEME: &str = "hf:";

/// The revision that is meant where none is given.
pub const MAIN: &str = "main";

/// The name of a model on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelName {
    /// `OWNER/REPO`.
    pub repo: String,
    /// A quantisation (`Q4_K_M`) or a file of the repository; none where the repository has only one model.
    pub wanted: Option<String>,
    /// A branch, a tag or a commit.
    pub revision: String,
}

impl ModelName {
    /// The name of one of the repository's models instead.
    pub fn with(&self, wanted: &str) -> Self {
        Self { wanted: Some(wanted.to_owned()), ..self.clone() }
    }

    /// The name of the repository alone.
    pub fn repository(&self) -> Self {
        Self { wanted: None, ..self.clone() }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.repo)?;
        if let Some(wanted) = &self.wanted {
            write!(f, ":{wanted}")?;
        }
        if self.revision == MAIN { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

impl FromStr for ModelName {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        let wrong = |why| HubError::Name { name: text.to_owned(), why };
        let rest = text.strip_prefix(SCHEME).ok_or_else(|| wrong("it does not begin with hf:"))?;
        let (rest, revision) = rest.rsplit_once('@').unwrap_or((rest, MAIN));
        let (repo, wanted) = match rest.split_once(':') {
            Some((repo, wanted)) => (repo, Some(wanted)),
            None => (rest, None),
        };
        let words: Vec<_> = repo.split('/').collect();
        match words[..] {
            [owner, repo] if is_word(owner) && is_word(repo) => {}
            [_, _] => return Err(wrong("owner and repository are made of letters, digits, -, _ and .")),
            _ => return Err(wrong("one owner and one repository are needed")),
        }
        if wanted.is_some_and(|wanted| !is_inside(wanted)) {
            return Err(wrong("behind the colon stands no quantisation and no file"));
        }
        if !is_inside(revision) {
            return Err(wrong("behind the @ stands no revision"));
        }
        Ok(Self { repo: repo.to_owned(), wanted: wanted.map(str::to_owned), revision: revision.to_owned() })
    }
}

/// Whether the hub would take this as an owner or a repository. `--` separates both in the cache.
fn is_word(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (1..=96).contains(&text.len())
        && text.chars().all(inside)
        && !text.contains("--")
        && !text.contains("..")
        && !text.starts_with(['-', '.'])
        && !text.ends_with(['-', '.'])
}

/// Whether a path with `/` between its parts stays within its folder on every system.
pub(super) fn is_inside(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != "..";
    path.split('/').all(part) && !path.contains(['\\', ':', '\0']) && !path.chars().any(char::is_control)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (text, repo, wanted, revision) in [
            ("hf:a/b", "a/b", None, "main"),
            ("hf:a/b.c_d-e:Q4_K_M", "a/b.c_d-e", Some("Q4_K_M"), "main"),
            ("hf:a/b@v1", "a/b", None, "v1"),
            ("hf:a/b:x/é ü.gguf@refs/pr/1", "a/b", Some("x/é ü.gguf"), "refs/pr/1"),
        ] {
            let name: ModelName = text.parse().unwrap();
            assert_eq!((name.repo.as_str(), name.wanted.as_deref(), name.revision.as_str()), (repo, wanted, revision));
            assert_eq!(name.to_string(), text);
        }
        assert_eq!("hf:a/b@main".parse::<ModelName>().unwrap().to_string(), "hf:a/b");
    }

    #[test]
    fn names_that_could_leave_the_cache_are_refused() {
        for text in [
            "a/b",
            "hf:",
            "hf:a",
            "hf:a/b/c",
            "hf:a/",
            "hf:/b",
            "hf:../b",
            "hf:a/..",
            "hf:a--b/c",
            "hf:a/b:",
            "hf:a/b@",
            "hf:a/b:../x",
            "hf:a/b:/x",
            "hf:a/b:x\\y",
            "hf:a/b@../x",
            "hf:a/b:c:d",
            "hf:a b/c",
            "hf:é/b",
            "hf:a/b:x\n",
            "hf:a/b:./x",
            "hf:a/.b",
        ] {
            assert!(text.parse::<ModelName>().is_err(), "{text}");
        }
    }
}
