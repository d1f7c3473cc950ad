//! The configuration (variables of the environment and a file), and `samebits config`.
//!
//! An option's value is that of the command line, else of the environment, else of the file, else its default. In the file a
//! section belongs to a command; what stands before the sections belongs to all commands that have the option.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, OnceLock};

use clap::builder::{ArgPredicate, Resettable};
use clap::{Arg, ArgAction, Args, Id};
use serde_json::json;
use thiserror::Error;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::Outcome;
use super::terminal::{note, print, print_json};
use crate::hub::{SCHEME, nearest};

/// Options that the environment and the file may give, there also before the sections: those that say how something is computed,
/// not what.
const FOR_ALL: [&str; 16] = [
    "backend",
    "chunk",
    "ctx",
    "device",
    "min-p",
    "model",
    "precision",
    "quiet",
    "repeat-last-n",
    "repeat-penalty",
    "samplers",
    "seed",
    "temp",
    "threads",
    "top-k",
    "top-p",
];

/// The others that both may give: those that say how a command works, not on what. In the file they stand in a section.
const FOR_ONE: [&str; 17] = [
    "chat-template",
    "hide-thinking",
    "ignore-eos",
    "lookup",
    "n-depth",
    "n-gen",
    "n-predict",
    "n-prompt",
    "no-history",
    "no-warmup",
    "output",
    "pre",
    "quick",
    "raw",
    "repetitions",
    "system",
    "wide",
];

/// What the names of our variables begin with.
const PREFIX: &str = "SAMEBITS_";

/// Our variables that are no options: of the program, of scripts, of tests.
const OTHERS: [&str; 15] = [
    "ARCH",
    "ARITHMETIC",
    "COMMIT",
    "CONFIG",
    "CPU",
    "FAULT",
    "FUZZ_SECONDS",
    "FUZZ_SEED",
    "HUB_PYTHON",
    "PLANS",
    "PLANS_SEED",
    "PLATFORMS",
    "ROWS",
    "TEST_MATRIX_UNITS",
    "TEST_MODEL",
];

/// The options that may be set, and the variable of each.
static SETTINGS: LazyLock<Vec<(&str, String)>> = LazyLock::new(|| {
    let of = |option: &'static str| (option, format!("{PREFIX}{}", option.to_uppercase().replace('-', "_")));
    FOR_ALL.into_iter().chain(FOR_ONE).map(of).collect()
});

/// The variable of an option that may be set.
pub(super) fn variable(option: &str) -> Option<&'static str> {
    SETTINGS.iter().find(|(name, _)| *name == option).map(|(_, variable)| variable.as_str())
}

/// The variables of all options.
pub(super) fn variables() -> impl Iterator<Item = &'static str> {
    SETTINGS.iter().map(|(_, variable)| variable.as_str())
}

/// The section of names for models.
const ALIASES: &str = "aliases";

/// Whether there is no such file; a home that is no folder has none.
fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}

/// What is wrong with the file or the environment. Exit code 2.
#[derive(Debug, Error)]
pub(super) enum ConfigError {
    #[error("cannot read the configuration {path}: {reason}; --config FILE names another, --config '' none")]
    Read { path: String, reason: String },
    #[error("{place}: this is no TOML: {reason}")]
    Toml { place: String, reason: String },
    #[error("{place}: {owner} has no setting '{key}'; nearest: {nearest}")]
    Key { place: String, owner: String, key: String, nearest: String },
    #[error("the environment has {variable}, which is no setting; nearest: {nearest}")]
    Variable { variable: String, nearest: String },
    #[error("{place}: there is no command '{key}'; nearest: {nearest}")]
    Section { place: String, key: String, nearest: String },
    #[error("{place}: '{key}' cannot be {value}: {reason}")]
    Value { place: String, key: String, value: String, reason: String },
    #[error(
        "{place}: '{key}' is no alias: its name is one word without / and does not end in .gguf, and its value is a path or hf:OWNER/REPO[:QUANT|FILE]"
    )]
    Alias { place: String, key: String },
}

/// A value that the file sets.
#[derive(Debug)]
struct Setting {
    /// The command, or all.
    command: Option<String>,
    option: String,
    values: Vec<String>,
    line: usize,
}

/// What the file and the environment say.
#[derive(Debug, Default)]
pub(super) struct Config {
    /// Where it is, or would be.
    path: Option<PathBuf>,
    found: bool,
    settings: Vec<Setting>,
    /// Names of models, what they mean, and the line.
    aliases: BTreeMap<String, (String, usize)>,
    /// The variables that are set, by their options.
    environment: BTreeMap<&'static str, OsString>,
}

/// That of this process, once it is read.
static CONFIG: OnceLock<Config> = OnceLock::new();

/// What an alias means.
pub(super) fn alias(name: &str) -> Option<&'static str> {
    CONFIG.get()?.aliases.get(name).map(|(value, _)| value.as_str())
}

/// All aliases, and what they mean.
pub(super) fn aliases() -> impl Iterator<Item = (&'static str, &'static str)> {
    CONFIG.get().into_iter().flat_map(|c| c.aliases.iter().map(|(name, (value, _))| (name.as_str(), value.as_str())))
}

impl Config {
    /// Reads the environment and the file that the command line or the environment names, or that of the user, and keeps both.
    pub fn load(words: &[OsString]) -> Result<&'static Self, ConfigError> {
        let environment = environment()?;
        let config = match named(words) {
            Some(path) if path.is_empty() => Self::default(),
            Some(path) => Self::read(Path::new(&path), true)?,
            None => match dirs::config_dir() {
                Some(folder) => Self::read(&folder.join("samebits").join("config.toml"), false)?,
                None => Self::default(),
            },
        };
        Ok(CONFIG.get_or_init(|| Self { environment, ..config }))
    }

    fn read(path: &Path, must_exist: bool) -> Result<Self, ConfigError> {
        let empty = Self { path: Some(path.to_owned()), ..Self::default() };
        match std::fs::read_to_string(path) {
            Ok(text) => empty.parsed(&text),
            Err(e) if !must_exist && is_absent(&e) => Ok(empty),
            Err(e) => Err(ConfigError::Read { path: path.display().to_string(), reason: e.to_string() }),
        }
    }

    fn parsed(mut self, text: &str) -> Result<Self, ConfigError> {
        self.found = true;
        let path = self.path.clone().unwrap_or_default();
        let source = Source { text, path: &path };
        let table = DeTable::parse(text).map_err(|e| ConfigError::Toml {
            place: source.place(e.span().map_or(0, |span| span.start)),
            reason: e.message().replace('\n', ": "),
        })?;
        let commands = super::plain_command();
        for (key, value) in table.get_ref() {
            let name = key.get_ref().as_ref();
            match value.get_ref() {
                DeValue::Table(aliases) if name == ALIASES => self.add_aliases(&source, aliases)?,
                DeValue::Table(section) => {
                    let Some(command) = commands.find_subcommand(name) else {
                        let mut known: Vec<_> = commands.get_subcommands().map(clap::Command::get_name).collect();
                        known.push(ALIASES);
                        let nearest = nearest(name, &known).join(", ");
                        return Err(ConfigError::Section {
                            place: source.place_of(key),
                            key: name.to_owned(),
                            nearest,
                        });
                    };
                    let options = options([command].into_iter(), false);
                    let owner = format!("the command {name}");
                    for (key, value) in section {
                        self.add(&source, Some(name), &owner, &options, key, value)?;
                    }
                }
                _ => {
                    let options = options(commands.get_subcommands(), true);
                    self.add(&source, None, "a configuration", &options, key, value)?;
                }
            }
        }
        Ok(self)
    }

    fn add_aliases(&mut self, source: &Source<'_>, table: &DeTable<'_>) -> Result<(), ConfigError> {
        for (key, value) in table {
            let name = key.get_ref().as_ref();
            let (true, Some(value)) = (is_word(name), value.get_ref().as_str().filter(|value| !value.is_empty()))
            else {
                return Err(ConfigError::Alias { place: source.place_of(key), key: name.to_owned() });
            };
            self.aliases.insert(name.to_owned(), (source.model(value), source.line(key.span().start)));
        }
        Ok(())
    }

    /// Adds a setting of a command, or of all, that is one of these options.
    fn add(
        &mut self,
        source: &Source<'_>,
        command: Option<&str>,
        owner: &str,
        options: &BTreeMap<&str, &Arg>,
        key: &Key<'_>,
        value: &Spanned<DeValue<'_>>,
    ) -> Result<(), ConfigError> {
        let name = key.get_ref().as_ref();
        let Some(arg) = options.get(name) else {
            let known: Vec<_> = options.keys().copied().collect();
            let nearest = nearest(name, &known).join(", ");
            return Err(ConfigError::Key {
                place: source.place_of(key),
                owner: owner.to_owned(),
                key: name.to_owned(),
                nearest,
            });
        };
        let mut values = values(arg, value.get_ref()).map_err(|(value, reason)| ConfigError::Value {
            place: source.place_of(key),
            key: name.to_owned(),
            value,
            reason,
        })?;
        if name == "model" {
            // A word may be an alias that comes further down.
            values =
                values.into_iter().map(|value| if is_word(&value) { value } else { source.model(&value) }).collect();
        }
        let line = source.line(key.span().start);
        self.settings.push(Setting { command: command.map(str::to_owned), option: name.to_owned(), values, line });
        Ok(())
    }

    /// The setting of a command's option.
    fn setting(&self, command: &str, option: &str) -> Option<&Setting> {
        let of = |name: Option<&str>| self.settings.iter().find(|s| s.command.as_deref() == name && s.option == option);
        of(Some(command)).or_else(|| of(None))
    }

    /// The values of a command's option, and where they come from.
    fn values(&self, command: &str, option: &str) -> Option<(Vec<&OsStr>, String)> {
        if let (Some(value), Some(variable)) = (self.environment.get(option), variable(option)) {
            return Some((vec![value], variable.to_owned()));
        }
        let setting = self.setting(command, option)?;
        Some((setting.values.iter().map(OsStr::new).collect(), format!("file, line {}", setting.line)))
    }

    /// The commands with what the environment and the file say as their defaults. Where the command line has an option that
    /// excludes another, it counts, and the other's setting does not.
    pub fn apply(&'static self, commands: clap::Command) -> clap::Command {
        commands.mut_subcommands(|command| {
            let name = command.get_name().to_owned();
            let of = |arg: &Arg| (arg.get_id().clone(), rivals(&command, arg));
            let rivals: BTreeMap<_, _> = command.get_arguments().map(of).collect();
            command.mut_args(|mut arg| {
                let Some((values, _)) = arg.get_long().and_then(|long| self.values(&name, long)) else { return arg };
                let usual = match arg.get_default_values().first() {
                    None if is_flag(&arg) => Some("false".into()),
                    usual => usual.cloned(),
                };
                for (other, given) in rivals.get(arg.get_id()).into_iter().flatten() {
                    arg = arg.default_value_if(other.clone(), given.clone(), Resettable::from(usual.clone()));
                }
                arg.required(false).env(Resettable::Reset).default_values(values)
            })
        })
    }
}

/// The arguments of a command that exclude `arg` or are excluded by it, and how it is seen that the command line has them: a flag
/// that it has not is false, by its default.
fn rivals(command: &clap::Command, arg: &Arg) -> Vec<(Id, ArgPredicate)> {
    let excludes = |a: &Arg, b: &Arg| command.get_arg_conflicts_with(a).iter().any(|c| c.get_id() == b.get_id());
    let others = command.get_arguments().filter(|other| excludes(arg, other) || excludes(other, arg));
    let given =
        |other: &Arg| if is_flag(other) { ArgPredicate::Equals("true".into()) } else { ArgPredicate::IsPresent };
    others.map(|other| (other.get_id().clone(), given(other))).collect()
}

/// A key of the file.
type Key<'a> = Spanned<std::borrow::Cow<'a, str>>;

/// The file's text, and where it is.
struct Source<'a> {
    text: &'a str,
    path: &'a Path,
}

impl Source<'_> {
    /// The line of a byte, from 1 on.
    fn line(&self, at: usize) -> usize {
        self.text.as_bytes()[..at.min(self.text.len())].iter().filter(|b| **b == b'\n').count() + 1
    }

    fn place(&self, at: usize) -> String {
        format!("{}, line {}", self.path.display(), self.line(at))
    }

    fn place_of(&self, key: &Key<'_>) -> String {
        self.place(key.span().start)
    }

    /// A model as the file names it: a path is relative to the file's folder, and may begin with `~/`.
    fn model(&self, value: &str) -> String {
        match (value.strip_prefix("~/"), dirs::home_dir(), self.path.parent()) {
            _ if value.starts_with(SCHEME) => value.to_owned(),
            (Some(rest), Some(home), _) => home.join(rest).display().to_string(),
            (None, _, Some(folder)) => folder.join(value).display().to_string(),
            _ => value.to_owned(),
        }
    }
}

/// Whether this can be the name of an alias.
fn is_word(name: &str) -> bool {
    !name.is_empty() && !name.contains(['/', '\\', ':']) && !name.ends_with(".gguf")
}

/// The options of commands that may stand in the file.
fn options<'a>(commands: impl Iterator<Item = &'a clap::Command>, for_all: bool) -> BTreeMap<&'a str, &'a Arg> {
    let mut options = BTreeMap::new();
    for arg in commands.flat_map(clap::Command::get_arguments) {
        if let Some(long) = arg.get_long().filter(|long| is_setting(long, for_all)) {
            options.entry(long).or_insert(arg);
        }
    }
    options
}

/// Whether an option may stand in the file, in a section or before all.
fn is_setting(option: &str, for_all: bool) -> bool {
    FOR_ALL.contains(&option) || (!for_all && FOR_ONE.contains(&option))
}

fn is_flag(arg: &Arg) -> bool {
    !matches!(arg.get_action(), ArgAction::Set | ArgAction::Append)
}

/// Our variables that set options. One that means nothing is an error: its setting would have no effect.
fn environment() -> Result<BTreeMap<&'static str, OsString>, ConfigError> {
    let mut found = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        let Some((variable, word)) = name.to_str().and_then(|name| Some((name, name.strip_prefix(PREFIX)?))) else {
            continue;
        };
        match SETTINGS.iter().find(|(_, of)| of == variable) {
            Some((option, _)) => drop(found.insert(*option, value)),
            None if OTHERS.contains(&word) => {}
            None => {
                let known: Vec<_> = variables().filter_map(|name| name.strip_prefix(PREFIX)).chain(OTHERS).collect();
                let nearest: Vec<_> = nearest(word, &known).iter().map(|word| format!("{PREFIX}{word}")).collect();
                return Err(ConfigError::Variable { variable: variable.to_owned(), nearest: nearest.join(", ") });
            }
        }
    }
    Ok(found)
}

/// The file that `--config` or `SAMEBITS_CONFIG` names; whatever else is wrong with the command line is said later.
fn named(words: &[OsString]) -> Option<OsString> {
    let optional = |command: clap::Command| command.mut_args(|arg| arg.required(false));
    let commands = super::plain_command().mut_subcommands(optional).ignore_errors(true);
    let matches = commands.try_get_matches_from(words).ok();
    let given = matches.and_then(|matches| {
        let of = |matches: &clap::ArgMatches| matches.try_get_one::<OsString>("config").ok().flatten().cloned();
        of(&matches).or_else(|| of(matches.subcommand()?.1))
    });
    given.or_else(|| std::env::var_os("SAMEBITS_CONFIG"))
}

/// A value as a command line would give it.
fn text(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Boolean(truth) => Some(truth.to_string()),
        DeValue::Integer(n) if n.radix() == 10 => Some(n.as_str().to_owned()),
        DeValue::Integer(n) => i128::from_str_radix(n.as_str(), n.radix()).ok().map(|n| n.to_string()),
        DeValue::Float(x) => Some(x.as_str().to_owned()),
        _ => None,
    }
}

/// The values of an option, or which one is wrong and why.
fn values(arg: &Arg, value: &DeValue<'_>) -> Result<Vec<String>, (String, String)> {
    let list = matches!(arg.get_action(), ArgAction::Append) || arg.get_value_delimiter().is_some();
    let needed = if list { "a value or a list of values is needed" } else { "one value is needed" };
    let one = |value: &DeValue<'_>| text(value).ok_or_else(|| (value.type_str().to_owned(), needed.to_owned()));
    let values = match value {
        DeValue::Array(array) if list => {
            array.iter().map(|value| one(value.get_ref())).collect::<Result<Vec<_>, _>>()?
        }
        other => vec![one(other)?],
    };
    for value in &values {
        check(arg, value).map_err(|reason| (format!("'{value}'"), reason))?;
    }
    Ok(values)
}

/// Checks a value as the option would.
fn check(arg: &Arg, value: &str) -> Result<(), String> {
    if is_flag(arg) {
        return if ["true", "false"].contains(&value) { Ok(()) } else { Err("true or false is needed".to_owned()) };
    }
    let mut alone =
        Arg::new("value").long("value").allow_hyphen_values(true).value_parser(arg.get_value_parser().clone());
    if let Some(delimiter) = arg.get_value_delimiter() {
        alone = alone.value_delimiter(delimiter);
    }
    let command = clap::Command::new("check").no_binary_name(true).arg(alone);
    command.try_get_matches_from([format!("--value={value}")]).map(drop).map_err(|e| {
        let possible = arg.get_possible_values();
        let names: Vec<_> = possible.iter().map(clap::builder::PossibleValue::get_name).collect();
        match std::error::Error::source(&e) {
            _ if !names.is_empty() => format!("it is one of {}", names.join(", ")),
            Some(source) => source.to_string(),
            None => "a value is needed".to_owned(),
        }
    })
}

#[derive(Args, Debug)]
#[command(after_help = "docs/config.md explains the file.")]
pub(super) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A value that is in force.
struct InForce {
    option: String,
    value: Option<String>,
    from: String,
    commands: Vec<String>,
}

/// Prints which settings are in force, and where each comes from.
pub(super) fn run(a: &Arguments) -> Outcome {
    let config = CONFIG.get_or_init(Config::default);
    let list = in_force(config);
    let path = config.path.as_ref().map(|path| path.display().to_string());
    if a.json {
        let settings: Vec<_> = list
            .iter()
            .map(|s| json!({"option": s.option, "value": s.value, "from": s.from, "commands": s.commands}))
            .collect();
        let aliases: serde_json::Map<_, _> =
            config.aliases.iter().map(|(name, (v, _))| (name.clone(), json!(v))).collect();
        return Ok(print_json(
            &json!({"file": path, "exists": config.found, "aliases": aliases, "settings": settings}),
        )?);
    }
    match &path {
        Some(path) if config.found => note!("configuration: {path}"),
        Some(path) => note!("there is no configuration {path}; docs/config.md shows one"),
        None => note!("no configuration is read"),
    }
    for (name, (value, line)) in &config.aliases {
        print(&format!("{:<16} {value}  (file, line {line})", format!("alias {name}")))?;
    }
    for s in &list {
        let value = s.value.as_deref().unwrap_or("-");
        print(&format!("{:<16} {value:<12} {:<26} {}", s.option, s.from, s.commands.join(" ")))?;
    }
    Ok(())
}

/// The settings of all commands; those of equal value and origin are one.
fn in_force(config: &Config) -> Vec<InForce> {
    let mut list: Vec<InForce> = Vec::new();
    for command in super::plain_command().get_subcommands() {
        for arg in command.get_arguments() {
            let Some(option) = arg.get_long().filter(|long| is_setting(long, false)) else { continue };
            let (values, from) = config.values(command.get_name(), option).unwrap_or_else(|| {
                (arg.get_default_values().iter().map(|value| value.as_os_str()).collect(), "default".to_owned())
            });
            let values: Vec<_> = values.iter().map(|value| value.to_string_lossy()).collect();
            let value = Some(values.join(",")).filter(|value| !value.is_empty());
            let commands = vec![command.get_name().to_owned()];
            match list.iter_mut().find(|s| s.option == option && s.value == value && s.from == from) {
                Some(same) => same.commands.extend(commands),
                None => list.push(InForce { option: option.to_owned(), value, from, commands }),
            }
        }
    }
    list.sort_by(|a, b| a.option.cmp(&b.option));
    list
}
