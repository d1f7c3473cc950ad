//! Requests to the hub: redirects, the token, proxies, retries. Every wait can be interrupted.

use std::io::Read;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use ureq::http::{HeaderMap, StatusCode, Uri};
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body, Proxy};

use super::{Event, HubError, Observer, Options};

/// Redirects that are followed.
const REDIRECTS: usize = 10;

/// How often a wait looks whether it shall end.
const POLL: Duration = Duration::from_millis(50);

/// The longest wait that a server may ask for; beyond that the user decides.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// The most that is read of an answer that describes files.
const DESCRIPTION: u64 = 64 << 20;

/// What may stand in a path as it is.
const PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// Why a request did not succeed.
pub(super) enum Trouble {
    /// It may succeed later: `reason`, and how long the server asks to wait.
    Passing { reason: String, wait: Option<Duration>, error: Box<HubError> },
    /// It will not.
    Final(HubError),
}

impl From<HubError> for Trouble {
    fn from(error: HubError) -> Self {
        Self::Final(error)
    }
}

/// An answer with a good status, at the end of all redirects that were followed.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Body,
    /// Where it came from, without what is secret.
    pub from: String,
}

impl Answer {
    /// A header as text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Bytes that the answer says it has.
    pub fn length(&self) -> Option<u64> {
        self.header("content-length")?.parse().ok()
    }

    /// Refuses a page for people, as proxies and login pages send it.
    pub fn no_page(self) -> Result<Self, HubError> {
        match self.header("content-type") {
            Some(kind) if kind.starts_with("text/html") => Err(HubError::WebPage(self.from)),
            _ => Ok(self),
        }
    }
}

/// How a request is made.
#[derive(Clone, Debug, Default)]
pub(super) struct Request {
    pub head: bool,
    /// The first byte that is wanted, and the tag of the file that earlier bytes are of.
    pub range: Option<(u64, Option<String>)>,
    /// Whether only redirects within the hub are followed.
    pub within: bool,
}

/// A connection to a hub.
pub(super) struct Client<'a> {
    agent: Agent,
    pub options: &'a Options,
}

impl<'a> Client<'a> {
    pub fn new(options: &'a Options) -> Self {
        let stall = Some(options.stall);
        let tls = TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build();
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("samebits/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(stall)
            .timeout_connect(stall)
            .timeout_recv_response(stall)
            .timeout_per_read(stall)
            .tls_config(tls)
            .build();
        Self { agent: config.new_agent(), options }
    }

    /// The address of something at the hub; `path` is encoded.
    pub fn address(&self, path: &str) -> String {
        format!("{}/{}", self.options.endpoint, utf8_percent_encode(path, PATH))
    }

    /// One request, redirects included.
    pub fn once(&self, url: &str, request: &Request, observer: &mut dyn Observer) -> Result<Answer, Trouble> {
        let mut url = url.to_owned();
        for _ in 0..=REDIRECTS {
            let answer = self.hop(&url, request, observer)?;
            let status = answer.status;
            if !status.is_redirection() || status == StatusCode::NOT_MODIFIED {
                return self.checked(answer);
            }
            let Some(to) = answer.header("location") else {
                return Err(HubError::NoHub { url: answer.from, what: "a redirect to nowhere".to_owned() }.into());
            };
            let to = joined(&url, to)
                .ok_or_else(|| HubError::NoHub { url: shown(&url), what: format!("a redirect to {}", shown(to)) })?;
            if request.within && !same_host(&to, &self.options.endpoint) {
                return Ok(answer);
            }
            if url.starts_with("https:") && !to.starts_with("https:") {
                return Err(HubError::Unsafe { from: shown(&url), to: shown(&to) }.into());
            }
            url = to;
        }
        Err(HubError::NoHub { url: shown(&url), what: format!("more than {REDIRECTS} redirects") }.into())
    }

    /// Tries until it succeeds, or will not.
    pub fn request(&self, url: &str, request: &Request, observer: &mut dyn Observer) -> Result<Answer, HubError> {
        let mut tries = Tries::brief(self.options);
        loop {
            match self.once(url, request, observer) {
                Ok(answer) => return Ok(answer),
                Err(trouble) => tries.after(trouble, observer)?,
            }
        }
    }

    /// The JSON that describes something.
    pub fn json(&self, url: &str, observer: &mut dyn Observer) -> Result<serde_json::Value, HubError> {
        let mut tries = Tries::brief(self.options);
        loop {
            let answer = match self.once(url, &Request::default(), observer) {
                Ok(answer) => answer.no_page()?,
                Err(trouble) => {
                    tries.after(trouble, observer)?;
                    continue;
                }
            };
            let from = answer.from;
            let mut reader = answer.body.into_reader().take(DESCRIPTION);
            let read = attend(observer, move || {
                let mut bytes = Vec::new();
                reader.read_to_end(&mut bytes).map(|_| bytes)
            })?;
            match read {
                Ok(bytes) => {
                    let what = |_| HubError::NoHub { url: from, what: "no JSON".to_owned() };
                    return serde_json::from_slice(&bytes).map_err(what);
                }
                Err(e) => tries.after(cut(url, &e.to_string()), observer)?,
            }
        }
    }

    /// One request without redirects.
    fn hop(&self, url: &str, request: &Request, observer: &mut dyn Observer) -> Result<Answer, Trouble> {
        let proxy = self.options.proxies.of(url)?;
        let (agent, address, request) = (self.agent.clone(), url.to_owned(), request.clone());
        // The token is the hub's alone, and never follows to another host.
        let token = self.options.token.as_ref().filter(|_| same_host(url, &self.options.endpoint)).cloned();
        let answer = attend(observer, move || {
            let mut call = if request.head { agent.head(&address) } else { agent.get(&address) };
            // Sizes and hashes are those of the file itself.
            call = call.header("Accept-Encoding", "identity");
            if let Some(token) = token {
                call = call.header("Authorization", format!("Bearer {}", token.0));
            }
            if let Some((from, tag)) = request.range {
                call = call.header("Range", format!("bytes={from}-"));
                if let Some(tag) = tag {
                    call = call.header("If-Range", tag);
                }
            }
            call.config().proxy(proxy).build().call()
        })?;
        let answer = answer.map_err(|e| unreachable(url, &e))?;
        let (parts, body) = answer.into_parts();
        Ok(Answer { status: parts.status, headers: parts.headers, body, from: shown(url) })
    }

    /// An answer with a status that says that something is wrong, as an error.
    fn checked(&self, answer: Answer) -> Result<Answer, Trouble> {
        let status = answer.status;
        let wait = answer.header("retry-after").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        let error = HubError::Status {
            url: answer.from.clone(),
            status: status.as_u16(),
            // The hub says there what it means; it belongs to a header, so it is one line.
            message: answer.header("x-error-message").map(|text| format!(": {text}")).unwrap_or_default(),
            code: answer.header("x-error-code").unwrap_or_default().to_owned(),
        };
        match status.as_u16() {
            200..=299 | 416 => Ok(answer),
            429 => {
                let seconds = wait.map_or(60, |wait| wait.as_secs());
                let error = HubError::Busy { url: answer.from, seconds };
                let passing = wait.is_none_or(|wait| wait <= LONGEST_WAIT);
                if !passing {
                    return Err(error.into());
                }
                Err(Trouble::Passing { reason: "the hub asks to wait".to_owned(), wait, error: Box::new(error) })
            }
            // All but 501, which says that it cannot be done; 520 and those behind it are of proxies before the hub.
            408 | 500 | 502..=599 => {
                let wait = wait.filter(|wait| *wait <= LONGEST_WAIT);
                Err(Trouble::Passing { reason: format!("the hub answers {status}"), wait, error: Box::new(error) })
            }
            _ => Err(error.into()),
        }
    }
}

/// Counts attempts and waits between them.
pub(super) struct Tries<'a> {
    options: &'a Options,
    failed: u32,
    /// Whether a host that cannot be reached is tried only twice: nothing has been fetched yet, and there may be no network.
    brief: bool,
}

impl<'a> Tries<'a> {
    /// For the bytes of a file.
    pub fn new(options: &'a Options) -> Self {
        Self { options, failed: 0, brief: false }
    }

    /// For what describes a file.
    fn brief(options: &'a Options) -> Self {
        Self { brief: true, ..Self::new(options) }
    }

    /// An attempt brought something: those before it no longer count.
    pub fn progress(&mut self) {
        self.failed = 0;
    }

    /// Waits for the next attempt, or gives the error where there is none.
    pub fn after(&mut self, trouble: Trouble, observer: &mut dyn Observer) -> Result<(), HubError> {
        let (reason, wait, error) = match trouble {
            Trouble::Final(error) => return Err(error),
            Trouble::Passing { reason, wait, error } => (reason, wait, error),
        };
        self.failed += 1;
        let most = if self.brief && matches!(*error, HubError::Unreachable { .. }) { 2 } else { self.options.attempts };
        if self.failed >= most {
            return Err(*error);
        }
        let wait = wait.unwrap_or(self.options.pause * 2u32.pow(self.failed - 1));
        observer.event(Event::Retry { reason: &reason, wait });
        let end = Instant::now() + wait;
        while Instant::now() < end {
            if observer.stop() {
                return Err(HubError::Interrupted);
            }
            std::thread::sleep(POLL.min(end.saturating_duration_since(Instant::now())));
        }
        Ok(())
    }
}

/// Does work in a thread of its own, so that its waits can be interrupted. The thread then ends by its time limits.
pub(super) fn attend<T: Send + 'static>(
    observer: &mut dyn Observer,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, HubError> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || sender.send(work()));
    loop {
        match receiver.recv_timeout(POLL) {
            Ok(result) => return Ok(result),
            Err(RecvTimeoutError::Timeout) if observer.stop() => return Err(HubError::Interrupted),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(HubError::Interrupted),
        }
    }
}

/// The trouble of a connection that ended early.
pub(super) fn cut(url: &str, reason: &str) -> Trouble {
    let error = HubError::Unreachable { host: host(url), reason: reason.to_owned() };
    Trouble::Passing { reason: format!("the connection ended ({reason})"), wait: None, error: Box::new(error) }
}

fn unreachable(url: &str, error: &ureq::Error) -> Trouble {
    let reason = match error {
        ureq::Error::Timeout(_) => "no answer in time".to_owned(),
        ureq::Error::HostNotFound => "there is no such host".to_owned(),
        ureq::Error::Io(e) => e.to_string(),
        other => other.to_string(),
    };
    let host = host(url);
    let error_of = |reason: &str| HubError::Unreachable { host: host.clone(), reason: reason.to_owned() };
    match error {
        ureq::Error::BadUri(_) | ureq::Error::Http(_) | ureq::Error::Tls(_) | ureq::Error::Rustls(_) => {
            Trouble::Final(error_of(&reason))
        }
        _ => Trouble::Passing { reason: format!("{host}: {reason}"), wait: None, error: Box::new(error_of(&reason)) },
    }
}

/// Proxies, as the environment names them.
#[derive(Clone, Debug, Default)]
pub(super) struct Proxies {
    https: Option<(&'static str, String)>,
    http: Option<(&'static str, String)>,
    except: Vec<String>,
}

impl Proxies {
    /// `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY`, in capitals or not.
    pub fn new(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let first = |names: [&'static str; 4]| names.into_iter().find_map(|name| Some((name, variable(name)?)));
        let except = variable("NO_PROXY").or_else(|| variable("no_proxy")).unwrap_or_default();
        Self {
            https: first(["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]),
            http: first(["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]),
            except: except.split(',').map(|entry| entry.trim().to_lowercase()).filter(|e| !e.is_empty()).collect(),
        }
    }

    /// The proxy that leads to an address.
    fn of(&self, url: &str) -> Result<Option<Proxy>, HubError> {
        let set = if url.starts_with("https:") { &self.https } else { &self.http };
        match set {
            Some((variable, proxy)) if !self.spares(&host(url)) => {
                Proxy::new(proxy).map(Some).map_err(|_| HubError::Proxy(variable))
            }
            _ => Ok(None),
        }
    }

    /// Whether a host is reached without a proxy. As in curl, a domain stands for all its hosts.
    fn spares(&self, host: &str) -> bool {
        let name = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(name, _)| name);
        self.except.iter().any(|entry| {
            let domain = entry.trim_start_matches("*.").trim_start_matches('.');
            entry == "*" || entry == host || name == domain || name.ends_with(&format!(".{domain}"))
        })
    }
}

/// An address without what is secret in it: user, password, and the signature behind `?`.
pub(super) fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            format!("{scheme}://{}{path}", authority.rsplit('@').next().unwrap_or_default())
        }
        None => url.to_owned(),
    }
}

/// `host:port` of an address, in small letters; the port only where it is named.
pub(super) fn host(url: &str) -> String {
    let shown = shown(url);
    let rest = shown.split_once("://").map_or(shown.as_str(), |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default().to_lowercase()
}

/// Whether two addresses are of the same host, by the same protocol and port.
fn same_host(a: &str, b: &str) -> bool {
    let scheme = |url: &str| url.split("://").next().unwrap_or_default().to_lowercase();
    host(a) == host(b) && scheme(a) == scheme(b)
}

/// Where a redirect leads: `to` is an address or a path.
fn joined(base: &str, to: &str) -> Option<String> {
    let base: Uri = base.parse().ok()?;
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    if to.starts_with("http://") || to.starts_with("https://") {
        return Some(to.to_owned());
    }
    if let Some(rest) = to.strip_prefix("//") {
        return Some(format!("{scheme}://{rest}"));
    }
    to.starts_with('/').then(|| format!("{scheme}://{authority}{to}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn nothing_secret_is_shown_of_an_address() {
        assert_eq!(shown("https://me:word@h.co:1/a/b?Signature=x#y"), "https://h.co:1/a/b");
        assert_eq!(host("https://me:word@H.co:1/a@b"), "h.co:1");
        assert!(same_host("https://x@h.co/a", "https://h.co/b?c"));
        for other in
            ["http://h.co/", "https://h.co:444/", "https://h.co.evil/", "https://evil/h.co", "https://h.co@evil/"]
        {
            assert!(!same_host("https://h.co/", other), "{other}");
        }
    }

    #[test]
    fn redirects_are_followed_as_they_are_written() {
        let base = "https://h.co:1/a/b";
        assert_eq!(joined(base, "/x?y").unwrap(), "https://h.co:1/x?y");
        assert_eq!(joined(base, "//c.d/x").unwrap(), "https://c.d/x");
        assert_eq!(joined(base, "http://c.d/x").unwrap(), "http://c.d/x");
        assert_eq!(joined(base, "x"), None);
    }

    #[test]
    fn proxies_are_those_of_the_environment() {
        let set = |name: &str| match name {
            "HTTPS_PROXY" => Some("http://p:1".to_owned()),
            "all_proxy" => Some("http://all:1".to_owned()),
            "NO_PROXY" => Some("local, .intern.net,*.dev, 127.0.0.1".to_owned()),
            _ => None,
        };
        let proxies = Proxies::new(&set);
        let of = |url: &str| proxies.of(url).unwrap().map(|p| p.host().to_owned());
        assert_eq!((of("https://h.co/x").unwrap(), of("http://h.co/x").unwrap()), ("p".to_owned(), "all".to_owned()));
        for spared in ["local", "a.local", "intern.net", "x.intern.net:8080", "x.dev", "127.0.0.1:99"] {
            assert_eq!(of(&format!("https://{spared}/x")), None, "{spared}");
        }
        for other in ["xlocal", "local.net", "127.0.0.2"] {
            assert!(of(&format!("https://{other}/x")).is_some(), "{other}");
        }
    }
}
