//! A hub for tests: the answers of huggingface.co for one repository, from two ports, as the hub sends files from another host.
//! A test may put answers of its own in their place, which lie, stop, stall or cut the line.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub const REPO: &str = "owner/Some-Model.GGUF";

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// Its path, decoded, with what stands behind `?`.
    pub path: String,
    pub range: Option<usize>,
    pub if_range: Option<String>,
    pub authorization: Option<String>,
    /// Whether it came to the host of the files.
    pub cdn: bool,
}

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// Bytes of the body after which the line is cut.
    pub cut: Option<usize>,
    /// Bytes of the body after which nothing comes any more.
    pub stall: Option<usize>,
    /// A pause behind every 64 KiB.
    pub pace: Duration,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.retain(|(n, _)| !n.eq_ignore_ascii_case(name));
        self.headers.push((name, value.into()));
        self
    }

    pub fn body(mut self, body: &[u8]) -> Self {
        body.clone_into(&mut self.body);
        self
    }

    pub fn page() -> Self {
        Self::status(200)
            .header("Content-Type", "text/html; charset=utf-8")
            .body(b"<!doctype html><title>Log in</title>")
    }
}

/// What a test puts in the place of an honest answer, which it is given. The number counts requests for the bytes of files.
pub type Change = dyn Fn(&Seen, usize, Reply) -> Reply + Send + Sync;

struct State {
    /// Name, bytes, hash.
    files: Vec<(String, Vec<u8>, String)>,
    prefix: String,
    cdn: String,
    seen: Mutex<Vec<Seen>>,
    /// Bytes of files that were sent.
    sent: Mutex<usize>,
    change: Box<Change>,
}

pub struct Mock {
    /// What `HF_ENDPOINT` says.
    pub endpoint: String,
    state: Arc<State>,
}

/// Bytes that begin like a model.
pub fn model(bytes: usize, seed: u64) -> Vec<u8> {
    let mut x = seed | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 24) as u8
    };
    let mut all: Vec<u8> = (0..bytes).map(|_| next()).collect();
    all[..4].copy_from_slice(b"GGUF");
    all
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

impl Mock {
    pub fn new(files: &[(&str, Vec<u8>)]) -> Self {
        Self::with(files, "", Box::new(|_, _, reply| reply))
    }

    /// With answers that are changed, and an address with a path.
    pub fn with(files: &[(&str, Vec<u8>)], prefix: &str, change: Box<Change>) -> Self {
        let hub = TcpListener::bind("127.0.0.1:0").unwrap();
        let cdn = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = Arc::new(State {
            files: files.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.clone(), sha256(bytes))).collect(),
            prefix: prefix.to_owned(),
            cdn: format!("http://{}", cdn.local_addr().unwrap()),
            seen: Mutex::default(),
            sent: Mutex::default(),
            change,
        });
        let endpoint = format!("http://{}{prefix}", hub.local_addr().unwrap());
        for (listener, is_cdn) in [(hub, false), (cdn, true)] {
            let state = state.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let state = state.clone();
                    std::thread::spawn(move || serve(&state, stream, is_cdn));
                }
            });
        }
        Self { endpoint, state }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().unwrap().clone()
    }

    /// Bytes of files that were sent.
    pub fn sent(&self) -> usize {
        *self.state.sent.lock().unwrap()
    }
}

fn serve(state: &State, stream: TcpStream, cdn: bool) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), decoded(words.next()?));
    let mut seen = Seen { method, path, range: None, if_range: None, authorization: None, cdn };
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        let value = value.trim().to_owned();
        match name.to_lowercase().as_str() {
            "range" => seen.range = value.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok(),
            "if-range" => seen.if_range = Some(value),
            "authorization" => seen.authorization = Some(value),
            _ => {}
        }
    }
    let number = state.seen.lock().unwrap().iter().filter(|s| s.cdn).count();
    state.seen.lock().unwrap().push(seen.clone());
    let reply = (state.change)(&seen, number, honest(state, &seen));
    write(state, stream, &seen, &reply)
}

fn write(state: &State, mut stream: TcpStream, seen: &Seen, reply: &Reply) -> Option<()> {
    let mut head = format!("HTTP/1.1 {} Some\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length")) {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
    if seen.method == "HEAD" {
        return Some(());
    }
    let end = reply.cut.or(reply.stall).unwrap_or(reply.body.len()).min(reply.body.len());
    for piece in reply.body[..end].chunks(64 << 10) {
        stream.write_all(piece).ok()?;
        std::thread::sleep(reply.pace);
        if seen.cdn {
            *state.sent.lock().unwrap() += piece.len();
        }
    }
    if reply.stall.is_some() {
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        // Until the other side has had enough.
        let _ = stream.read(&mut [0]);
    }
    Some(())
}

/// What the hub answers.
fn honest(state: &State, seen: &Seen) -> Reply {
    let Some(path) = seen.path.strip_prefix(&state.prefix) else { return Reply::status(404) };
    if let Some(hash) = path.strip_prefix("/blob/").filter(|_| seen.cdn) {
        let hash = hash.split('?').next().unwrap();
        let Some((_, bytes, _)) = state.files.iter().find(|file| file.2 == hash) else {
            return Reply::status(404);
        };
        let tag = format!("\"tag-{}\"", &hash[..8]);
        let same = seen.if_range.as_ref().is_none_or(|given| *given == tag);
        let reply = Reply::status(200).header("ETag", tag);
        return match seen.range.filter(|_| same) {
            Some(from) if from >= bytes.len() => Reply::status(416),
            Some(from) => Reply { status: 206, ..reply }
                .header("Content-Range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()))
                .body(&bytes[from..]),
            None => reply.body(bytes),
        };
    }
    if path.starts_with(&format!("/api/models/{REPO}/revision/main")) {
        let siblings: Vec<_> = state
            .files
            .iter()
            .map(|(name, bytes, hash)| {
                let size = bytes.len();
                serde_json::json!({"rfilename": name, "size": size, "lfs": {"sha256": hash, "size": size}})
            })
            .collect();
        let text = serde_json::json!({"id": REPO, "sha": COMMIT, "siblings": siblings}).to_string();
        return Reply::status(200).header("Content-Type", "application/json").body(text.as_bytes());
    }
    let resolve =
        [COMMIT, "main"].iter().find_map(|revision| path.strip_prefix(&format!("/{REPO}/resolve/{revision}/")));
    if let Some((_, bytes, hash)) = resolve.and_then(|file| state.files.iter().find(|(name, ..)| name == file)) {
        return Reply::status(302)
            .header("X-Repo-Commit", COMMIT)
            .header("X-Linked-Size", bytes.len().to_string())
            .header("X-Linked-Etag", format!("\"{hash}\""))
            .header("Location", format!("{}{}/blob/{hash}?Signature=secret-signature", state.cdn, state.prefix));
    }
    let code = match path {
        p if p.starts_with(&format!("/api/models/{REPO}/")) => "RevisionNotFound",
        p if p.starts_with(&format!("/{REPO}/resolve/")) => "EntryNotFound",
        _ => "RepoNotFound",
    };
    Reply::status(404).header("X-Error-Code", code)
}

/// A path without `%`.
fn decoded(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| u8::from_str_radix(&path[at + 1..at + 3], 16).unwrap());
        out.push(hex.unwrap_or(bytes[at]));
        at += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).unwrap()
}
