//! Models that are split over several files, as llama.cpp writes and reads them: `NAME-00001-of-00003.gguf`. The first file has
//! the metadata; each has its own tensors, the number of the file (`split.no`, from 0 on) and how many files and tensors there are.

use std::path::{Path, PathBuf};

use super::{Gguf, GgufError, Value};

/// The file name of one part of a split model, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardName<'a> {
    /// What all parts begin with.
    pub prefix: &'a str,
    /// Which part, from 1 on.
    pub number: u32,
    /// How many there are.
    pub count: u32,
}

impl<'a> ShardName<'a> {
    /// Takes a file name (or a path's text) apart; `None` where it is not that of a part.
    pub fn parse(name: &'a str) -> Option<Self> {
        let stem = name.strip_suffix(".gguf")?;
        let (rest, count) = five_digits(stem)?;
        let (prefix, number) = five_digits(rest.strip_suffix("-of-")?)?;
        let prefix = prefix.strip_suffix('-')?;
        (1..=count).contains(&number).then_some(Self { prefix, number, count })
    }

    /// The name of another part of the same model.
    pub fn part(&self, number: u32) -> String {
        format!("{}-{number:05}-of-{:05}.gguf", self.prefix, self.count)
    }
}

/// Five digits at the end of a text, and what stands before them.
fn five_digits(text: &str) -> Option<(&str, u32)> {
    let (rest, digits) = text.split_at_checked(text.len().checked_sub(5)?)?;
    if !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((rest, digits.parse().ok()?))
}

/// The paths of all parts of the split model to which a file belongs by its name; the file alone where it is no part.
pub fn paths_of_parts(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    match ShardName::parse(&name) {
        Some(shard) => (1..=shard.count).map(|number| path.with_file_name(shard.part(number))).collect(),
        None => vec![path.to_owned()],
    }
}

/// How many files a part says that its model has; `None` for a whole model.
pub(super) fn count(gguf: &Gguf) -> Option<u64> {
    gguf.get("split.count").and_then(Value::as_u64).filter(|count| *count > 1)
}

/// The whole model to which an opened file belongs.
pub(super) fn joined(path: &Path, given: Gguf) -> Result<Gguf, GgufError> {
    let Some(count) = count(&given) else { return Ok(given) };
    let number = number(&given).ok_or_else(|| wrong(path, "does not say which ('split.no')"))?;
    let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
    let named =
        ShardName::parse(&name).filter(|name| (u64::from(name.number), u64::from(name.count)) == (number, count));
    let Some(name) = named else {
        let why = format!(
            "is not called as part {number} of {count}; give it its name back: …-{number:05}-of-{count:05}.gguf"
        );
        return Err(wrong(path, &why));
    };
    let mut given = Some(given);
    let mut whole: Option<Gguf> = None;
    for part in 1..=name.count {
        let path = path.with_file_name(name.part(part));
        let opened = match given.take_if(|_| part == name.number) {
            Some(opened) => opened,
            None if !path.exists() => {
                let why = format!("part {part} of {count} is missing; download it into the same folder");
                return Err(wrong(&path.with_file_name(name.part(name.number)), &why));
            }
            None => Gguf::open_one(&path)?,
        };
        whole = Some(match whole {
            None => opened,
            Some(mut whole) => {
                add(&mut whole, opened, &path, u64::from(part))?;
                whole
            }
        });
    }
    let mut whole = whole.ok_or_else(|| wrong(path, "it has no parts"))?;
    let promised = whole.get("split.tensors.count").and_then(Value::as_u64);
    if promised.is_some_and(|promised| promised != whole.tensors.len() as u64) {
        let why = format!(
            "all parts hold {} tensors instead of {}; download them again",
            whole.tensors.len(),
            promised.unwrap_or_default()
        );
        return Err(wrong(path, &why));
    }
    // What it was split into says nothing of the whole.
    whole.metadata.retain(|(key, _)| !key.starts_with("split."));
    whole.keys = whole.metadata.iter().enumerate().map(|(i, (key, _))| (key.clone(), i)).collect();
    Ok(whole)
}

/// Adds a further part.
fn add(whole: &mut Gguf, mut part: Gguf, path: &Path, number_by_name: u64) -> Result<(), GgufError> {
    if number(&part) != Some(number_by_name) {
        let says = number(&part).map_or("none".to_owned(), |number| number.to_string());
        return Err(wrong(
            path,
            &format!("it says that it is number {says}; its name is another's, download it again"),
        ));
    }
    // Keys that only say how a file is laid out may differ.
    let own = ["split.no", "general.alignment"];
    let differs = |(key, value): &&(String, Value)| {
        !own.contains(&key.as_str()) && whole.get(key).is_none_or(|first| first != value)
    };
    if let Some((key, _)) = part.metadata.iter().find(differs) {
        let why = format!(
            "its '{key}' is not that of the first part; these are parts of different models, download them again"
        );
        return Err(wrong(path, &why));
    }
    for mut tensor in part.tensors {
        tensor.part = whole.parts.len();
        if whole.names.insert(tensor.name.clone(), whole.tensors.len()).is_some() {
            let why = format!("tensor '{}' is in another part, too; download them again", tensor.name);
            return Err(wrong(path, &why));
        }
        whole.tensors.push(tensor);
    }
    whole.parts.append(&mut part.parts);
    Ok(())
}

/// Which part a file says that it is, from 1 on.
fn number(gguf: &Gguf) -> Option<u64> {
    gguf.get("split.no").and_then(Value::as_u64)?.checked_add(1)
}

fn wrong(path: &Path, why: &str) -> GgufError {
    GgufError::Part { path: path.display().to_string(), why: why.to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn names_of_parts_are_taken_apart_and_put_together() {
        let name = "a/m-Q4_0-00002-of-00010.gguf";
        let parsed = ShardName::parse(name).unwrap();
        assert_eq!(parsed, ShardName { prefix: "a/m-Q4_0", number: 2, count: 10 });
        assert_eq!((parsed.part(2).as_str(), parsed.part(10).as_str()), (name, "a/m-Q4_0-00010-of-00010.gguf"));
        for other in [
            "m.gguf",
            "m-00003-of-00002.gguf",
            "m-00000-of-00002.gguf",
            "m-0001-of-0002.gguf",
            "00001-of-00002.gguf",
            "é00001-of-00002.gguf",
            "m-00001-of-00002",
            "m-0000a-of-00002.gguf",
            "-of-.gguf",
            "é.gguf",
            "",
        ] {
            assert_eq!(ShardName::parse(other), None, "{other}");
        }
    }
}
