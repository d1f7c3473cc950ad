//! Which files of a repository are a model, and which of the models a name means.

use std::collections::BTreeMap;

use super::{HubError, ModelName};
use crate::gguf::ShardName;

/// Quantisations in the order in which one is suggested: small with little loss first.
const SUGGESTED: [&str; 12] =
    ["Q4_K_M", "Q4_K_S", "UD-Q4_K_XL", "Q4_0", "Q4_1", "MXFP4", "Q5_K_M", "IQ4_NL", "IQ4_XS", "Q8_0", "BF16", "F16"];

/// How many names that resemble an unknown one are said.
const NEAREST: usize = 3;

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoFile {
    /// Its path in the repository, with `/` between its parts.
    pub path: String,
    /// Its bytes.
    pub size: u64,
}

/// A model of a repository: one file, or all parts of a split one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoModel {
    /// Its quantisation, as its file says it: `Q4_K_M`.
    pub quant: Option<String>,
    /// Its files, in order.
    pub files: Vec<RepoFile>,
    /// How many parts its file names promise; 1 for a model in one file.
    pub parts: usize,
}

impl RepoModel {
    /// Bytes of all its files.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|f| f.size).sum()
    }

    /// Its (first) file.
    pub fn file(&self) -> &str {
        self.files.first().map_or("", |f| &f.path)
    }

    /// Whether all parts are there.
    pub fn is_whole(&self) -> bool {
        self.files.len() == self.parts
    }

    /// What chooses it among `all`: its quantisation if no other has that, else its file.
    pub fn word(&self, all: &[Self]) -> &str {
        match &self.quant {
            Some(quant) if all.iter().filter(|c| c.quant.as_ref() == Some(quant)).count() == 1 => quant,
            _ => self.file(),
        }
    }
}

/// The models among files. Projectors of images and importance matrices are no models.
pub fn repo_models(files: &[RepoFile]) -> Vec<RepoModel> {
    let mut whole = Vec::new();
    let mut split: BTreeMap<(&str, u32), Vec<&RepoFile>> = BTreeMap::new();
    for file in files {
        let name = file.path.rsplit('/').next().unwrap_or_default().to_lowercase();
        if !name.ends_with(".gguf") || name.contains("mmproj") || name.contains("imatrix") {
            continue;
        }
        match ShardName::parse(&file.path) {
            Some(shard) => split.entry((shard.prefix, shard.count)).or_default().push(file),
            None => whole.push(RepoModel { quant: quant(&file.path), files: vec![file.clone()], parts: 1 }),
        }
    }
    whole.extend(split.into_iter().map(|((prefix, count), mut files)| {
        files.sort_by(|a, b| a.path.cmp(&b.path));
        RepoModel { quant: quant(prefix), files: files.into_iter().cloned().collect(), parts: count as usize }
    }));
    whole.sort_by(|a, b| a.size().cmp(&b.size()).then_with(|| a.file().cmp(b.file())));
    whole
}

/// The error of a name that may mean several.
pub(super) fn ambiguous(name: &ModelName, found: &[&RepoModel], all: &[RepoModel]) -> HubError {
    HubError::Several {
        suggestion: name.with(suggested(found).word(all)),
        list: found.iter().map(|c| (c.word(all).to_owned(), c.size(), c.parts)).collect(),
    }
}

/// The model that a name means.
///
/// # Errors
/// There is none, several may be meant, or there is none of that name.
pub fn choose<'a>(name: &ModelName, files: &[RepoFile], all: &'a [RepoModel]) -> Result<&'a RepoModel, HubError> {
    if all.is_empty() {
        return Err(HubError::NoGguf { name: name.repository(), found: kinds(files) });
    }
    let several = |found: Vec<&RepoModel>| ambiguous(name, &found, all);
    let Some(wanted) = &name.wanted else {
        return match all {
            [one] => whole(name, one),
            _ => Err(several(all.iter().collect())),
        };
    };
    match &matching(wanted, all)[..] {
        [one] => whole(name, one),
        [] => {
            let words: Vec<_> = all.iter().map(|c| c.word(all)).collect();
            Err(HubError::NoSuch { name: name.clone(), nearest: nearest(wanted, &words) })
        }
        found => Err(several(found.to_vec())),
    }
}

/// The models that a file's or a quantisation's name means.
pub(super) fn matching<'a>(wanted: &str, all: &'a [RepoModel]) -> Vec<&'a RepoModel> {
    let is_file =
        |c: &&RepoModel| c.files.iter().any(|f| f.path == wanted || f.path.rsplit('/').next() == Some(wanted));
    let is_quant = |c: &&RepoModel| c.quant.as_deref().is_some_and(|quant| quant.eq_ignore_ascii_case(wanted));
    let files: Vec<_> = all.iter().filter(is_file).collect();
    if files.is_empty() { all.iter().filter(is_quant).collect() } else { files }
}

fn whole<'a>(name: &ModelName, choice: &'a RepoModel) -> Result<&'a RepoModel, HubError> {
    if choice.is_whole() {
        return Ok(choice);
    }
    Err(HubError::Parts { name: name.clone(), found: choice.files.len(), parts: choice.parts })
}

/// The words that are most like another.
pub fn nearest(wanted: &str, words: &[&str]) -> Vec<String> {
    let plain = |word: &str| word.to_lowercase().replace('_', "-");
    let wanted = plain(wanted);
    let likeness = |word: &str| {
        let word = plain(word);
        // What is only unfinished comes first.
        strsim::jaro_winkler(&wanted, &word) + if word.contains(&wanted) { 1.0 } else { 0.0 }
    };
    let mut list: Vec<_> = words.iter().map(|word| (likeness(word), *word)).collect();
    list.sort_by(|a, b| b.0.total_cmp(&a.0));
    list.into_iter().take(NEAREST).map(|(_, word)| word.to_owned()).collect()
}

fn suggested<'a>(all: &[&'a RepoModel]) -> &'a RepoModel {
    let quant = |c: &RepoModel, wanted: &str| c.quant.as_deref().is_some_and(|q| q.eq_ignore_ascii_case(wanted));
    let found = SUGGESTED.iter().find_map(|wanted| all.iter().find(|c| c.is_whole() && quant(c, wanted)));
    found.unwrap_or(&all[0])
}

/// The quantisation in a file's name, or in the name of its folder: the last word that is one.
fn quant(path: &str) -> Option<String> {
    path.strip_suffix(".gguf").unwrap_or(path).rsplit('/').find_map(|part| {
        let words: Vec<_> = part.split(['-', '.']).collect();
        let at = words.iter().rposition(|word| quant_word(word).is_some())?;
        let word = quant_word(words[at])?;
        let dynamic = at > 0 && words[at - 1].eq_ignore_ascii_case("UD") && word == words[at];
        Some(format!("{}{}", if dynamic { "UD-" } else { "" }, word.to_uppercase()))
    })
}

/// A word that is a quantisation, or ends with one behind `_`: `q4_0`, `model_q4_0`.
fn quant_word(word: &str) -> Option<&str> {
    let starts = std::iter::once(0).chain(word.match_indices('_').map(|(at, _)| at + 1));
    starts.map(|at| &word[at..]).find(|word| is_quant(word))
}

fn is_quant(word: &str) -> bool {
    let word = word.to_uppercase();
    let numbered = |head: &str| {
        word.strip_prefix(head).and_then(|rest| rest.strip_prefix(|c: char| c.is_ascii_digit())).is_some_and(|rest| {
            rest.is_empty() || rest.starts_with('_') && rest.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        })
    };
    let floats = ["F16", "BF16", "F32", "FP16", "FP32"];
    floats.contains(&word.as_str())
        || ["MXFP", "NVFP"].iter().any(|head| numbered(head))
        || ["Q", "IQ", "TQ"].iter().any(|head| numbered(head))
}

/// What a repository without a model holds: `2 .safetensors, 1 .json`.
fn kinds(files: &[RepoFile]) -> String {
    let mut count: BTreeMap<&str, usize> = BTreeMap::new();
    for file in files {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        *count.entry(name.rfind('.').map_or(name, |dot| &name[dot..])).or_default() += 1;
    }
    let mut list: Vec<_> = count.into_iter().collect();
    list.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
    let text: Vec<_> = list.iter().take(6).map(|(kind, n)| format!("{n} {kind}")).collect();
    if text.is_empty() { "nothing".to_owned() } else { text.join(", ") }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn quantisations_are_read_from_the_names_that_people_give() {
        for (path, wanted) in [
            ("SmolLM2-135M-Instruct.Q4_1.gguf", Some("Q4_1")),
            ("qwen2.5-0.5b-instruct-q4_k_m.gguf", Some("Q4_K_M")),
            ("gemma-3-270m-it-UD-Q4_K_XL.gguf", Some("UD-Q4_K_XL")),
            ("Llama-3.2-1B-IQ2_XXS.gguf", Some("IQ2_XXS")),
            ("ggml-model-f16.gguf", Some("F16")),
            ("gpt-oss-20b-MXFP4.gguf", Some("MXFP4")),
            ("model_q8_0.gguf", Some("Q8_0")),
            ("BF16/model.gguf", Some("BF16")),
            ("bitnet-TQ1_0.gguf", Some("TQ1_0")),
            ("Qwen2-Q8_0-imat.gguf", Some("Q8_0")),
            ("model.gguf", None),
            ("Qwen3-8B.gguf", None),
            ("q.gguf", None),
        ] {
            assert_eq!(quant(path).as_deref(), wanted, "{path}");
        }
    }

    fn files(names: &[&str]) -> Vec<RepoFile> {
        names.iter().enumerate().map(|(i, n)| RepoFile { path: (*n).to_owned(), size: 1000 + i as u64 }).collect()
    }

    fn chosen(name: &str, names: &[&str]) -> Result<Vec<String>, String> {
        let files = files(names);
        let found = repo_models(&files);
        let choice = choose(&name.parse().unwrap(), &files, &found).map_err(|e| e.to_string())?;
        Ok(choice.files.iter().map(|f| f.path.clone()).collect())
    }

    const MANY: [&str; 8] = [
        "README.md",
        "m-Q4_K_M.gguf",
        "m-UD-Q3_K_XL.gguf",
        "m-BF16.gguf",
        "mmproj-F16.gguf",
        "Q8_0/m-Q8_0-00002-of-00002.gguf",
        "Q8_0/m-Q8_0-00001-of-00002.gguf",
        "m-F16-00002-of-00003.gguf",
    ];

    #[test]
    fn a_name_means_one_model_or_says_what_there_is() {
        assert_eq!(chosen("hf:a/b:q4_k_m", &MANY).unwrap(), ["m-Q4_K_M.gguf"]);
        assert_eq!(chosen("hf:a/b:m-BF16.gguf", &MANY).unwrap(), ["m-BF16.gguf"]);
        let parts = ["Q8_0/m-Q8_0-00001-of-00002.gguf", "Q8_0/m-Q8_0-00002-of-00002.gguf"];
        for name in ["hf:a/b:Q8_0", "hf:a/b:m-Q8_0-00002-of-00002.gguf", "hf:a/b:Q8_0/m-Q8_0-00001-of-00002.gguf"] {
            assert_eq!(chosen(name, &MANY).unwrap(), parts, "{name}");
        }
        assert_eq!(chosen("hf:a/b", &["x/only.gguf", "config.json"]).unwrap(), ["x/only.gguf"]);
        let several = chosen("hf:a/b@v1", &MANY).unwrap_err();
        assert!(several.contains("hf:a/b:Q4_K_M@v1") && several.contains("UD-Q3_K_XL"), "{several}");
        // Never another model than the one that was named.
        let unknown = chosen("hf:a/b:UD-Q3_K_X", &MANY).unwrap_err();
        assert!(unknown.contains("UD-Q3_K_XL"), "{unknown}");
        assert!(chosen("hf:a/b:F16", &MANY).unwrap_err().contains("1 of its 3 parts"));
        let none = chosen("hf:a/b", &["model.safetensors", "b.json", "a.json"]).unwrap_err();
        assert!(none.contains("2 .json, 1 .safetensors"), "{none}");
        let twins = chosen("hf:a/b:Q4_0", &["a-Q4_0.gguf", "b-Q4_0.gguf"]).unwrap_err();
        assert!(twins.contains("hf:a/b:a-Q4_0.gguf"), "{twins}");
    }

    #[test]
    fn the_nearest_word_is_what_was_meant() {
        for (wanted, words, nearest_word) in [
            ("n_predict", &["pre", "n-predict", "precision"][..], "n-predict"),
            ("genrate", &["generate", "trace", "bench"], "generate"),
            ("alias", &["bench", "aliases", "validate"], "aliases"),
            ("Q4_K", &["Q4_0", "Q4_K_M", "Q8_0"], "Q4_K_M"),
            ("q4km", &["Q8_0", "Q4_0", "Q4_K_M"], "Q4_K_M"),
        ] {
            assert_eq!(nearest(wanted, words)[0], nearest_word, "{wanted}");
        }
    }
}
