//! The library beside a hub that is honest, and one that is not.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use samebits::hub::{Event, Hub, HubError, Local, Observer, Options};

use super::mock::{COMMIT, Mock, REPO, Reply, Seen, model, sha256};

/// Larger than some blocks of the journal, and no multiple of one.
const SIZE: usize = (3 << 20) + 12345;
const FILE: &str = "some-model-Q4_0.gguf";

/// What happened, in words.
#[derive(Default)]
struct Log {
    lines: Vec<String>,
    /// Bytes of this attempt.
    bytes: u64,
    /// Bytes after which to stop.
    stop: Option<u64>,
}

impl Observer for Log {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Bytes(n) => self.bytes += n,
            other => self.lines.push(format!("{other:?}")),
        }
    }

    fn stop(&self) -> bool {
        self.stop.is_some_and(|stop| self.bytes >= stop)
    }
}

fn options(mock: &Mock, home: &Path, more: &[(&str, &str)]) -> Options {
    let variable = |name: &str| match name {
        "HF_HOME" => Some(home.to_str().unwrap().to_owned()),
        "HF_ENDPOINT" => Some(mock.endpoint.clone()),
        other => more.iter().find(|(key, _)| *key == other).map(|(_, value)| (*value).to_owned()),
    };
    let mut options = Options::new(&variable, None).unwrap();
    options.pause = Duration::from_millis(1);
    options.stall = Duration::from_millis(1500);
    options
}

fn pull(mock: &Mock, home: &Path, name: &str) -> Result<Local, HubError> {
    Hub::new(options(mock, home, &[])).pull(&name.parse().unwrap(), &mut Log::default())
}

fn name() -> String {
    format!("hf:{REPO}")
}

/// All files below a folder but locks, by their paths in it.
fn tree(folder: &Path) -> Vec<String> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.symlink_metadata().unwrap().is_dir() {
                walk(root, &path, found);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/"));
            }
        }
    }
    let mut found = Vec::new();
    walk(folder, folder, &mut found);
    found.retain(|path| !path.contains(".locks") && !path.ends_with("CACHEDIR.TAG"));
    found.sort();
    found
}

fn part(home: &Path, bytes: &[u8]) -> PathBuf {
    home.join(format!("hub/models--{}/blobs/{}.incomplete", REPO.replace('/', "--"), sha256(bytes)))
}

#[test]
fn a_model_is_fetched_once_and_lies_where_the_python_library_looks() {
    let (home, bytes) = (tempfile::tempdir().unwrap(), model(SIZE, 1));
    let mock = Mock::new(&[("README.md", b"words".to_vec()), (FILE, bytes.clone())]);
    let local = pull(&mock, home.path(), &name()).unwrap();
    assert_eq!(std::fs::read(&local.files[0]).unwrap(), bytes);
    assert_eq!(local.name.to_string(), format!("hf:{REPO}:Q4_0"));
    let repo = "hub/models--owner--Some-Model.GGUF";
    let wanted = [
        format!("{repo}/blobs/{}", sha256(&bytes)),
        format!("{repo}/refs/main"),
        format!("{repo}/snapshots/{COMMIT}/{FILE}"),
    ];
    assert_eq!(tree(home.path()), wanted);
    assert_eq!(std::fs::read_to_string(home.path().join(&wanted[1])).unwrap(), COMMIT);
    if cfg!(unix) {
        let to = std::fs::read_link(home.path().join(&wanted[2])).unwrap();
        assert_eq!(to, Path::new(&format!("../../blobs/{}", sha256(&bytes))));
    }
    // Nothing is asked for what is there; a pull asks whether there is something new.
    let before = mock.seen().len();
    let hub = Hub::new(options(&mock, home.path(), &[]));
    for name in [name(), format!("{}:q4_0", name()), format!("{}:{FILE}", name()), format!("{}@{COMMIT}", name())] {
        let found = hub.find(&name.parse().unwrap(), &mut Log::default()).unwrap();
        assert_eq!(found.files, local.files, "{name}");
    }
    assert_eq!(mock.seen().len(), before);
    pull(&mock, home.path(), &name()).unwrap();
    assert_eq!((mock.seen().len(), mock.sent()), (before + 1, SIZE));
}

/// A case of the table: what the hub does, the error, what the cache then holds of the file, and the most requests for its bytes.
struct Case {
    what: &'static str,
    change: fn(&Seen, usize, Reply) -> Reply,
    error: Option<&'static str>,
    holds: Holds,
    requests: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Nothing,
    Part,
    All,
}

fn is_api(seen: &Seen) -> bool {
    seen.path.contains("/api/")
}

fn is_resolve(seen: &Seen) -> bool {
    seen.path.contains("/resolve/")
}

#[rustfmt::skip]
const CASES: [Case; 36] = [
    Case { what: "honest", change: |_, _, r| r, error: None, holds: Holds::All, requests: 1 },
    Case { what: "cuts the first lines", change: |s, n, r| if s.cdn && n < 3 { Reply { cut: Some(1_200_000), ..r } } else { r }, error: None, holds: Holds::All, requests: 4 },
    Case { what: "cuts all lines at once", change: |s, _, r| if s.cdn { Reply { cut: Some(0), ..r } } else { r }, error: Some("cannot reach 127.0.0.1"), holds: Holds::Nothing, requests: 5 },
    Case { what: "cuts all lines behind the first", change: |s, n, r| if s.cdn { Reply { cut: Some(if n == 0 { 2_200_000 } else { 0 }), ..r } } else { r }, error: Some("stopped at 2200000 of 3158073 bytes"), holds: Holds::Part, requests: 6 },
    Case { what: "stalls", change: |s, n, r| if s.cdn && n == 0 { Reply { stall: Some(1_500_000), ..r } } else { r }, error: None, holds: Holds::All, requests: 2 },
    Case { what: "stalls for ever", change: |s, _, r| if s.cdn { Reply { stall: Some(0), ..r } } else { r }, error: Some("cannot reach"), holds: Holds::Nothing, requests: 5 },
    Case { what: "ignores Range", change: |s, n, r| match (s.cdn, n) { (true, 0) => Reply { cut: Some(2_500_000), ..r }, (true, _) => Reply::status(200).header("ETag", "\"tag-x\"").body(&model(SIZE, 1)), _ => r }, error: None, holds: Holds::All, requests: 2 },
    Case { what: "changes the file", change: |s, n, r| if s.cdn && n == 0 { Reply { cut: Some(2_500_000), ..r }.header("ETag", "\"other\"") } else { r }, error: None, holds: Holds::All, requests: 2 },
    Case { what: "sends another part", change: |s, n, r| match (s.cdn, n) { (true, 0) => Reply { cut: Some(2_500_000), ..r }, (true, 1) => r.header("Content-Range", "bytes 7-3158072/3158073"), _ => r }, error: None, holds: Holds::All, requests: 3 },
    Case { what: "416 for the rest", change: |s, n, r| match (s.cdn, n) { (true, 0) => Reply { cut: Some(2_500_000), ..r }, (true, 1) => Reply::status(416), _ => r }, error: None, holds: Holds::All, requests: 3 },
    Case { what: "416 for everything", change: |s, _, r| if s.cdn { Reply::status(416) } else { r }, error: Some("does not answer as the hub does (status 416"), holds: Holds::Nothing, requests: 5 },
    Case { what: "lies about the hash", change: |s, _, r| if is_resolve(s) { r.header("X-Linked-Etag", format!("\"{}\"", "0".repeat(64))) } else { r }, error: Some("has another hash than the hub says"), holds: Holds::Nothing, requests: 1 },
    Case { what: "changes a byte", change: |s, _, mut r| { if s.cdn { r.body[1_000_000] ^= 1; } r }, error: Some("has another hash"), holds: Holds::Nothing, requests: 1 },
    Case { what: "lies about the size", change: |s, _, r| if is_resolve(s) { r.header("X-Linked-Size", "1000") } else { r }, error: Some("has 1000 bytes at the hub, but 3158073 are sent"), holds: Holds::Nothing, requests: 1 },
    Case { what: "sends too much without saying so", change: |s, _, mut r| { if s.cdn { r.body.push(0); r = r.header("Content-Length", ""); r.headers.pop(); r = r.header("Transfer-Encoding", "identity").header("Content-Length", "3158074"); } r }, error: Some("but 3158074 are sent"), holds: Holds::Nothing, requests: 1 },
    Case { what: "larger than the disk", change: |s, _, r| if is_resolve(s) { r.header("X-Linked-Size", "900000000000000000") } else { r }, error: Some("needs 900000000000000000 more bytes"), holds: Holds::Nothing, requests: 0 },
    Case { what: "a page instead of the file", change: |s, _, r| if s.cdn { Reply::page() } else { r }, error: Some("is a web page, not the file"), holds: Holds::Nothing, requests: 1 },
    Case { what: "a page that says nothing of it", change: |s, _, r| if s.cdn { r.body(&[b'<'; SIZE]) } else { r }, error: Some("is a web page"), holds: Holds::Nothing, requests: 1 },
    Case { what: "a page instead of the list", change: |s, _, r| if is_api(s) { Reply::page() } else { r }, error: Some("is a web page"), holds: Holds::Nothing, requests: 0 },
    Case { what: "no JSON", change: |s, _, r| if is_api(s) { Reply::status(200).body(b"hello") } else { r }, error: Some("does not answer as the hub does (no JSON)"), holds: Holds::Nothing, requests: 0 },
    Case { what: "other JSON", change: |s, _, r| if is_api(s) { Reply::status(200).body(b"{\"sha\":\"../../x\"}") } else { r }, error: Some("no commit in 'sha'"), holds: Holds::Nothing, requests: 0 },
    Case { what: "names outside of the folder", change: |s, _, r| if is_api(s) { let text = String::from_utf8(r.body.clone()).unwrap().replace(FILE, "../../x.gguf"); r.body(text.as_bytes()) } else { r }, error: Some("a file outside of its folder"), holds: Holds::Nothing, requests: 0 },
    Case { what: "a hash that is a path", change: |s, _, r| if is_resolve(s) { r.header("X-Linked-Etag", "\"../../../x\"") } else { r }, error: Some("no hash in X-Linked-Etag"), holds: Holds::Nothing, requests: 0 },
    Case { what: "another commit", change: |s, _, r| if is_resolve(s) { r.header("X-Repo-Commit", "f".repeat(40)) } else { r }, error: Some("no header X-Repo-Commit"), holds: Holds::Nothing, requests: 0 },
    Case { what: "no size", change: |s, _, mut r| { r.headers.retain(|(n, _)| *n != "X-Linked-Size"); let _ = s; r }, error: Some("neither X-Linked-Size nor Content-Length"), holds: Holds::Nothing, requests: 0 },
    Case { what: "401", change: |_, _, _| Reply::status(401), error: Some("is not on the hub, or is private"), holds: Holds::Nothing, requests: 0 },
    Case { what: "gated", change: |s, _, r| if is_resolve(s) { Reply::status(401).header("X-Error-Code", "GatedRepo") } else { r }, error: Some("is gated: accept the licence at"), holds: Holds::Nothing, requests: 0 },
    Case { what: "403", change: |_, _, _| Reply::status(403), error: Some("is gated"), holds: Holds::Nothing, requests: 0 },
    Case { what: "404", change: |_, _, _| Reply::status(404).header("X-Error-Code", "RepoNotFound"), error: Some("is not on the hub"), holds: Holds::Nothing, requests: 0 },
    Case { what: "429, once", change: |s, n, r| if s.cdn && n == 0 { Reply::status(429).header("Retry-After", "0") } else { r }, error: None, holds: Holds::All, requests: 2 },
    Case { what: "429 for an hour", change: |_, _, _| Reply::status(429).header("Retry-After", "3600"), error: Some("asks to wait 3600 s"), holds: Holds::Nothing, requests: 0 },
    Case { what: "500 for some time", change: |s, n, r| if s.cdn && n < 4 { Reply::status(500) } else { r }, error: None, holds: Holds::All, requests: 5 },
    Case { what: "505 for some time", change: |s, n, r| if s.cdn && n < 4 { Reply::status(505) } else { r }, error: None, holds: Holds::All, requests: 5 },
    Case { what: "a proxy's 522 for some time", change: |s, n, r| if s.cdn && n < 4 { Reply::status(522) } else { r }, error: None, holds: Holds::All, requests: 5 },
    Case { what: "501", change: |s, n, r| if s.cdn && n == 0 { Reply::status(501) } else { r }, error: Some("answers 501"), holds: Holds::Nothing, requests: 1 },
    Case { what: "500 for ever", change: |_, _, _| Reply::status(500).header("X-Error-Message", "no disks"), error: Some("answers 500: no disks"), holds: Holds::Nothing, requests: 0 },
];

#[test]
fn whatever_the_hub_does_has_one_error_and_leaves_the_cache_in_order() {
    let bytes = model(SIZE, 1);
    for case in CASES {
        let home = tempfile::tempdir().unwrap();
        let mock = Mock::with(&[(FILE, bytes.clone())], "", Box::new(case.change));
        let result = pull(&mock, home.path(), &name());
        match (&result, case.error) {
            (Ok(local), None) => assert_eq!(std::fs::read(&local.files[0]).unwrap(), bytes, "{}", case.what),
            (Err(e), Some(wanted)) => {
                let text = e.to_string();
                assert!(text.contains(wanted) && !text.contains('\n'), "{}: {text}", case.what);
                assert!(!text.contains("secret-signature"), "{text}");
            }
            (result, wanted) => panic!("{}: {result:?} instead of {wanted:?}", case.what),
        }
        let requests = mock.seen().iter().filter(|s| s.cdn).count();
        assert!(requests <= case.requests, "{}: {requests} requests", case.what);
        let kept = part(home.path(), &bytes).metadata().map_or(0, |m| m.len());
        let tree = tree(home.path());
        let whole = tree.iter().any(|f| f.contains("snapshots/")) && tree.iter().any(|f| f.ends_with("refs/main"));
        let holds = match (whole, kept) {
            (true, 0) if tree.len() == 3 => Holds::All,
            (false, 0) => Holds::Nothing,
            (false, _) => Holds::Part,
            _ => panic!("{}: {tree:?}", case.what),
        };
        assert_eq!(holds, case.holds, "{}: {tree:?}", case.what);
        // An honest hub sets everything right.
        let honest = Mock::new(&[(FILE, bytes.clone())]);
        let local = pull(&honest, home.path(), &name()).unwrap();
        assert_eq!(std::fs::read(&local.files[0]).unwrap(), bytes, "{}", case.what);
        assert!(honest.sent() <= SIZE && (kept < 1 << 20 || honest.sent() < SIZE), "{}", case.what);
    }
}

#[test]
fn what_is_there_goes_on_behind_the_last_byte_that_is_good() {
    let bytes = model(SIZE, 2);
    let mib = 1usize << 20;
    // The byte that a disk or a crash has changed, and the MiB that are good.
    for (changed, good) in
        [(None, 2), (Some(0), 0), (Some(mib - 1), 0), (Some(mib), 1), (Some(2 * mib - 7), 1), (Some(2 * mib + 5), 2)]
    {
        let home = tempfile::tempdir().unwrap();
        let mock = Mock::new(&[(FILE, bytes.clone())]);
        let hub = Hub::new(options(&mock, home.path(), &[]));
        let mut log = Log { stop: Some(2_500_000), ..Log::default() };
        let name = name().parse().unwrap();
        assert!(matches!(hub.pull(&name, &mut log), Err(HubError::Interrupted)));
        let path = part(home.path(), &bytes);
        if let Some(changed) = changed {
            let mut data = std::fs::read(&path).unwrap();
            data[changed] ^= 0x10;
            std::fs::write(&path, data).unwrap();
        }
        assert_eq!(hub.cache().unfinished().len(), 1);
        let before = mock.sent();
        let mut log = Log::default();
        let local = hub.pull(&name, &mut log).unwrap();
        assert_eq!(std::fs::read(&local.files[0]).unwrap(), bytes);
        assert_eq!(mock.sent() - before, SIZE - good * mib, "{changed:?}");
        let damaged =
            log.lines.iter().any(|line| line.contains(&format!("Damaged {{ file: {FILE:?}, good: {}", good * mib)));
        assert_eq!(damaged, changed.is_some_and(|at| at < 2 * mib), "{changed:?}: {:?}", log.lines);
        let resumed = mock.seen().into_iter().rfind(|s| s.cdn).unwrap();
        assert_eq!((resumed.range, resumed.if_range.is_some()), ((good > 0).then_some(good * mib), good > 0));
    }
}

#[test]
fn two_that_want_the_same_file_fetch_it_once() {
    static WAITED: AtomicBool = AtomicBool::new(false);
    struct Waits;
    impl Observer for Waits {
        fn event(&mut self, event: Event<'_>) {
            if matches!(event, Event::Waits { .. }) {
                WAITED.store(true, Ordering::SeqCst);
            }
        }
    }
    let (home, bytes) = (tempfile::tempdir().unwrap(), model(SIZE, 3));
    let slow = |s: &Seen, _, r| {
        if s.cdn {
            std::thread::sleep(Duration::from_millis(300));
        }
        r
    };
    let mock = Mock::with(&[(FILE, bytes.clone())], "", Box::new(slow));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let hub = Hub::new(options(&mock, home.path(), &[]));
                let local = hub.pull(&name().parse().unwrap(), &mut Waits).unwrap();
                assert_eq!(std::fs::read(&local.files[0]).unwrap(), bytes);
            });
        }
    });
    assert!(WAITED.load(Ordering::SeqCst));
    assert_eq!(mock.sent(), SIZE);
}

#[test]
fn the_token_goes_to_the_hub_and_to_no_other_host() {
    let (home, bytes) = (tempfile::tempdir().unwrap(), model(1000, 4));
    let mock = Mock::new(&[(FILE, bytes)]);
    std::fs::write(home.path().join("token"), "hf_kept\n").unwrap();
    for (set, wanted) in [
        (&[][..], Some("Bearer hf_kept")),
        (&[("HF_TOKEN", "hf_given")], Some("Bearer hf_given")),
        (&[("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")], None),
    ] {
        let home_of_cache = tempfile::tempdir().unwrap();
        let mut options = options(&mock, home.path(), set);
        options.cache = home_of_cache.path().to_owned();
        let before = mock.seen().len();
        Hub::new(options).pull(&name().parse().unwrap(), &mut Log::default()).unwrap();
        for seen in &mock.seen()[before..] {
            let wanted = wanted.filter(|_| !seen.cdn);
            assert_eq!(seen.authorization.as_deref(), wanted, "{seen:?}");
        }
    }
    let mock = Mock::with(&[], "", Box::new(|_, _, _| Reply::status(401)));
    let error = Hub::new(options(&mock, home.path(), &[])).pull(&name().parse().unwrap(), &mut Log::default());
    let text = error.unwrap_err().to_string();
    assert!(text.contains("does not take the token") && !text.contains("hf_kept"), "{text}");
}

#[test]
fn a_hub_may_have_a_path_other_names_and_names_that_are_not_ascii() {
    let (home, bytes) = (tempfile::tempdir().unwrap(), model(5000, 5));
    let home = home.path().join("Äpfel und 模型");
    let file = "größe/模型-Q8_0.gguf";
    // A repository that was renamed redirects within the hub.
    let renamed = |s: &Seen, _, r: Reply| match s.path.strip_prefix("/a/mirror") {
        Some(path) if path.contains("old/name") => {
            let encoded = |c: char| {
                if c.is_ascii() { c.to_string() } else { c.to_string().bytes().map(|b| format!("%{b:02X}")).collect() }
            };
            let path: String = path.replace("old/name", REPO).chars().map(encoded).collect();
            Reply::status(307).header("Location", format!("/a/mirror{path}"))
        }
        _ => r,
    };
    let mock = Mock::with(&[(file, bytes.clone())], "/a/mirror", Box::new(renamed));
    for name in [format!("hf:{REPO}:{file}"), "hf:old/name".to_owned()] {
        let local = pull(&mock, &home, &name).unwrap();
        assert_eq!(std::fs::read(&local.files[0]).unwrap(), bytes);
        assert!(local.files[0].ends_with(file));
    }
}

#[test]
fn where_there_are_no_links_the_snapshot_holds_the_file() {
    let (home, bytes) = (tempfile::tempdir().unwrap(), model(5000, 6));
    let mock = Mock::new(&[(FILE, bytes.clone())]);
    let hub = Hub::new(options(&mock, home.path(), &[("HF_HUB_DISABLE_SYMLINKS", "1")]));
    let name = name().parse().unwrap();
    let local = hub.pull(&name, &mut Log::default()).unwrap();
    assert!(local.files[0].symlink_metadata().unwrap().is_file());
    assert_eq!(std::fs::read(&local.files[0]).unwrap(), bytes);
    assert!(tree(home.path()).iter().all(|file| !file.contains("blobs")));
    assert_eq!(hub.find(&name, &mut Log::default()).unwrap(), local);
    assert_eq!(hub.cache().remove(&name).unwrap().bytes, 5000);
    assert_eq!(tree(home.path()), [""; 0]);
}

#[test]
fn models_are_listed_and_removed_by_name() {
    let home = tempfile::tempdir().unwrap();
    let (small, large) = (model(2000, 7), model(3000, 8));
    let parts = ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"];
    let files = [("m-Q4_0.gguf", small.clone()), (parts[0], large), (parts[1], small)];
    let mock = Mock::new(&files);
    let several = pull(&mock, home.path(), &name()).unwrap_err().to_string();
    assert!(several.contains(&format!("hf:{REPO}:Q4_0:")) && several.contains("5.0 kB  Q8_0, 2 parts"), "{several}");
    let near = pull(&mock, home.path(), &format!("{}:Q4_K_M", name())).unwrap_err().to_string();
    assert!(near.contains("nearest: Q4_0"), "{near}");
    assert_eq!(tree(home.path()), [""; 0]);
    for quant in ["Q4_0", "Q8_0"] {
        pull(&mock, home.path(), &format!("{}:{quant}", name())).unwrap();
    }
    let hub = Hub::new(options(&mock, home.path(), &[]));
    let listed = || -> Vec<_> {
        hub.cache().models().iter().map(|m| (m.model.name.to_string(), m.model.bytes, m.whole)).collect()
    };
    let both = [(format!("hf:{REPO}:Q4_0"), 2000, true), (format!("hf:{REPO}:Q8_0"), 5000, true)];
    assert_eq!(listed(), both);
    let remove = |name: &str| hub.cache().remove(&name.parse().unwrap());
    assert!(matches!(remove(&name()), Err(HubError::Several { .. })));
    assert!(matches!(remove("hf:no/such"), Err(HubError::NotCached(_))));
    assert_eq!(listed(), both);
    // Both models share a blob, which stays as long as one needs it.
    assert_eq!(remove(&format!("{}:Q8_0", name())).unwrap().bytes, 3000);
    assert_eq!(listed(), both[..1]);
    let local = hub.find(&name().parse().unwrap(), &mut Log::default()).unwrap();
    assert_eq!(std::fs::read(&local.files[0]).unwrap(), files[0].1);
    assert_eq!(remove(&name()).unwrap().bytes, 2000);
    assert_eq!(tree(home.path()), [""; 0]);
}

#[test]
fn offline_the_cache_answers_and_nothing_else() {
    let (home, bytes) = (tempfile::tempdir().unwrap(), model(5000, 9));
    let mock = Mock::new(&[(FILE, bytes)]);
    let local = pull(&mock, home.path(), &name()).unwrap();
    let before = mock.seen().len();
    let hub = Hub::new(options(&mock, home.path(), &[("HF_HUB_OFFLINE", "true")]));
    assert_eq!(hub.pull(&name().parse().unwrap(), &mut Log::default()).unwrap(), local);
    let error = hub.pull(&"hf:a/b".parse().unwrap(), &mut Log::default()).unwrap_err();
    assert!(error.to_string().starts_with("hf:a/b is not in the cache, and HF_HUB_OFFLINE forbids"), "{error}");
    assert_eq!(mock.seen().len(), before);
}

#[test]
fn a_proxy_is_asked_for_the_way() {
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    static ASKED: AtomicBool = AtomicBool::new(false);
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://user:proxy-secret@{}", proxy.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in proxy.incoming().flatten() {
            std::thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut first = String::new();
                reader.read_line(&mut first).unwrap();
                let to = first.strip_prefix("CONNECT ").unwrap().split(' ').next().unwrap().to_owned();
                ASKED.store(true, Ordering::SeqCst);
                let mut line = String::new();
                while line != "\r\n" {
                    line.clear();
                    reader.read_line(&mut line).unwrap();
                }
                let target = TcpStream::connect(to).unwrap();
                let (mut up, mut down) = (target.try_clone().unwrap(), stream.try_clone().unwrap());
                down.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
                std::thread::spawn(move || std::io::copy(&mut reader, &mut up));
                let _ = std::io::copy(&mut &target, &mut down);
                let _ = stream.shutdown(std::net::Shutdown::Both);
            });
        }
    });
    let (home, bytes) = (tempfile::tempdir().unwrap(), model(5000, 10));
    let mock = Mock::new(&[(FILE, bytes)]);
    let pull = |set: &[(&str, &str)]| {
        let _ = std::fs::remove_dir_all(home.path().join("hub"));
        Hub::new(options(&mock, home.path(), set)).pull(&name().parse().unwrap(), &mut Log::default())
    };
    pull(&[("HTTP_PROXY", &address), ("NO_PROXY", "127.0.0.1")]).unwrap();
    assert!(!ASKED.load(Ordering::SeqCst));
    pull(&[("HTTP_PROXY", &address)]).unwrap();
    assert!(ASKED.load(Ordering::SeqCst));
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = pull(&[("ALL_PROXY", &format!("http://me:proxy-secret@{closed}"))]).unwrap_err().to_string();
    assert!(
        error.contains("cannot reach") && error.contains("HTTPS_PROXY") && !error.contains("proxy-secret"),
        "{error}"
    );
    let error = pull(&[("ALL_PROXY", "http://")]).unwrap_err().to_string();
    assert!(error.starts_with("ALL_PROXY is no address of a proxy"), "{error}");
}
