//! Files that this program writes, all of them in one way.
//!
//! A file appears whole or not at all: it is written under a temporary name in the folder of its target, brought to the disk,
//! and renamed. A file that exists is replaced only where the caller says so, and keeps its permissions; a new one gets those
//! that the umask allows. A symbolic link is followed: what it points to is replaced. Devices and FIFOs are written into, and
//! stay. `-` and the names of standard output mean standard output.
//!
//! Temporary files go when they are dropped. A process that ends without that calls [`discard_unfinished`] first.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tempfile::TempPath;
use thiserror::Error;

/// Why a file is not written. What stood there is as it was.
#[derive(Debug, Error)]
#[allow(missing_docs)]
pub enum OutputError {
    #[error("cannot write {path}: {reason}")]
    Write { path: String, reason: String },
    /// As in `… | head`: nobody wants the rest, which is no fault.
    #[error("the reader of standard output has gone")]
    Gone,
    #[error("{0} exists")]
    Exists(String),
    #[error("{path} is {what}; give the name of a file")]
    NoFile { path: String, what: &'static str },
    #[error("{0} is a file that this command reads; choose another name for the output")]
    Input(String),
    #[error("{0} is named for two outputs; give each its own file")]
    Twice(String),
    #[error("standard output is a terminal, and this is no text; give the name of a file or redirect it: > FILE")]
    Terminal,
}

/// The most symbolic links that are followed, as on Linux.
const MOST_LINKS: usize = 40;

/// Where an output goes. Everything that can be known before the work begins has been checked.
#[derive(Clone, Debug)]
pub struct Target {
    /// As the user wrote it.
    name: String,
    place: Place,
    replace: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    /// A file that is renamed into place; no link.
    File(PathBuf),
    /// A FIFO or a character device.
    Stream(PathBuf),
    Stdout,
    Stderr,
}

/// The temporary files of this process that have not been renamed yet.
static UNFINISHED: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

fn unfinished() -> MutexGuard<'static, Vec<PathBuf>> {
    UNFINISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes all temporary files of this process; from then on it can neither begin one nor rename it. For a process that ends
/// at once, from any thread.
#[cfg(feature = "cli")]
pub fn discard_unfinished() {
    let list = unfinished();
    for path in list.iter() {
        let _ = std::fs::remove_file(path);
    }
    // Nobody else gets the list any more.
    std::mem::forget(list);
}

impl Target {
    /// Checks `path` as the place of an output. `replace` allows that a file there is replaced; `inputs` are files that the
    /// command reads, and never writes.
    ///
    /// # Errors
    /// [`OutputError::Exists`], [`OutputError::Input`], [`OutputError::NoFile`]; [`OutputError::Write`] where there is no
    /// such folder.
    pub fn new(path: &Path, replace: bool, inputs: &[&Path]) -> Result<Self, OutputError> {
        let name = path.display().to_string();
        let failed = |reason: String| OutputError::Write { path: name.clone(), reason };
        let place = match descriptor(path) {
            Some(1) => Place::Stdout,
            Some(2) => Place::Stderr,
            Some(_) => Place::Stream(path.to_owned()),
            None => place(path, &name)?,
        };
        if let Place::File(file) = &place {
            if inputs.iter().any(|input| same_file::is_same_file(input, file).unwrap_or(false)) {
                return Err(OutputError::Input(name));
            }
            if file.exists() && !replace {
                return Err(OutputError::Exists(name));
            }
            if !folder(file).is_dir() {
                return Err(failed(format!("there is no folder {}", folder(file).display())));
            }
        }
        Ok(Self { name, place, replace })
    }

    /// Checks several outputs of one command, which must not share a file.
    ///
    /// # Errors
    /// As [`Target::new`], and [`OutputError::Twice`].
    pub fn all<const N: usize>(
        paths: [Option<&Path>; N],
        replace: bool,
        inputs: &[&Path],
    ) -> Result<[Option<Self>; N], OutputError> {
        let mut targets = [const { None }; N];
        for (i, path) in paths.into_iter().enumerate() {
            let Some(path) = path else { continue };
            let target = Self::new(path, replace, inputs)?;
            if targets[..i].iter().flatten().any(|other: &Self| other.place == target.place) {
                return Err(OutputError::Twice(target.name));
            }
            targets[i] = Some(target);
        }
        Ok(targets)
    }

    /// As the user wrote it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is standard output, where nothing else should be printed then.
    pub fn is_stdout(&self) -> bool {
        self.place == Place::Stdout
    }

    /// Refuses a terminal, for what is no text.
    ///
    /// # Errors
    /// [`OutputError::Terminal`].
    pub fn binary(self) -> Result<Self, OutputError> {
        if self.is_stdout() && io::stdout().is_terminal() { Err(OutputError::Terminal) } else { Ok(self) }
    }

    /// Begins the output. A FIFO waits for its reader.
    ///
    /// # Errors
    /// What the system reports.
    pub fn create(&self) -> Result<Output, OutputError> {
        let sink = self.open().map_err(|e| self.failed(&e))?;
        Ok(Output { target: self.clone(), out: BufWriter::new(sink) })
    }

    /// Writes the whole output.
    ///
    /// # Errors
    /// What the system reports; [`OutputError::Exists`] where the file has come into being meanwhile.
    pub fn write(&self, bytes: &[u8]) -> Result<(), OutputError> {
        let mut output = self.create()?;
        output.write_all(bytes).map_err(|e| self.failed(&e))?;
        output.finish()
    }

    /// The error of a write.
    pub fn failed(&self, error: &io::Error) -> OutputError {
        let path = match (self.is_stdout(), error.kind()) {
            (true, io::ErrorKind::BrokenPipe) => return OutputError::Gone,
            (true, _) => "to standard output",
            (false, _) => &self.name,
        };
        OutputError::Write { path: path.to_owned(), reason: error.to_string() }
    }

    fn open(&self) -> io::Result<Sink> {
        Ok(match &self.place {
            Place::Stdout => Sink::Stdout(io::stdout()),
            Place::Stderr => Sink::Stderr(io::stderr()),
            Place::Stream(path) => Sink::Stream(OpenOptions::new().append(true).open(path)?),
            Place::File(path) => {
                let mut builder = tempfile::Builder::new();
                builder.prefix(".samebits-").suffix(".tmp");
                // What replaces a file must not be readable for more people than that, while it is written.
                if !path.exists() {
                    anybody(&mut builder);
                }
                let mut list = unfinished();
                let (file, path) = builder.tempfile_in(folder(path))?.into_parts();
                list.push(path.to_path_buf());
                Sink::Temporary { file, path: Some(path) }
            }
        })
    }
}

/// An output that is being written. Dropped before [`Output::finish`], it leaves a file as it was.
#[derive(Debug)]
pub struct Output {
    target: Target,
    out: BufWriter<Sink>,
}

#[derive(Debug)]
enum Sink {
    /// `path` is there until the file is renamed.
    Temporary {
        file: File,
        path: Option<TempPath>,
    },
    Stream(File),
    Stdout(io::Stdout),
    Stderr(io::Stderr),
}

impl Output {
    /// Completes the output: a file gets its name.
    ///
    /// # Errors
    /// What the system reports; [`OutputError::Exists`] where the file has come into being meanwhile. Then nothing is left.
    pub fn finish(mut self) -> Result<(), OutputError> {
        self.out.flush().map_err(|e| self.target.failed(&e))?;
        let Place::File(path) = &self.target.place else { return Ok(()) };
        match self.out.get_mut().rename(path, self.target.replace) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Err(OutputError::Exists(self.target.name)),
            Err(e) => Err(self.target.failed(&e)),
            Ok(()) => Ok(()),
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Temporary { file, .. } | Self::Stream(file) => file.write(bytes),
            Self::Stdout(out) => out.write(bytes),
            Self::Stderr(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Temporary { file, .. } | Self::Stream(file) => file.flush(),
            Self::Stdout(out) => out.flush(),
            Self::Stderr(out) => out.flush(),
        }
    }
}

impl Sink {
    /// Gives a temporary file its name.
    fn rename(&mut self, to: &Path, replace: bool) -> io::Result<()> {
        let Self::Temporary { file, path } = self else { return Ok(()) };
        let Some(temporary) = path.take() else { return Ok(()) };
        keep_permissions(to, file)?;
        file.sync_all()?;
        // The list is held, so that no other thread removes the file between the renaming and its end.
        let mut list = unfinished();
        list.retain(|p| *p != *temporary);
        if replace { temporary.persist(to) } else { temporary.persist_noclobber(to) }.map_err(|e| e.error)?;
        drop(list);
        // The name is in the folder, which is a file of its own. Not every file system can do that, and the data is safe.
        if let Ok(folder) = File::open(folder(to)) {
            let _ = folder.sync_all();
        }
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if let Self::Temporary { path, .. } = self
            && let Some(path) = path.take()
        {
            let mut list = unfinished();
            list.retain(|p| *p != *path);
            // The file goes while the list is held: another thread finds it there, or gone.
            drop(path);
        }
    }
}

/// The number of an open file of this process that a path names: 1 for standard output, 2 for standard error.
fn descriptor(path: &Path) -> Option<u32> {
    match path.to_str()? {
        "-" | "/dev/stdout" => Some(1),
        "/dev/stderr" => Some(2),
        name => name.strip_prefix("/dev/fd/").or_else(|| name.strip_prefix("/proc/self/fd/"))?.parse().ok(),
    }
}

/// Follows links to what is there, or would be.
fn place(path: &Path, name: &str) -> Result<Place, OutputError> {
    let failed = |reason: String| OutputError::Write { path: name.to_owned(), reason };
    if path.as_os_str().is_empty() {
        return Err(failed("the name is empty".to_owned()));
    }
    let mut at = path.to_owned();
    for _ in 0..MOST_LINKS {
        let found = match std::fs::symlink_metadata(&at) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Place::File(at)),
            Err(e) => return Err(failed(e.to_string())),
            Ok(found) => found.file_type(),
        };
        if found.is_symlink() {
            let to = folder(&at).join(std::fs::read_link(&at).map_err(|e| failed(e.to_string()))?);
            // A link among the files of processes leads nowhere by its text, as pipes have no names.
            if !to.exists() && at.metadata().is_ok() {
                return Ok(Place::Stream(at));
            }
            at = to;
            continue;
        }
        return match special(found) {
            None => Ok(Place::File(at)),
            Some(Kind::Stream) => Ok(Place::Stream(at)),
            Some(Kind::Other(what)) => Err(OutputError::NoFile { path: name.to_owned(), what }),
        };
    }
    Err(failed("too many symbolic links".to_owned()))
}

/// What is no regular file.
enum Kind {
    #[cfg_attr(not(unix), expect(dead_code, reason = "other systems do not tell"))]
    Stream,
    Other(&'static str),
}

#[cfg(unix)]
fn special(kind: std::fs::FileType) -> Option<Kind> {
    use std::os::unix::fs::FileTypeExt;
    match kind {
        k if k.is_file() => None,
        k if k.is_dir() => Some(Kind::Other("a directory")),
        k if k.is_fifo() || k.is_char_device() => Some(Kind::Stream),
        k if k.is_block_device() => Some(Kind::Other("a disk or another block device")),
        k if k.is_socket() => Some(Kind::Other("a socket")),
        _ => Some(Kind::Other("no regular file")),
    }
}

#[cfg(not(unix))]
fn special(kind: std::fs::FileType) -> Option<Kind> {
    if kind.is_file() { None } else { Some(Kind::Other(if kind.is_dir() { "a directory" } else { "no regular file" })) }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Lets the umask alone decide who may read a new file.
#[cfg(unix)]
fn anybody(builder: &mut tempfile::Builder<'_, '_>) {
    use std::os::unix::fs::PermissionsExt;
    builder.permissions(std::fs::Permissions::from_mode(0o666));
}

#[cfg(not(unix))]
fn anybody(_: &mut tempfile::Builder<'_, '_>) {}

/// Gives `new` the permissions of the file it replaces, and its owner where this process may.
#[cfg(unix)]
fn keep_permissions(old: &Path, new: &File) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
    let Ok(old) = old.metadata() else { return Ok(()) };
    let now = new.metadata()?;
    if (old.uid(), old.gid()) != (now.uid(), now.gid()) {
        let _ = fchown(new, Some(old.uid()), Some(old.gid()));
    }
    // A file of data has no use for the bits that make a program run as its owner.
    new.set_permissions(std::fs::Permissions::from_mode(old.mode() & 0o777))
}

#[cfg(not(unix))]
fn keep_permissions(_: &Path, _: &File) -> io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn an_output_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        let target = Target::new(&path, false, &[]).unwrap();
        let mut output = target.create().unwrap();
        output.write_all(b"half").unwrap();
        assert_eq!(names(folder.path()).len(), 1);
        drop(output);
        assert_eq!(names(folder.path()), [""; 0]);
        target.write(b"whole").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert!(matches!(target.write(b"again"), Err(OutputError::Exists(_))), "it came into being meanwhile");
        assert!(matches!(Target::new(&path, false, &[]), Err(OutputError::Exists(_))));
        Target::new(&path, true, &[]).unwrap().write(b"new").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(names(folder.path()), ["out"]);
        // A renaming that fails leaves nothing.
        let second = folder.path().join("second");
        let output = Target::new(&second, true, &[]).unwrap().create().unwrap();
        std::fs::create_dir(&second).unwrap();
        assert!(output.finish().is_err());
        assert_eq!(names(folder.path()), ["out", "second"]);
    }

    #[test]
    fn what_must_not_be_harmed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("model");
        std::fs::write(&input, "precious").unwrap();
        let refused = |path: &Path| Target::new(path, true, &[&input]).unwrap_err().to_string();
        assert!(refused(&input).contains("this command reads"));
        assert!(refused(&folder.path().join("./x/../model")).contains("no folder") || cfg!(windows));
        assert!(refused(folder.path()).contains("is a directory"));
        assert!(refused(&folder.path().join("none/out")).contains("there is no folder"));
        assert!(refused(Path::new("")).contains("the name is empty"));
        let out = folder.path().join("out");
        let twice = Target::all([Some(out.as_path()), None, Some(&out)], true, &[]).unwrap_err();
        assert!(matches!(twice, OutputError::Twice(_)));
        assert_eq!(std::fs::read(&input).unwrap(), b"precious");
    }

    #[cfg(unix)]
    #[test]
    fn links_are_followed_and_stay() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("far")).unwrap();
        let [file, link, second] = ["far/file", "link", "second"].map(|name| folder.path().join(name));
        symlink("far/file", &link).unwrap();
        symlink("link", &second).unwrap();
        Target::new(&second, false, &[]).unwrap().write(b"one").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"one", "a link to nothing makes what it points to");
        assert!(matches!(Target::new(&link, false, &[]), Err(OutputError::Exists(_))));
        assert!(matches!(Target::new(&link, true, &[&file]), Err(OutputError::Input(_))));
        Target::new(&second, true, &[]).unwrap().write(b"two").unwrap();
        assert_eq!(std::fs::read(&file).unwrap(), b"two");
        assert!(link.is_symlink() && second.is_symlink());
        assert_eq!(names(&folder.path().join("far")), ["file"]);
        let ring = folder.path().join("ring");
        symlink("ring", &ring).unwrap();
        assert!(Target::new(&ring, true, &[]).unwrap_err().to_string().contains("symbolic links"));
        let copy = folder.path().join("copy");
        std::fs::hard_link(&file, &copy).unwrap();
        assert!(matches!(Target::new(&copy, true, &[&file]), Err(OutputError::Input(_))), "another name of the input");
    }

    #[cfg(unix)]
    #[test]
    fn permissions_are_those_of_the_file_that_is_replaced() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out");
        for mode in [0o600, 0o640, 0o444, 0o777] {
            std::fs::write(&path, "old").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Target::new(&path, true, &[]).unwrap().write(b"new").unwrap();
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o7777, mode);
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[cfg(unix)]
    #[test]
    fn streams_are_written_into_and_stay() {
        use std::os::unix::fs::FileTypeExt;
        let null = Path::new("/dev/null");
        Target::new(null, true, &[]).unwrap().write(b"gone").unwrap();
        assert!(null.metadata().unwrap().file_type().is_char_device());
        let error = Target::new(Path::new("/dev/full"), false, &[]).unwrap().write(b"full");
        assert!(error.is_err() || cfg!(not(target_os = "linux")));
        let socket = tempfile::tempdir().unwrap();
        let path = socket.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(Target::new(&path, true, &[]).unwrap_err().to_string().contains("is a socket"));
    }
}
