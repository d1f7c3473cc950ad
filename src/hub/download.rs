//! One file: what is there of it, the rest, and its hash.
//!
//! Beside `HASH.incomplete` lies a journal: the tag that the server gave the file, then for every MiB the hash of all bytes up to
//! there. What an earlier attempt left is read again and compared with it: the file goes on behind the last MiB that is what was
//! received, whatever a crash or a disk did to it. The file gets its name when the hash of the whole is that of the hub.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

use super::cache::{Digest, Hasher, UNFINISHED, failed, journal};
use super::http::{Answer, Client, Request, Tries, Trouble, cut};
use super::{Event, HubError, Observer};

/// Bytes between two entries of the journal.
const BLOCK: u64 = 1 << 20;

/// Bytes that are read from a connection at a time, and how many such pieces may wait for the disk.
const PIECE: usize = 256 << 10;
const PIECES: usize = 8;

/// How often a wait for bytes looks whether it shall end.
const POLL: Duration = Duration::from_millis(50);

/// A file that is wanted.
pub(super) struct Wanted<'a> {
    /// Where it comes from.
    pub url: &'a str,
    /// Its name for people.
    pub file: &'a str,
    pub size: u64,
    pub digest: &'a Digest,
    /// Where it goes.
    pub blob: &'a Path,
}

/// Fetches a file, or what is missing of it. The caller holds its lock.
pub(super) fn fetch(client: &Client<'_>, wanted: &Wanted<'_>, observer: &mut dyn Observer) -> Result<(), HubError> {
    let folder = wanted.blob.parent().unwrap_or(wanted.blob);
    std::fs::create_dir_all(folder).map_err(|e| failed(folder, &e))?;
    let mut part = Part::open(wanted, observer)?;
    has_room(wanted, part.len, folder)?;
    observer.event(Event::Begins { file: wanted.file, size: wanted.size, have: part.len });
    let mut tries = Tries::new(client.options);
    let mut furthest = part.len;
    while part.len < wanted.size {
        if let Err(trouble) = pass(client, wanted, &mut part, observer) {
            if part.len > furthest {
                furthest = part.len;
                tries.progress();
            }
            tries.after(trouble, observer).map_err(|error| stopped(error, wanted, part.len))?;
        }
    }
    part.finish(wanted)
}

/// An error, with how far the file came.
fn stopped(error: HubError, wanted: &Wanted<'_>, have: u64) -> HubError {
    match error {
        HubError::Unreachable { reason, .. } if have > 0 => {
            HubError::Cut { file: wanted.file.to_owned(), have, size: wanted.size, reason }
        }
        other => other,
    }
}

/// Refuses to begin what the disk cannot hold.
fn has_room(wanted: &Wanted<'_>, have: u64, folder: &Path) -> Result<(), HubError> {
    let needed = wanted.size.saturating_sub(have);
    match fs4::available_space(folder) {
        Ok(free) if free < needed => Err(no_room(wanted, needed, free, folder)),
        _ => Ok(()),
    }
}

fn no_room(wanted: &Wanted<'_>, needed: u64, free: u64, folder: &Path) -> HubError {
    HubError::Space { file: wanted.file.to_owned(), needed, free, folder: folder.display().to_string() }
}

/// One request for what is missing, and as much as comes of it.
fn pass(client: &Client<'_>, wanted: &Wanted<'_>, part: &mut Part, observer: &mut dyn Observer) -> Result<(), Trouble> {
    let range = (part.len > 0).then(|| (part.len, part.tag.clone()));
    let answer = client.once(wanted.url, &Request { range, ..Request::default() }, observer)?.no_page()?;
    let tag = answer.header("etag").filter(|tag| tag.starts_with('"')).map(str::to_owned);
    let goes_on = part.len > 0 && is_rest(&answer, part, wanted.size)?;
    if !goes_on {
        if part.len > 0 {
            observer.event(Event::Anew { file: wanted.file });
        }
        part.begin(tag).map_err(|e| failed(&part.path, &e))?;
        if answer.status.as_u16() != 200 {
            // It has no such range, or another: the whole file is asked for next.
            let reason = "the server sent another part of the file".to_owned();
            let what = format!("status {} and another part of the file", answer.status.as_u16());
            let error = HubError::NoHub { url: answer.from, what };
            return Err(Trouble::Passing { reason, wait: None, error: Box::new(error) });
        }
    }
    let expected = wanted.size - part.len;
    match answer.length() {
        Some(sent) if sent != expected => {
            let file = wanted.file.to_owned();
            Err(HubError::Size { file, size: wanted.size, sent: part.len + sent }.into())
        }
        _ => receive(answer, wanted, part, observer),
    }
}

/// Whether an answer is what is missing of a file: a part of the same file that begins where it should.
fn is_rest(answer: &Answer, part: &Part, size: u64) -> Result<bool, HubError> {
    let range = answer.header("content-range").and_then(|text| text.strip_prefix("bytes "));
    let range =
        range.and_then(|text| text.split_once('/')).and_then(|(range, total)| Some((range.split_once('-')?.0, total)));
    let Some((start, total)) = range.filter(|_| answer.status.as_u16() == 206) else { return Ok(false) };
    let same = answer.header("etag").is_none_or(|tag| part.tag.as_deref().is_none_or(|ours| ours == tag));
    if total.parse::<u64>().is_ok_and(|total| total != size) {
        return Ok(false);
    }
    Ok(same && start.parse() == Ok(part.len))
}

/// Takes what a connection gives, until the file is whole or the connection ends. Reading goes on while the disk writes.
fn receive(answer: Answer, wanted: &Wanted<'_>, part: &mut Part, observer: &mut dyn Observer) -> Result<(), Trouble> {
    let from = answer.from;
    let mut reader = answer.body.into_reader();
    let (sender, receiver) = sync_channel::<io::Result<Vec<u8>>>(PIECES);
    std::thread::spawn(move || {
        loop {
            let mut piece = vec![0; PIECE];
            let read = reader.read(&mut piece).map(|n| {
                piece.truncate(n);
                piece
            });
            let last = !read.as_ref().is_ok_and(|piece| !piece.is_empty());
            if sender.send(read).is_err() || last {
                return;
            }
        }
    });
    while part.len < wanted.size {
        let piece = match receiver.recv_timeout(POLL) {
            Ok(Ok(piece)) => piece,
            Ok(Err(e)) => return Err(cut(&from, &e.to_string())),
            Err(RecvTimeoutError::Timeout) if observer.stop() => return Err(HubError::Interrupted.into()),
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return Err(cut(&from, "it gave up")),
        };
        if piece.is_empty() {
            return Err(cut(&from, "the server closed it early"));
        }
        if part.len == 0 && piece.first() == Some(&b'<') {
            return Err(HubError::WebPage(from).into());
        }
        let sent = part.len + piece.len() as u64;
        if sent > wanted.size {
            return Err(HubError::Size { file: wanted.file.to_owned(), size: wanted.size, sent }.into());
        }
        part.write(&piece).map_err(|e| full(&e, wanted, part))?;
        observer.event(Event::Bytes(piece.len() as u64));
        if observer.stop() {
            return Err(HubError::Interrupted.into());
        }
    }
    Ok(())
}

/// An error of the disk.
fn full(error: &io::Error, wanted: &Wanted<'_>, part: &Part) -> HubError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            let folder = part.path.parent().unwrap_or(&part.path);
            no_room(wanted, wanted.size - part.len, fs4::available_space(folder).unwrap_or(0), folder)
        }
        _ => failed(&part.path, error),
    }
}

/// A file that is not whole, and its journal.
struct Part {
    path: PathBuf,
    data: File,
    journal: File,
    /// The tag that the server gave the file when it began.
    tag: Option<String>,
    len: u64,
    hasher: Hasher,
    /// Before the first byte.
    fresh: Hasher,
}

impl Part {
    /// What an earlier attempt left, as far as it is good.
    fn open(wanted: &Wanted<'_>, observer: &mut dyn Observer) -> Result<Self, HubError> {
        let path = wanted.blob.with_added_extension(UNFINISHED);
        let open = |path: &Path| {
            let file = File::options().create(true).read(true).write(true).truncate(false).open(path);
            file.map_err(|e| failed(path, &e))
        };
        let fresh = wanted.digest.hasher();
        let mut part = Self {
            data: open(&path)?,
            journal: open(&journal(&path))?,
            tag: None,
            len: 0,
            hasher: fresh.clone(),
            fresh,
            path,
        };
        part.resume(wanted, observer)?;
        Ok(part)
    }

    /// Reads what is there, up to the first MiB that is not what was received.
    fn resume(&mut self, wanted: &Wanted<'_>, observer: &mut dyn Observer) -> Result<(), HubError> {
        let had = self.data.metadata().map_or(0, |m| m.len());
        let mut text = Vec::new();
        let read = self.journal.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.split_inclusive('\n');
        let tag = lines.next().and_then(|line| line.strip_prefix("tag ")?.strip_suffix('\n'));
        let (Ok(_), Some(tag)) = (read, tag) else { return self.begin(None).map_err(|e| failed(&self.path, &e)) };
        self.tag = Some(tag.to_owned()).filter(|tag| !tag.is_empty());
        let mut block = vec![0; BLOCK as usize];
        let mut journaled = 4 + tag.len() as u64 + 1;
        let mut bad = false;
        let blocks = (wanted.size.saturating_sub(1) / BLOCK) as usize;
        for line in lines.filter_map(|line| line.strip_suffix('\n')).take(blocks) {
            if observer.stop() {
                return Err(HubError::Interrupted);
            }
            let mut next = self.hasher.clone();
            let read = self.data.read_exact(&mut block);
            next.update(&block);
            if read.is_err() || line != next.hex() {
                bad = true;
                break;
            }
            self.hasher = next;
            self.len += BLOCK;
            journaled += line.len() as u64 + 1;
        }
        if bad {
            observer.event(Event::Damaged { file: wanted.file, good: self.len, had });
        }
        self.cut_to(self.len, journaled).map_err(|e| failed(&self.path, &e))
    }

    /// Begins the file anew.
    fn begin(&mut self, tag: Option<String>) -> io::Result<()> {
        self.len = 0;
        self.hasher = self.fresh.clone();
        self.cut_to(0, 0)?;
        self.journal.write_all(format!("tag {}\n", tag.as_deref().unwrap_or_default()).as_bytes())?;
        self.tag = tag;
        Ok(())
    }

    fn cut_to(&mut self, data: u64, journal: u64) -> io::Result<()> {
        self.data.set_len(data)?;
        self.data.seek(SeekFrom::Start(data))?;
        self.journal.set_len(journal)?;
        self.journal.seek(SeekFrom::Start(journal)).map(drop)
    }

    fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let room = (BLOCK - self.len % BLOCK) as usize;
            let (now, rest) = bytes.split_at(room.min(bytes.len()));
            self.data.write_all(now)?;
            self.hasher.update(now);
            self.len += now.len() as u64;
            if self.len.is_multiple_of(BLOCK) {
                self.journal.write_all(format!("{}\n", self.hasher.hex()).as_bytes())?;
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Checks the hash of the whole, and gives the file its name.
    fn finish(self, wanted: &Wanted<'_>) -> Result<(), HubError> {
        let found = self.hasher.hex();
        if found != wanted.digest.name() {
            let _ = std::fs::remove_file(&self.path);
            let _ = std::fs::remove_file(journal(&self.path));
            return Err(HubError::Hash {
                file: wanted.file.to_owned(),
                wanted: wanted.digest.name().to_owned(),
                found,
            });
        }
        let named = self.data.sync_all().and_then(|()| {
            // Windows renames no file that is open.
            drop(self.data);
            std::fs::rename(&self.path, wanted.blob)
        });
        named.map_err(|e| failed(&self.path, &e))?;
        drop(self.journal);
        let _ = std::fs::remove_file(journal(&self.path));
        Ok(())
    }
}
