//! Models by name: `hf:OWNER/REPO[:QUANT|FILE][@REVISION]`, from Hugging Face's hub, in the cache that its Python library uses.
//!
//! A file gets its name when it is whole and has the hash that the hub names. Until then its bytes are kept beside a journal
//! of hashes, so that a later attempt goes on behind the last byte that is known to be good (`download.rs`). Two processes that
//! want the same file take turns (`cache.rs`). The token goes to the hub's own host and to no other, and is never printed (`http.rs`).

mod cache;
mod download;
mod http;
mod name;
mod select;

pub use cache::{Cache, Cached, Removed};
pub use name::{MAIN, ModelName, SCHEME};
pub use select::{RepoFile, RepoModel, nearest, repo_models};

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use thiserror::Error;

use cache::{Digest, is_commit};
use http::{Client, Proxies, Request};

/// The hub itself.
const HUB: &str = "https://huggingface.co";

/// What may stand in one part of a path as it is.
const PART: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Why a model is not there. Each says what to do.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum HubError {
    #[error("'{name}' names no model: {why}; write hf:OWNER/REPO[:QUANT|FILE][@REVISION]")]
    Name { name: String, why: &'static str },
    #[error("there are several models; choose one, as in {suggestion}:{}", listed(.list))]
    Several {
        suggestion: ModelName,
        /// What chooses each, its bytes, and its parts.
        list: Vec<(String, u64, usize)>,
    },
    #[error("{} has no '{}'; nearest: {}", .name.repository(), .name.wanted.as_deref().unwrap_or_default(), .nearest.join(", "))]
    NoSuch { name: ModelName, nearest: Vec<String> },
    #[error(
        "{name} holds no GGUF model, but {found}; look for a repository with GGUF in its name, or convert the model with llama.cpp"
    )]
    NoGguf { name: ModelName, found: String },
    #[error("of {name} only {found} of its {parts} parts are there; tell its owner, or choose another file")]
    Parts { name: ModelName, found: usize, parts: usize },
    #[error(
        "{name} is not on the hub, or is private: check its name; for a private model set HF_TOKEN to a token that may read it"
    )]
    NotFound { name: ModelName },
    #[error("{} has no revision '{}'; its page {page} lists them", .name.repo, .name.revision)]
    NoRevision { name: ModelName, page: String },
    #[error("{name} is gated: accept the licence at {page}, then set HF_TOKEN to a token of the account that did")]
    Gated { name: ModelName, page: String },
    #[error("the hub does not take the token (HF_TOKEN, or the file of `hf auth login`); make another at {0}")]
    Token(String),
    #[error("{0} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it; unset that")]
    Offline(ModelName),
    #[error("{url} answers {status}{message}; try again later, or look at the page with a browser")]
    Status { url: String, status: u16, message: String, code: String },
    #[error("{url} asks to wait {seconds} s; try again then, or set HF_TOKEN, as accounts may ask more often")]
    Busy { url: String, seconds: u64 },
    #[error("cannot reach {host}: {reason}; check the connection and HTTPS_PROXY")]
    Unreachable { host: String, reason: String },
    #[error("{file} stopped at {have} of {size} bytes: {reason}; what is there is kept, and the same command goes on")]
    Cut { file: String, have: u64, size: u64, reason: String },
    #[error(
        "{0} is a web page, not the file: a proxy or a login page stands between; open it in a browser, or check HTTPS_PROXY"
    )]
    WebPage(String),
    #[error("{url} does not answer as the hub does ({what}); check HF_ENDPOINT and HTTPS_PROXY")]
    NoHub { url: String, what: String },
    #[error("{from} redirects to {to}, which is not encrypted; check HF_ENDPOINT and HTTPS_PROXY")]
    Unsafe { from: String, to: String },
    #[error("{0} is no address of a proxy; write http://HOST:PORT")]
    Proxy(&'static str),
    #[error("HF_ENDPOINT is no address; write https://HOST[/PATH], or unset it")]
    Endpoint,
    #[error(
        "{file} has {size} bytes at the hub, but {sent} are sent; a proxy or mirror changes it, check HF_ENDPOINT and HTTPS_PROXY"
    )]
    Size { file: String, size: u64, sent: u64 },
    #[error(
        "{file} has another hash than the hub says ({found} instead of {wanted}) and is removed; pull it again, and check HF_ENDPOINT and HTTPS_PROXY if that does not help"
    )]
    Hash { file: String, wanted: String, found: String },
    #[error(
        "{file} needs {needed} more bytes, and {folder} has room for {free}; make room, or set HF_HOME to a folder on another disk"
    )]
    Space { file: String, needed: u64, free: u64, folder: String },
    #[error("cannot use the cache at {path}: {reason}; check its permissions, or set HF_HOME to another folder")]
    Cache { path: String, reason: String },
    #[error("there is no folder for the cache; set HF_HOME to one")]
    NoFolder,
    #[error("{0} is not in the cache")]
    NotCached(ModelName),
    #[error("{0} is being pulled by another process; wait for it, or stop it")]
    InUse(ModelName),
    #[error("interrupted")]
    Interrupted,
}

/// Models as lines: what chooses each, and its size.
fn listed(list: &[(String, u64, usize)]) -> String {
    let line = |(word, bytes, parts): &(String, u64, usize)| {
        let parts = if *parts > 1 { format!(", {parts} parts") } else { String::new() };
        format!("\n  {:>9}  {word}{parts}", size(*bytes))
    };
    list.iter().map(line).collect()
}

/// Bytes for people, in powers of 1000 as the hub shows them: `98.2 MB`.
pub fn size(bytes: u64) -> String {
    match bytes as f64 {
        b if b < 1e6 => format!("{:.1} kB", b / 1e3),
        b if b < 1e9 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.2} GB", b / 1e9),
    }
}

/// What happens while a model is fetched.
#[derive(Debug)]
#[allow(missing_docs)]
pub enum Event<'a> {
    /// Another process fetches the same file.
    Waits { file: &'a str },
    /// A file begins; `have` of its `size` bytes are there from an earlier attempt.
    Begins { file: &'a str, size: u64, have: u64 },
    /// So many bytes more are there.
    Bytes(u64),
    /// Bytes of an earlier attempt that are not what was received; the file goes on from `good`.
    Damaged { file: &'a str, good: u64, had: u64 },
    /// The server cannot go on where an earlier attempt stopped: the file begins anew.
    Anew { file: &'a str },
    /// A request is made again after `wait`.
    Retry { reason: &'a str, wait: Duration },
    /// A file is whole, and has its name.
    Done { file: &'a str },
}

/// Hears what happens, and says whether to stop.
pub trait Observer {
    /// Something happened.
    fn event(&mut self, event: Event<'_>);
    /// Whether to stop: asked at least ten times a second.
    fn stop(&self) -> bool {
        false
    }
}

/// A text that is never printed.
#[derive(Clone)]
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// How the hub is reached, and where its files go.
#[derive(Clone, Debug)]
pub struct Options {
    endpoint: String,
    token: Option<Secret>,
    proxies: Proxies,
    /// Use the cache alone.
    pub offline: bool,
    /// The folder of the cache.
    pub cache: PathBuf,
    /// Whether snapshots point to blobs; else they hold the files.
    pub symlinks: bool,
    /// How long a server may say nothing before the connection counts as cut.
    pub stall: Duration,
    /// How long to wait after the first attempt that failed; the double after each more.
    pub pause: Duration,
    /// Attempts of a request, and of a file between two bytes that arrive.
    pub attempts: u32,
}

impl Options {
    /// What the environment says, in the variables of the hub's Python library: `HF_HOME`, `HF_HUB_CACHE`, `HF_ENDPOINT`,
    /// `HF_TOKEN`, `HF_TOKEN_PATH`, `HF_HUB_OFFLINE`, `HF_HUB_DOWNLOAD_TIMEOUT`, `HF_HUB_DISABLE_SYMLINKS`,
    /// `HF_HUB_DISABLE_IMPLICIT_TOKEN`; and those of curl for proxies.
    ///
    /// # Errors
    /// [`HubError::Endpoint`], [`HubError::NoFolder`].
    pub fn from_environment() -> Result<Self, HubError> {
        Self::new(&|name| std::env::var(name).ok().filter(|value| !value.trim().is_empty()), dirs::home_dir())
    }

    /// What these variables say; `user` is the home folder.
    ///
    /// # Errors
    /// As [`Options::from_environment`].
    pub fn new(variable: &dyn Fn(&str) -> Option<String>, user: Option<PathBuf>) -> Result<Self, HubError> {
        let is_true =
            |name| variable(name).is_some_and(|v| ["1", "ON", "YES", "TRUE"].contains(&v.to_uppercase().as_str()));
        let path = |text: String| match (text.strip_prefix("~/"), &user) {
            (Some(rest), Some(user)) => user.join(rest),
            _ => PathBuf::from(text),
        };
        let caches = || {
            Some(
                variable("XDG_CACHE_HOME")
                    .map_or_else(|| user.as_ref().map(|u| u.join(".cache")), |p| Some(path(p)))?
                    .join("huggingface"),
            )
        };
        let home = variable("HF_HOME").map(path).or_else(caches);
        let named = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE")).map(path);
        let cache = named.or_else(|| Some(home.as_ref()?.join("hub"))).ok_or(HubError::NoFolder)?;
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| HUB.to_owned()).trim_end_matches('/').to_owned();
        let is_address =
            ["http://", "https://"].iter().any(|s| endpoint.strip_prefix(s).is_some_and(|rest| !rest.is_empty()));
        if !is_address {
            return Err(HubError::Endpoint);
        }
        let file = variable("HF_TOKEN_PATH").map(path).or_else(|| Some(home?.join("token")));
        let kept = || file.and_then(|file| std::fs::read_to_string(file).ok());
        let token =
            variable("HF_TOKEN").or_else(|| if is_true("HF_HUB_DISABLE_IMPLICIT_TOKEN") { None } else { kept() });
        let token = token.map(|t| t.trim().to_owned()).filter(|t| !t.is_empty() && !t.contains(char::is_control));
        Ok(Self {
            endpoint,
            token: token.map(Secret),
            proxies: Proxies::new(variable),
            offline: is_true("HF_HUB_OFFLINE"),
            cache,
            symlinks: !is_true("HF_HUB_DISABLE_SYMLINKS"),
            stall: variable("HF_HUB_DOWNLOAD_TIMEOUT")
                .and_then(|t| t.parse().ok())
                .map_or(Duration::from_secs(30), Duration::from_secs),
            pause: Duration::from_secs(1),
            attempts: 5,
        })
    }
}

/// A model that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Local {
    /// Its name, with what chooses it in its repository.
    pub name: ModelName,
    /// The commit of its repository.
    pub commit: String,
    /// Its files; the first is the one to open.
    pub files: Vec<PathBuf>,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// A hub and its cache.
#[derive(Debug)]
pub struct Hub {
    options: Options,
    cache: Cache,
}

impl Hub {
    /// Reaches it with these options.
    pub fn new(options: Options) -> Self {
        let cache = Cache::new(options.cache.clone(), options.symlinks);
        Self { options, cache }
    }

    /// The cache.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The model of this name: from the cache if it is there, without any connection, else from the hub.
    ///
    /// # Errors
    /// See [`HubError`].
    pub fn find(&self, name: &ModelName, observer: &mut dyn Observer) -> Result<Local, HubError> {
        match self.cache.find(name)? {
            Some(local) => Ok(local),
            None => self.pull(name, observer),
        }
    }

    /// The newest model of this name, of which only what is missing is fetched.
    ///
    /// # Errors
    /// See [`HubError`].
    pub fn pull(&self, name: &ModelName, observer: &mut dyn Observer) -> Result<Local, HubError> {
        if self.options.offline {
            return self.cache.find(name)?.ok_or_else(|| HubError::Offline(name.clone()));
        }
        self.fetch(name, observer).map_err(|error| self.explained(error, name))
    }

    fn fetch(&self, name: &ModelName, observer: &mut dyn Observer) -> Result<Local, HubError> {
        let client = Client::new(&self.options);
        let revision = utf8_percent_encode(&name.revision, PART);
        let url = format!("{}/revision/{revision}?blobs=true", client.address(&format!("api/models/{}", name.repo)));
        let (commit, files) = described(&client.json(&url, observer)?)
            .map_err(|what| HubError::NoHub { url: http::shown(&url), what: what.to_owned() })?;
        let all = repo_models(&files);
        let choice = select::choose(name, &files, &all)?;
        let mut local = Local {
            name: name.with(choice.word(&all)),
            commit: commit.clone(),
            files: Vec::new(),
            bytes: choice.size(),
        };
        for file in &choice.files {
            local.files.push(self.file(&client, name, &commit, file, observer)?);
        }
        self.cache.set_revision(&name.repo, &name.revision, &commit)?;
        Ok(local)
    }

    /// One file of a commit.
    fn file(
        &self,
        client: &Client<'_>,
        name: &ModelName,
        commit: &str,
        file: &RepoFile,
        observer: &mut dyn Observer,
    ) -> Result<PathBuf, HubError> {
        let pointer = self.cache.pointer(&name.repo, commit, &file.path);
        if pointer.is_file() {
            return Ok(pointer);
        }
        let url = client.address(&format!("{}/resolve/{commit}/{}", name.repo, file.path));
        let head = client.request(&url, &Request { head: true, within: true, range: None }, observer)?.no_page()?;
        let wrong = |what: &str| HubError::NoHub { url: http::shown(&url), what: what.to_owned() };
        if head.header("x-repo-commit") != Some(commit) {
            return Err(wrong("no header X-Repo-Commit with the commit"));
        }
        let size = head.header("x-linked-size").and_then(|text| text.parse().ok());
        let size = size.or_else(|| head.length().filter(|_| !head.status.is_redirection()));
        let size = size.ok_or_else(|| wrong("neither X-Linked-Size nor Content-Length"))?;
        let tag = head.header("x-linked-etag").or_else(|| head.header("etag")).unwrap_or_default();
        let digest = Digest::new(tag, size).ok_or_else(|| wrong("no hash in X-Linked-Etag or ETag"))?;
        let _lock = self.cache.lock(&name.repo, digest.name(), &file.path, observer)?;
        let blob = self.cache.blob(&name.repo, digest.name());
        let new = !blob.is_file();
        if new {
            download::fetch(
                client,
                &download::Wanted { url: &url, file: &file.path, size, digest: &digest, blob: &blob },
                observer,
            )?;
        }
        self.cache.link(&blob, &pointer, new)?;
        observer.event(Event::Done { file: &file.path });
        Ok(pointer)
    }

    /// What a status means for this name.
    fn explained(&self, error: HubError, name: &ModelName) -> HubError {
        let HubError::Status { status, code, .. } = &error else { return error };
        let page = format!("{}/{}", http::shown(&self.options.endpoint), name.repo);
        let name = name.clone();
        match (*status, code.as_str()) {
            (401 | 403, "GatedRepo") => HubError::Gated { name, page },
            (404, "RevisionNotFound") => HubError::NoRevision { name, page },
            (401, _) if self.options.token.is_some() => {
                HubError::Token(format!("{}/settings/tokens", http::shown(&self.options.endpoint)))
            }
            (403, _) => HubError::Gated { name, page },
            (401 | 404, _) => HubError::NotFound { name },
            _ => error,
        }
    }
}

/// The commit and the files of a repository, as the hub describes them.
fn described(value: &Value) -> Result<(String, Vec<RepoFile>), &'static str> {
    let commit = value["sha"].as_str().filter(|sha| is_commit(sha)).ok_or("no commit in 'sha'")?;
    let list = value["siblings"].as_array().ok_or("no list of files in 'siblings'")?;
    let mut files = Vec::new();
    for file in list {
        let path = file["rfilename"].as_str().ok_or("a file without a name")?;
        if !name::is_inside(path) {
            return Err("a file outside of its folder");
        }
        let size = file["lfs"]["size"].as_u64().or_else(|| file["size"].as_u64()).unwrap_or(0);
        files.push(RepoFile { path: path.to_owned(), size });
    }
    Ok((commit.to_owned(), files))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::HashMap;

    use super::*;

    fn options(set: &[(&str, &str)]) -> Result<Options, HubError> {
        let set: HashMap<_, _> = set.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Options::new(&|name| set.get(name).cloned(), Some(PathBuf::from("/home/me")))
    }

    #[test]
    fn folders_are_those_of_the_python_library() {
        for (set, cache) in [
            (&[][..], "/home/me/.cache/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (&[("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/hf")], "/home/me/hf/hub"),
            (&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")], "/c"),
            (&[("HUGGINGFACE_HUB_CACHE", "/old")], "/old"),
        ] {
            assert_eq!(options(set).unwrap().cache, PathBuf::from(cache), "{set:?}");
        }
        assert!(matches!(Options::new(&|_| None, None), Err(HubError::NoFolder)));
        for wrong in ["huggingface.co", "ftp://x", "https://"] {
            assert!(matches!(options(&[("HF_ENDPOINT", wrong)]), Err(HubError::Endpoint)), "{wrong}");
        }
    }

    #[test]
    fn a_token_is_never_printed() {
        let options = options(&[("HF_TOKEN", " hf_secret\n"), ("HF_HUB_OFFLINE", "yes")]).unwrap();
        assert_eq!(options.token.as_ref().unwrap().0, "hf_secret");
        assert!(options.offline && !format!("{options:?}").contains("secret"));
    }
}
