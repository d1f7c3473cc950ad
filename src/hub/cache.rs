//! The cache of the hub's Python library: `models--OWNER--REPO/{blobs,refs,snapshots}`, and `.locks`.
//!
//! A blob is a file under its hash. A snapshot is the tree of a commit, whose files are symbolic links to blobs; where there are
//! none (Windows without developer mode) they are the files themselves. A ref is a revision's commit.

use std::collections::BTreeSet;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::select::{RepoFile, RepoModel, ambiguous, choose, matching, repo_models};
use super::{Event, HubError, Local, MAIN, ModelName, Observer};

/// Tells programs that back up files that this folder can be made again: <https://bford.info/cachedir/>.
const TAG: &str =
    "Signature: 8a477f597d28d172789f06886806bc55\n# Models of Hugging Face's hub. They can be fetched again.\n";

/// How often a wait for another process looks again.
const POLL: Duration = Duration::from_millis(100);

/// What the files of this program that are not whole end with.
pub(super) const UNFINISHED: &str = "incomplete";

/// The hash that a file must have, and by which its blob is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Digest {
    hex: String,
    size: u64,
}

impl Digest {
    /// From the tag of a file: its SHA-256, or of a small file the SHA-1 that git gives it.
    pub fn new(tag: &str, size: u64) -> Option<Self> {
        let hex = tag.trim_start_matches("W/").trim_matches('"');
        let is_hash = [40, 64].contains(&hex.len()) && is_hex(hex);
        is_hash.then(|| Self { hex: hex.to_owned(), size })
    }

    pub fn name(&self) -> &str {
        &self.hex
    }

    /// What computes it.
    pub fn hasher(&self) -> Hasher {
        if self.hex.len() == 64 {
            return Hasher::Sha256(Sha256::new());
        }
        Hasher::Git(Sha1::new_with_prefix(format!("blob {}\0", self.size)))
    }
}

/// A hash that is being computed.
#[derive(Clone)]
pub(super) enum Hasher {
    Sha256(Sha256),
    /// The name that git gives a file, begun with what stands before its bytes.
    Git(Sha1),
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
        }
    }

    /// The hash so far.
    pub fn hex(&self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect();
        match self.clone() {
            Self::Sha256(hash) => hex(&hash.finalize()),
            Self::Git(hash) => hex(&hash.finalize()),
        }
    }
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Whether this is the full name of a commit.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && is_hex(text)
}

/// The error of a file of the cache.
pub(super) fn failed(path: &Path, error: &io::Error) -> HubError {
    HubError::Cache { path: path.display().to_string(), reason: error.to_string() }
}

/// A model in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cached {
    /// What it is called, and where it is.
    pub model: Local,
    /// Its quantisation, as its file says it.
    pub quant: Option<String>,
    /// The branches and tags that are known to be at its commit.
    pub revisions: Vec<String>,
    /// Whether all its parts are there.
    pub whole: bool,
}

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names of models.
    pub models: Vec<ModelName>,
    /// Bytes that are free now.
    pub bytes: u64,
}

/// The cache.
#[derive(Clone, Debug)]
pub struct Cache {
    root: PathBuf,
    symlinks: bool,
}

impl Cache {
    /// The cache in this folder, which need not exist.
    pub fn new(root: PathBuf, symlinks: bool) -> Self {
        Self { root, symlinks }
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.root
    }

    fn repo(&self, repo: &str) -> PathBuf {
        self.root.join(format!("models--{}", repo.replace('/', "--")))
    }

    pub(super) fn blob(&self, repo: &str, hash: &str) -> PathBuf {
        self.repo(repo).join("blobs").join(hash)
    }

    pub(super) fn pointer(&self, repo: &str, commit: &str, file: &str) -> PathBuf {
        let snapshot = self.repo(repo).join("snapshots").join(commit);
        file.split('/').fold(snapshot, |path, part| path.join(part))
    }

    /// The commit of a revision, where it is known.
    fn commit(&self, repo: &str, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = std::fs::read_to_string(self.repo(repo).join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| is_commit(commit))
    }

    /// Notes the commit of a revision.
    pub(super) fn set_revision(&self, repo: &str, revision: &str, commit: &str) -> Result<(), HubError> {
        if is_commit(revision) || self.commit(repo, revision).as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.repo(repo).join("refs").join(revision);
        let folder = path.parent().unwrap_or(&path);
        let write = || {
            std::fs::create_dir_all(folder)?;
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            io::Write::write_all(&mut file, commit.as_bytes())?;
            file.persist(&path).map_err(|e| e.error)
        };
        write().map(drop).map_err(|e| failed(&path, &e))
    }

    /// Waits until no other process fetches the same blob, also none of the Python library.
    pub(super) fn lock(
        &self,
        repo: &str,
        hash: &str,
        file: &str,
        observer: &mut dyn Observer,
    ) -> Result<File, HubError> {
        let lock = self.open_lock(repo, hash).map_err(|e| failed(&self.root, &e))?;
        let mut said = false;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(lock),
                Err(TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut said, true) {
                        observer.event(Event::Waits { file });
                    }
                    if observer.stop() {
                        return Err(HubError::Interrupted);
                    }
                    std::thread::sleep(POLL);
                }
                Err(TryLockError::Error(e)) => return Err(failed(&self.root, &e)),
            }
        }
    }

    fn open_lock(&self, repo: &str, hash: &str) -> io::Result<File> {
        let folder = self.root.join(".locks").join(format!("models--{}", repo.replace('/', "--")));
        std::fs::create_dir_all(&folder)?;
        let tag = self.root.join("CACHEDIR.TAG");
        if !tag.exists() {
            std::fs::write(tag, TAG)?;
        }
        File::options().create(true).append(true).open(folder.join(format!("{hash}.lock")))
    }

    /// Lets the file of a snapshot be a blob; a `new` one may be moved there.
    pub(super) fn link(&self, blob: &Path, pointer: &Path, new: bool) -> Result<(), HubError> {
        let make = || {
            let folder = pointer.parent().unwrap_or(pointer);
            std::fs::create_dir_all(folder)?;
            if pointer.symlink_metadata().is_ok() {
                std::fs::remove_file(pointer)?;
            }
            if self.symlinks && symlink(&relative(blob, folder), pointer).is_ok() {
                return Ok(());
            }
            if new { std::fs::rename(blob, pointer) } else { std::fs::copy(blob, pointer).map(drop) }
        };
        make().map_err(|e| failed(pointer, &e))
    }

    /// The model of this name, where it is in the cache.
    ///
    /// # Errors
    /// [`HubError::Several`]: the name may mean several that are there.
    pub fn find(&self, name: &ModelName) -> Result<Option<Local>, HubError> {
        let Some(commit) = self.commit(&name.repo, &name.revision) else { return Ok(None) };
        let files = self.snapshot(&name.repo, &commit);
        let all = repo_models(&files);
        match choose(name, &files, &all) {
            Ok(choice) => Ok(Some(self.local(name, &commit, choice.word(&all), &choice.files))),
            Err(several @ HubError::Several { .. }) => Err(several),
            Err(_) => Ok(None),
        }
    }

    fn local(&self, name: &ModelName, commit: &str, word: &str, files: &[RepoFile]) -> Local {
        Local {
            name: name.with(word),
            commit: commit.to_owned(),
            files: files.iter().map(|f| self.pointer(&name.repo, commit, &f.path)).collect(),
            bytes: files.iter().map(|f| f.size).sum(),
        }
    }

    /// The files of a snapshot that are there.
    fn snapshot(&self, repo: &str, commit: &str) -> Vec<RepoFile> {
        let root = self.repo(repo).join("snapshots").join(commit);
        let mut files = Vec::new();
        walk(&root, &mut |path| {
            let parts: Option<Vec<_>> =
                path.strip_prefix(&root).ok().map(|p| p.iter().map(|part| part.to_string_lossy()).collect());
            if let (Some(parts), Ok(meta)) = (parts, path.metadata()) {
                files.push(RepoFile { path: parts.join("/"), size: meta.len() });
            }
        });
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files
    }

    /// All models that are there, by name.
    pub fn models(&self) -> Vec<Cached> {
        let mut list = Vec::new();
        for folder in names(&self.root) {
            let Some(repo) = folder.strip_prefix("models--").map(|rest| rest.replacen("--", "/", 1)) else { continue };
            let root = self.repo(&repo);
            let mut refs = Vec::new();
            walk(&root.join("refs"), &mut |path| {
                if let (Ok(name), Ok(commit)) = (path.strip_prefix(root.join("refs")), std::fs::read_to_string(path)) {
                    refs.push((name.to_string_lossy().replace('\\', "/"), commit.trim().to_owned()));
                }
            });
            refs.sort();
            for commit in names(&root.join("snapshots")).into_iter().filter(|commit| is_commit(commit)) {
                let revisions: Vec<_> =
                    refs.iter().filter(|(_, c)| *c == commit).map(|(name, _)| name.clone()).collect();
                let main = revisions.iter().any(|name| name == MAIN);
                let revision = if main { MAIN } else { revisions.first().unwrap_or(&commit) }.to_owned();
                let name = ModelName { repo: repo.clone(), wanted: None, revision };
                let all = repo_models(&self.snapshot(&repo, &commit));
                list.extend(all.iter().map(|choice| Cached {
                    model: self.local(&name, &commit, choice.word(&all), &choice.files),
                    quant: choice.quant.clone(),
                    revisions: revisions.clone(),
                    whole: choice.is_whole(),
                }));
            }
        }
        list
    }

    /// Repositories with files that are not whole, and the bytes that are there of them.
    pub fn unfinished(&self) -> Vec<(String, u64)> {
        let repos =
            names(&self.root).into_iter().filter_map(|f| Some(f.strip_prefix("models--")?.replacen("--", "/", 1)));
        let bytes = |repo: &str| self.parts(repo).iter().filter_map(|p| p.metadata().ok()).map(|m| m.len()).sum();
        repos
            .map(|repo| (bytes(&repo), repo))
            .filter(|(bytes, _)| *bytes > 0)
            .map(|(bytes, repo)| (repo, bytes))
            .collect()
    }

    /// The files of a repository that are not whole.
    fn parts(&self, repo: &str) -> Vec<PathBuf> {
        let blobs = self.repo(repo).join("blobs");
        let unfinished = |name: &String| name.ends_with(UNFINISHED);
        names(&blobs).into_iter().filter(unfinished).map(|name| blobs.join(name)).collect()
    }

    /// Removes a model and what nothing else needs; without a quantisation or file also what is not whole of its repository.
    ///
    /// # Errors
    /// There is none of that name, or several.
    pub fn remove(&self, name: &ModelName) -> Result<Removed, HubError> {
        let mut models = self.models();
        models.retain(|m| m.model.name.repo == name.repo);
        if name.revision != MAIN {
            models.retain(|m| m.model.commit == name.revision || m.revisions.contains(&name.revision));
        }
        let commits: BTreeSet<_> = models.iter().map(|m| m.model.commit.clone()).collect();
        let mut files: Vec<_> = commits.iter().flat_map(|commit| self.snapshot(&name.repo, commit)).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        let all = repo_models(&files);
        let chosen = name.wanted.as_deref().map_or_else(|| all.iter().collect(), |wanted| matching(wanted, &all));
        let mut removed = Removed::default();
        if name.wanted.is_none() && chosen.len() <= 1 {
            self.remove_unfinished(name, &mut removed)?;
        }
        match chosen[..] {
            [] if removed.bytes > 0 => {}
            [] => return Err(HubError::NotCached(name.clone())),
            [choice] => self.remove_choice(name, &commits, choice, &mut removed)?,
            _ => return Err(ambiguous(name, &chosen, &all)),
        }
        self.remove_empty(&name.repo);
        let gone = |m: &&Cached| m.model.files.iter().all(|file| !file.exists());
        removed.models = models.iter().filter(gone).map(|m| m.model.name.clone()).collect();
        Ok(removed)
    }

    /// Removes the files of a model from all these snapshots, and their blobs.
    fn remove_choice(
        &self,
        name: &ModelName,
        commits: &BTreeSet<String>,
        choice: &RepoModel,
        removed: &mut Removed,
    ) -> Result<(), HubError> {
        let mut blobs = BTreeSet::new();
        for pointer in commits.iter().flat_map(|c| choice.files.iter().map(|f| self.pointer(&name.repo, c, &f.path))) {
            let Ok(meta) = pointer.symlink_metadata() else { continue };
            match std::fs::read_link(&pointer) {
                Ok(to) => blobs.extend(to.file_name().map(|hash| hash.to_string_lossy().into_owned())),
                Err(_) => removed.bytes += meta.len(),
            }
            std::fs::remove_file(&pointer).map_err(|e| failed(&pointer, &e))?;
        }
        // What snapshots that stay point to stays.
        let mut used = BTreeSet::new();
        walk(&self.repo(&name.repo).join("snapshots"), &mut |path| {
            if let Ok(to) = std::fs::read_link(path) {
                used.extend(to.file_name().map(|hash| hash.to_string_lossy().into_owned()));
            }
        });
        for hash in blobs.difference(&used) {
            self.remove_blob(name, hash, &self.blob(&name.repo, hash), removed)?;
        }
        Ok(())
    }

    fn remove_unfinished(&self, name: &ModelName, removed: &mut Removed) -> Result<(), HubError> {
        for path in self.parts(&name.repo) {
            let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            self.remove_blob(name, file.split('.').next().unwrap_or_default(), &path, removed)?;
            let _ = std::fs::remove_file(journal(&path));
        }
        Ok(())
    }

    /// Removes a file of `blobs`, unless another process works on it.
    fn remove_blob(&self, name: &ModelName, hash: &str, path: &Path, removed: &mut Removed) -> Result<(), HubError> {
        let lock = self.open_lock(&name.repo, hash).map_err(|e| failed(&self.root, &e))?;
        if matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(HubError::InUse(name.clone()));
        }
        let bytes = path.metadata().map_or(0, |m| m.len());
        std::fs::remove_file(path).map_err(|e| failed(path, &e))?;
        removed.bytes += bytes;
        Ok(())
    }

    /// Removes folders without files, and the revisions of a repository of which nothing is left.
    fn remove_empty(&self, repo: &str) {
        let root = self.repo(repo);
        remove_empty_folders(&root.join("snapshots"));
        remove_empty_folders(&root.join("blobs"));
        if !root.join("snapshots").exists() && !root.join("blobs").exists() {
            let _ = std::fs::remove_dir_all(&root);
            let _ = std::fs::remove_dir_all(self.root.join(".locks").join(root.file_name().unwrap_or_default()));
        }
    }
}

/// The journal of a file that is not whole.
pub(super) fn journal(part: &Path) -> PathBuf {
    part.with_added_extension("journal")
}

fn remove_empty_folders(folder: &Path) {
    for name in names(folder) {
        let path = folder.join(name);
        if path.symlink_metadata().is_ok_and(|m| m.is_dir()) {
            remove_empty_folders(&path);
        }
    }
    // It fails where something is left.
    let _ = std::fs::remove_dir(folder);
}

/// The names in a folder, in order; none where there is no such folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Calls `file` with everything below a folder that is no folder.
fn walk(folder: &Path, file: &mut dyn FnMut(&Path)) {
    for name in names(folder) {
        let path = folder.join(name);
        if path.symlink_metadata().is_ok_and(|m| m.is_dir()) { walk(&path, file) } else { file(&path) }
    }
}

/// The way from a folder to a file; both are below the same folder.
fn relative(file: &Path, folder: &Path) -> PathBuf {
    let common = file.iter().zip(folder.iter()).take_while(|(a, b)| a == b).count();
    let up = folder.iter().skip(common).map(|_| "..");
    up.map(std::ffi::OsStr::new).chain(file.iter().skip(common)).collect()
}

#[cfg(unix)]
fn symlink(to: &Path, at: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(to, at)
}

#[cfg(windows)]
fn symlink(to: &Path, at: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(to, at)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_: &Path, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
