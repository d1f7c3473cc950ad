//! JSON schemas: which keywords are kept, and where in a schema something is that cannot be.

use llguidance::{JsonCompileOptions, Matcher};
use serde_json::{Map, Value, json};

use super::GrammarError;

/// Keywords that are kept.
const KEPT: [&str; 27] = [
    "$ref",
    "additionalItems",
    "additionalProperties",
    "allOf",
    "anyOf",
    "const",
    "enum",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maxProperties",
    "maximum",
    "minItems",
    "minLength",
    "minProperties",
    "minimum",
    "multipleOf",
    "oneOf",
    "pattern",
    "patternProperties",
    "prefixItems",
    "properties",
    "required",
    "type",
];

/// Keywords that say nothing about which values are valid.
const ANNOTATIONS: [&str; 12] = [
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "default",
    "definitions",
    "deprecated",
    "description",
    "examples",
    "readOnly",
    "title",
    "writeOnly",
];

/// Keywords with a schema, with a list of schemas, and with schemas by name.
const ONE: [&str; 3] = ["additionalItems", "additionalProperties", "items"];
const LISTS: [&str; 5] = ["allOf", "anyOf", "items", "oneOf", "prefixItems"];
const MAPS: [&str; 4] = ["$defs", "definitions", "patternProperties", "properties"];

/// What llguidance takes for a day or a second and is none: the 29th of February of most years, a second 60 at most times. A pattern
/// beside the format leaves these out; of a second 60, also the few that there are.
macro_rules! day {
    () => {
        concat!(
            "([0-9]{4}-(0[13-9]|1[0-2])-[0-9]{2}|[0-9]{4}-02-([01][0-9]|2[0-8])|",
            "([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)"
        )
    };
}
const EXACT: [(&str, &str); 3] = [
    ("date", concat!("^", day!(), "$")),
    ("time", "^[0-9:]{6}[0-5]"),
    ("date-time", concat!("^", day!(), "[tT][0-9:]{6}[0-5]")),
];

/// The format by which llguidance means any text.
const ANY: &str = "unknown";

/// What follows JSON of this schema, without white space.
///
/// # Errors
/// [`GrammarError::NoJson`]; [`GrammarError::Keyword`] for what is not kept; [`GrammarError::Schema`] for what cannot be.
pub(super) fn compile(
    source: &str,
    matcher: &dyn Fn(Value) -> Result<Matcher, String>,
) -> Result<Matcher, GrammarError> {
    let mut schema: Value = serde_json::from_str(source).map_err(|e| GrammarError::NoJson(e.to_string()))?;
    keywords(&schema, "")?;
    make_exact(&mut schema);
    let root = schema.as_object().cloned().unwrap_or_default();
    let make = |schema: &Value| matcher(compact(schema, &root));
    make(&schema).map_err(|reason| {
        let (pointer, reason) = blame(&schema, String::new(), reason, &make);
        GrammarError::Schema { pointer: name(&pointer), reason }
    })
}

/// A schema whose texts have no white space; what it refers to comes from `root`.
fn compact(schema: &Value, root: &Map<String, Value>) -> Value {
    let mut schema = match schema {
        Value::Object(map) => map.clone(),
        Value::Bool(true) => Map::new(),
        // Nothing is valid.
        _ => Map::from_iter([("enum".to_owned(), Value::Array(Vec::new()))]),
    };
    for key in ["$defs", "definitions"] {
        if let Some(definitions) = root.get(key) {
            schema.insert(key.to_owned(), definitions.clone());
        }
    }
    let mut schema = Value::Object(schema);
    let options = JsonCompileOptions { whitespace_flexible: false, ..JsonCompileOptions::default() };
    options.apply_to(&mut schema);
    schema
}

/// Puts the patterns of [`EXACT`] beside their formats.
fn make_exact(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    for (key, value) in map.iter_mut() {
        match value {
            Value::Object(map) if MAPS.contains(&key.as_str()) => map.values_mut().for_each(make_exact),
            Value::Array(list) if LISTS.contains(&key.as_str()) => list.iter_mut().for_each(make_exact),
            part if ONE.contains(&key.as_str()) => make_exact(part),
            _ => {}
        }
    }
    let format = map.get("format").and_then(Value::as_str);
    if let Some((_, pattern)) = EXACT.iter().find(|(name, _)| Some(*name) == format)
        && let Some(list) = map.entry("allOf").or_insert_with(|| Value::Array(Vec::new())).as_array_mut()
    {
        list.push(json!({"pattern": pattern}));
    }
}

/// The schemas within one, with their JSON pointers behind its own.
fn parts(schema: &Value) -> Vec<(String, &Value)> {
    let mut parts = Vec::new();
    for (key, value) in schema.as_object().into_iter().flatten() {
        match value {
            Value::Object(map) if MAPS.contains(&key.as_str()) => {
                parts.extend(map.iter().map(|(name, part)| (format!("/{key}/{}", escaped(name)), part)));
            }
            Value::Array(list) if LISTS.contains(&key.as_str()) => {
                parts.extend(list.iter().enumerate().map(|(i, part)| (format!("/{key}/{i}"), part)));
            }
            part if ONE.contains(&key.as_str()) => parts.push((format!("/{key}"), part)),
            _ => {}
        }
    }
    parts
}

/// A name within a JSON pointer (RFC 6901).
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// A pointer in messages.
fn name(pointer: &str) -> String {
    if pointer.is_empty() { "its root".to_owned() } else { pointer.to_owned() }
}

/// Refuses keywords that would be ignored.
fn keywords(schema: &Value, pointer: &str) -> Result<(), GrammarError> {
    let refused = |reason: &str| GrammarError::Schema { pointer: name(pointer), reason: reason.to_owned() };
    match schema {
        Value::Bool(_) => return Ok(()),
        Value::Object(map) => {
            for key in map.keys().map(String::as_str) {
                let known = KEPT.contains(&key) || ANNOTATIONS.contains(&key);
                if !known && (!key.starts_with("x-") || key == "x-guidance") {
                    let pointer = format!("{pointer}/{}", escaped(key));
                    return Err(GrammarError::Keyword { keyword: key.to_owned(), pointer });
                }
            }
        }
        _ => return Err(refused("a schema is an object, true or false")),
    }
    if schema["format"] == ANY {
        return Err(refused("Unknown format: unknown"));
    }
    parts(schema).into_iter().try_for_each(|(at, part)| keywords(part, &format!("{pointer}{at}")))
}

/// The smallest schema within one that has the same fault.
fn blame(
    schema: &Value,
    pointer: String,
    reason: String,
    make: &dyn Fn(&Value) -> Result<Matcher, String>,
) -> (String, String) {
    for (at, part) in parts(schema) {
        if let Err(own) = make(part) {
            return blame(part, format!("{pointer}{at}"), own, make);
        }
    }
    (pointer, reason)
}
