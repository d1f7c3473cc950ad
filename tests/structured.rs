//! Texts that keep to a form: what is complete is valid, whatever the schema, the seed and the backend.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::path::Path;

use common::{Random, rewritten, samebits, turn};
use predicates::prelude::*;
use predicates::str::contains;
use samebits::backend::gpu::Api;
use samebits::chat::Message;
use samebits::gguf::{Array, Gguf, Value as GgufValue};
use samebits::grammar::{Constraint, Grammar, GrammarError, Grammars, Kind, Thinking};
use samebits::model::Model;
use samebits::tokenizer::Tokenizer;
use samebits::{Llm, OpenOptions, StopReason, Text, Wanted};
use serde_json::{Map, Value, json};

fn stories(backend: Wanted) -> Llm {
    let options = OpenOptions { backend, context: Some(256), ..OpenOptions::default() };
    options.run(Model::stories().unwrap()).unwrap()
}

/// A schema that a small model can end: strings and arrays have bounds.
fn schema(random: &mut Random, depth: u32) -> Value {
    let kinds = if depth == 0 { 10 } else { 18 };
    let few = |random: &mut Random| random.word() as usize % 3;
    let text = |random: &mut Random| ["fox", "a b", "é", "\"q\"", "", "x\\y", "日本"][random.word() as usize % 7];
    match random.word() % kinds {
        0 => json!({"type": "null"}),
        1 => json!({"type": "boolean"}),
        2 => json!({"type": "integer", "minimum": -20 - few(random) as i64, "maximum": few(random) * 50}),
        3 => {
            json!({"type": "integer", "exclusiveMinimum": 3, "maximum": 1000, "multipleOf": ([1, 5][random.word() as usize % 2])})
        }
        4 => json!({"type": "number", "minimum": -1.5, "maximum": 2.25}),
        5 => json!({"type": "string", "minLength": few(random), "maxLength": 6}),
        6 => {
            json!({"type": "string", "pattern": (["^[a-f]{2,4}$", "^(fox|hen)-[0-9]$", "^a.c$"][random.word() as usize % 3])})
        }
        7 => json!({"enum": [text(random), few(random), null, {"a": [true]}]}),
        8 => json!({"const": [text(random), {"k": text(random)}]}),
        9 => {
            json!({"type": "string", "format": (["date", "time", "uuid", "ipv4", "date-time"][random.word() as usize % 5])})
        }
        10 => {
            let least = few(random);
            json!({"type": "array", "items": schema(random, depth - 1), "minItems": least, "maxItems": least + few(random)})
        }
        11 => json!({
            "type": "array", "prefixItems": [schema(random, depth - 1), schema(random, depth - 1)], "items": false, "minItems": few(random)
        }),
        12 => json!({"anyOf": [schema(random, depth - 1), schema(random, depth - 1)]}),
        13 => json!({"$ref": "#/$defs/shared"}),
        14 => {
            json!({"oneOf": [{"type": "null"}, {"type": "boolean"}, {"type": "integer", "minimum": 0, "exclusiveMaximum": 30}]})
        }
        15 => {
            json!({"allOf": [{"type": "string", "maxLength": 5}, {"minLength": 1 + few(random), "pattern": "^[a-z]+$"}]})
        }
        16 => json!({
            "type": "object", "patternProperties": {"^k[0-9]$": schema(random, depth - 1)}, "additionalProperties": false,
            "properties": {"name": {"type": "string", "maxLength": 3}}, "required": ["name"], "maxProperties": 2
        }),
        _ => {
            let names: Vec<_> =
                ["name", "age", "a b", "é", "x\"y"].into_iter().filter(|_| random.word().is_multiple_of(2)).collect();
            let properties: Map<String, Value> =
                names.iter().map(|name| ((*name).to_owned(), schema(random, depth - 1))).collect();
            let required: Vec<_> = names.iter().filter(|_| random.word().is_multiple_of(2)).collect();
            json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
        }
    }
}

fn with_definitions(random: &mut Random) -> Value {
    let mut schema = schema(random, 2);
    schema["$defs"] = json!({"shared": {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}});
    schema
}

/// Whether a value is valid for a schema that [`schema`] has made; `root` has what it refers to.
fn is_valid(value: &Value, schema: &Value, root: &Value) -> bool {
    let Some(map) = schema.as_object() else { return schema == true };
    let list = |part: &Value| part.as_array().unwrap().clone();
    let number = |part: &Value| part.as_f64().unwrap();
    map.iter().all(|(keyword, part)| match (keyword.as_str(), value) {
        ("type", _) => match part.as_str().unwrap() {
            "null" => value.is_null(),
            "boolean" => value.is_boolean(),
            "integer" => value.as_f64().is_some_and(|x| x.fract() == 0.0),
            "number" => value.is_number(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            other => panic!("{other}"),
        },
        ("minimum", Value::Number(x)) => x.as_f64() >= Some(number(part)),
        ("maximum", Value::Number(x)) => x.as_f64() <= Some(number(part)),
        ("exclusiveMinimum", Value::Number(x)) => x.as_f64() > Some(number(part)),
        ("multipleOf", Value::Number(x)) => x.as_f64().unwrap() % number(part) == 0.0,
        ("minLength", Value::String(text)) => text.chars().count() as f64 >= number(part),
        ("maxLength", Value::String(text)) => text.chars().count() as f64 <= number(part),
        ("pattern", Value::String(text)) => matches(part.as_str().unwrap(), text),
        ("format", Value::String(text)) => matches(
            match part.as_str().unwrap() {
                "date" => "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$",
                "time" => {
                    r"^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?([zZ]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
                }
                "date-time" => r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[tT][0-9]{2}:[0-9]{2}:[0-5][0-9]",
                "uuid" => "^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$",
                "ipv4" => r"^((25[0-5]|(2[0-4]|1?[0-9])?[0-9])(\.|$)){4}$",
                other => panic!("{other}"),
            },
            text,
        ),
        ("enum", _) => list(part).contains(value),
        ("const", _) => part == value,
        ("items", Value::Array(values)) => {
            let before = map.get("prefixItems").map_or(0, |prefix| list(prefix).len());
            values.iter().skip(before).all(|value| is_valid(value, part, root))
        }
        ("prefixItems", Value::Array(values)) => {
            values.iter().zip(list(part)).all(|(v, part)| is_valid(v, &part, root))
        }
        ("minItems", Value::Array(values)) => values.len() as f64 >= number(part),
        ("maxItems", Value::Array(values)) => values.len() as f64 <= number(part),
        ("exclusiveMaximum", Value::Number(x)) => x.as_f64() < Some(number(part)),
        ("maxProperties", Value::Object(values)) => values.len() as f64 <= number(part),
        ("patternProperties", Value::Object(values)) => part.as_object().unwrap().iter().all(|(pattern, part)| {
            values.iter().filter(|(name, _)| matches(pattern, name)).all(|(_, value)| is_valid(value, part, root))
        }),
        ("allOf", _) => list(part).iter().all(|part| is_valid(value, part, root)),
        ("oneOf", _) => list(part).iter().filter(|part| is_valid(value, part, root)).count() == 1,
        ("anyOf", _) => list(part).iter().any(|part| is_valid(value, part, root)),
        ("$ref", _) => is_valid(value, root.pointer(&part.as_str().unwrap()[1..]).unwrap(), root),
        ("properties", Value::Object(values)) => {
            values.iter().all(|(name, value)| part.get(name).is_none_or(|part| is_valid(value, part, root)))
        }
        ("required", Value::Object(values)) => {
            list(part).iter().all(|name| values.contains_key(name.as_str().unwrap()))
        }
        ("additionalProperties", Value::Object(values)) => {
            assert_eq!(part, false);
            let patterns = map.get("patternProperties").and_then(Value::as_object);
            let by_pattern =
                |name: &String| patterns.is_some_and(|all| all.keys().any(|pattern| matches(pattern, name)));
            values.keys().all(|name| map["properties"].get(name).is_some() || by_pattern(name))
        }
        ("$defs", _) => true,
        (
            "minimum"
            | "maximum"
            | "exclusiveMinimum"
            | "multipleOf"
            | "minLength"
            | "maxLength"
            | "pattern"
            | "format"
            | "exclusiveMaximum"
            | "maxProperties"
            | "patternProperties"
            | "items"
            | "prefixItems"
            | "minItems"
            | "maxItems"
            | "properties"
            | "required"
            | "additionalProperties",
            _,
        ) => true,
        (other, _) => panic!("{other}"),
    })
}

fn matches(pattern: &str, text: &str) -> bool {
    predicates::str::is_match(pattern).unwrap().eval(text)
}

fn make(llm: &mut Llm, schema: &Value, temperature: f32, seed: u64) -> Text {
    let prompt = llm.tokenizer().bos().unwrap_or(1);
    let form = Grammar::new(Kind::JsonSchema, schema.to_string());
    let generate = llm.generate_from(&[prompt]).grammar(form).temperature(temperature).seed(seed);
    generate.max_tokens(90).text().unwrap_or_else(|e| panic!("{schema}: {e}"))
}

/// 320 schemas: every complete output is valid, drawn and greedy, and says that it is complete; what is cut says so. The pairs are left for
/// `scripts/test`, which gives them to Python's jsonschema.
#[test]
fn every_complete_output_is_valid() {
    let (mut llm, mut random) = (stories(Wanted::Cpu), Random(20));
    let (mut complete, mut cut, mut pairs) = (0, 0, String::new());
    for i in 0..320u64 {
        let schema = with_definitions(&mut random);
        let temperature = if i.is_multiple_of(4) { 0.0 } else { 1.0 };
        let text = make(&mut llm, &schema, temperature, i);
        let value: Option<Value> = serde_json::from_str(&text.text).ok();
        if text.complete == Some(true) {
            complete += 1;
            let value = value.unwrap_or_else(|| panic!("{schema} {}", text.text));
            assert!(is_valid(&value, &schema, &schema), "{schema}: {value}");
            pairs += &format!("{}\n", json!([schema, value]));
            assert!(matches!(text.stop_reason, StopReason::Complete | StopReason::EndOfText));
        } else {
            cut += 1;
            assert_eq!((text.complete, text.stop_reason), (Some(false), StopReason::Length), "{schema}: {}", text.text);
        }
    }
    assert!(complete >= 240, "only {complete} outputs are complete, {cut} are cut");
    std::fs::write(Path::new(env!("CARGO_TARGET_TMPDIR")).join("structured.jsonl"), pairs).unwrap();
}

/// A GPU draws from the same logits under the same masks.
#[test]
fn a_gpu_gives_the_same_text() {
    let mut random = Random(7);
    let schemas: Vec<_> = (0..6).map(|_| with_definitions(&mut random)).collect();
    let run = |mut llm: Llm| {
        let one = |(i, schema): (usize, &Value)| {
            let text = make(&mut llm, schema, if i.is_multiple_of(2) { 0.0 } else { 1.0 }, i as u64);
            (text.text, text.tokens, text.logits_hash)
        };
        schemas.iter().enumerate().map(one).collect::<Vec<_>>()
    };
    let cpu = run(stories(Wanted::Cpu));
    let _turn = turn();
    assert_eq!(run(stories(Wanted::Gpu(Api::Any))), cpu);
}

/// Grammars and regular expressions: what is complete is of the language.
#[test]
fn grammars_and_expressions_are_kept() {
    let mut llm = stories(Wanted::Cpu);
    let list = "root ::= item (\", \" item){0,3}\nitem ::= [a-c]+ | \"\\\"\" [^\"\\\\]{1,3} \"\\\"\" # a list";
    let lark = "start: greeting \" \" NAME\ngreeting: \"Hello\" | \"Bye\"\nNAME: /[A-Z][a-z]{1,5}/";
    let expected = [
        (Kind::Gbnf, list, r#"^([a-c]+|"[^"\\]{1,3}")(, ([a-c]+|"[^"\\]{1,3}")){0,3}$"#),
        (Kind::Lark, lark, "^(Hello|Bye) [A-Z][a-z]{1,5}$"),
        (Kind::Regex, "(yes|no)( [0-9]{2})?", "^(yes|no)( [0-9]{2})?$"),
    ];
    for (kind, source, pattern) in expected {
        let mut complete = 0;
        for seed in 0..12 {
            let generate = llm.generate("Once").grammar(Grammar::new(kind, source)).temperature(1.0).seed(seed);
            let text = generate.max_tokens(40).text().unwrap();
            if text.complete == Some(true) {
                complete += 1;
                assert!(matches(pattern, &text.text), "{kind:?}: {:?}", text.text);
            }
        }
        assert!(complete >= 6, "{kind:?}: {complete} are complete");
    }
}

/// What would be ignored, or cannot be kept, is an error that says where.
#[test]
fn what_cannot_be_kept_is_an_error_with_its_place() {
    let tokenizer = Tokenizer::from_gguf(&Model::stories_file().unwrap()).unwrap();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let error = |schema: &Value| match grammars.constraint(&Grammar::new(Kind::JsonSchema, schema.to_string())) {
        Ok(_) => panic!("{schema} is taken"),
        Err(error) => error,
    };
    let within = |part: Value| json!({"type": "object", "properties": {"a/b": {"items": part}}});
    for keyword in [
        "not",
        "if",
        "then",
        "dependentRequired",
        "dependentSchemas",
        "propertyNames",
        "contains",
        "minContains",
        "uniqueItems",
        "unevaluatedProperties",
        "unevaluatedItems",
        "$dynamicRef",
        "$vocabulary",
        "nullable",
        "propertis",
        "x-guidance",
    ] {
        let found = error(&within(json!({keyword: {}})));
        let pointer = format!("/properties/a~1b/items/{keyword}");
        assert_eq!(found, GrammarError::Keyword { keyword: keyword.to_owned(), pointer });
    }
    for part in [
        json!({"type": "string", "format": "no-such-format"}),
        json!({"type": "string", "format": "unknown"}),
        json!({"type": "string", "pattern": "("}),
        json!({"type": "integer", "minimum": 5, "maximum": 3}),
        json!({"type": "nonsense"}),
        json!({"$ref": "#/$defs/none"}),
        json!({"oneOf": [{"type": "string"}, {"type": "string", "minLength": 2}]}),
        json!(false),
    ] {
        let schema = json!({"type": "array", "minItems": 1, "prefixItems": [{"type": "null"}, part], "items": false, "minItems": 2});
        match error(&schema) {
            GrammarError::Schema { pointer, .. } => assert_eq!(pointer, "/prefixItems/1", "{part}"),
            other => panic!("{part}: {other}"),
        }
    }
    assert!(matches!(error(&json!(7)), GrammarError::Schema { .. }));
    let no_json = grammars.constraint(&Grammar::new(Kind::JsonSchema, "{"));
    assert!(matches!(no_json.err(), Some(GrammarError::NoJson(_))));
    for (kind, source) in [(Kind::Lark, "start: nothing"), (Kind::Regex, "("), (Kind::Gbnf, "root = x")] {
        assert!(grammars.constraint(&Grammar::new(kind, source)).is_err(), "{source}");
    }
    // Annotations change nothing.
    let annotated =
        json!({"type": "null", "title": "t", "description": "d", "x-order": 1, "examples": [1], "deprecated": true});
    assert!(grammars.constraint(&Grammar::new(Kind::JsonSchema, annotated.to_string())).is_ok());
}

/// The story model as one that thinks: its comma is the token `<think>` and its full stop `</think>`, as user-defined tokens (Qwen 3
/// has them like that). Greedily it begins with "<think>" behind "Once upon a time", and thinks to the end of the sentence.
fn thinker(path: &Path, template: &str, end: Option<u32>) {
    let source = Model::stories_file().unwrap();
    let Some(GgufValue::Array(Array::String(mut tokens))) = source.get("tokenizer.ggml.tokens").cloned() else {
        panic!()
    };
    let Some(GgufValue::Array(Array::I32(mut kinds))) = source.get("tokenizer.ggml.token_type").cloned() else {
        panic!()
    };
    for (old, new) in [(",", "<think>"), (".", "</think>")] {
        let id = tokens.iter().position(|token| token == old).unwrap();
        (tokens[id], kinds[id]) = (new.to_owned(), 4);
    }
    // One that would end a thought and begin the answer.
    let last = tokens.len() - 1;
    tokens[last] = ">7".to_owned();
    let mut metadata = vec![
        ("tokenizer.ggml.tokens", GgufValue::Array(Array::String(tokens))),
        ("tokenizer.ggml.token_type", GgufValue::Array(Array::I32(kinds))),
        ("tokenizer.chat_template", GgufValue::String(template.to_owned())),
    ];
    metadata.extend(end.map(|id| ("tokenizer.ggml.eos_token_id", GgufValue::U32(id))));
    std::fs::write(path, rewritten(&source, &metadata, &[])).unwrap();
}

/// One whose template leaves it to the model whether it thinks, and one whose template begins the thought.
const TEMPLATES: [&str; 2] = ["{{ messages[-1].content }}{# </think> #}", "{{ messages[-1].content }}<think>\n"];

const ANSWER: &str = r#"{"type": "object", "properties": {"ok": {"enum": [true, false, "fox"]}}, "required": ["ok"], "additionalProperties": false}"#;

/// Of a model that thinks the answer has the form, not the thought.
#[test]
fn the_form_begins_behind_what_a_model_thinks() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("thinker.gguf");
    let schema: Value = serde_json::from_str(ANSWER).unwrap();
    let options = OpenOptions { backend: Wanted::Cpu, context: Some(256), ..OpenOptions::default() };
    for (i, template) in TEMPLATES.into_iter().enumerate() {
        let mut ends = None;
        // The second time a token of the thought ends a text: it may not do so within the thought.
        for _ in 0..2 {
            thinker(&path, template, ends);
            let mut llm = options.open(&path).unwrap();
            let mut thoughts = 0;
            for seed in 0..12 {
                let generate = llm.chat(&[Message::new("user", "Once upon a time")]).unwrap();
                let generate = generate.grammar(Grammar::new(Kind::JsonSchema, ANSWER)).seed(seed);
                let text = generate.temperature(seed as f32 * 0.1).max_tokens(80).text().unwrap();
                let thought = text.thought().unwrap_or_default().to_owned();
                thoughts += usize::from(!thought.is_empty());
                assert!(i == 0 || text.thought().is_some());
                if seed == 0 {
                    assert!(!thought.is_empty(), "{}", text.text);
                    ends.get_or_insert(text.tokens[2]);
                }
                match text.complete {
                    Some(true) => {
                        let answer =
                            serde_json::from_str(text.answer()).unwrap_or_else(|e| panic!("{e}: {}", text.text));
                        assert!(is_valid(&answer, &schema, &schema), "{}", text.text);
                    }
                    complete => {
                        assert_eq!((complete, text.stop_reason), (Some(false), StopReason::Length), "{}", text.text)
                    }
                }
            }
            assert!(thoughts >= 6, "it thought {thoughts} times");
        }
    }
}

/// A token that ends a thought and goes on is refused: what it goes on with would not be held to the form.
#[test]
fn no_token_ends_a_thought_and_begins_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("thinker.gguf");
    thinker(&path, TEMPLATES[1], None);
    let tokenizer = Tokenizer::from_gguf(&Gguf::open(&path).unwrap()).unwrap();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let grammar = Grammar { thinking: Thinking::Begun, ..Grammar::new(Kind::JsonSchema, ANSWER) };
    let mut constraint = grammars.constraint(&grammar).unwrap();
    let id =
        |text: &str| (0..tokenizer.vocab_size() as u32).find(|id| tokenizer.decode(&[*id]) == text.as_bytes()).unwrap();
    let allowed =
        |constraint: &mut Box<dyn Constraint>, text: &str| constraint.allowed().unwrap().unwrap().has(id(text));
    assert!(allowed(&mut constraint, ">7") && allowed(&mut constraint, ">") && allowed(&mut constraint, "</think>"));
    assert!(!constraint.allowed().unwrap().unwrap().has(tokenizer.eos().unwrap()));
    for c in "so </think".chars() {
        constraint.accept(id(&c.to_string())).unwrap();
    }
    assert!(!allowed(&mut constraint, ">7") && allowed(&mut constraint, ">"));
    constraint.accept(id(">")).unwrap();
    assert!(allowed(&mut constraint, "{") && !allowed(&mut constraint, ">"));
}

/// A program that reads the answer from a pipe gets what has the form; `--json` has the thought, too.
#[test]
fn a_pipe_gets_the_answer_without_the_thought() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("thinker.gguf");
    let record = folder.path().join("record.json");
    for (template, command) in TEMPLATES.into_iter().flat_map(|t| [(t, "chat"), (t, "generate")]) {
        thinker(&path, template, None);
        let run = |extra: &[&str]| {
            let mut program = samebits();
            program.args([command, "Once upon a time", "--temp", "0", "-n", "80", "--backend", "cpu", "-m"]).arg(&path);
            if command == "generate" {
                program.arg("--chat");
            }
            program.args(extra).assert().success().get_output().stdout.clone()
        };
        let plain: Value = serde_json::from_slice(&run(&["--json-schema", ANSWER])).unwrap();
        let json: Value = serde_json::from_slice(&run(&["--json-schema", ANSWER, "--json"])).unwrap();
        assert_eq!(serde_json::from_str::<Value>(json["text"].as_str().unwrap()).unwrap(), plain);
        assert!(json["thinking"].as_str().unwrap().starts_with("there was"), "{json}");
        // Without a form all is shown.
        let free = String::from_utf8(run(&[])).unwrap();
        assert!(free.contains("there was") && free.contains("</think>"), "{free}");
    }
    let mut program = samebits();
    program.args([
        "generate",
        "Once upon a time",
        "--chat",
        "-n",
        "80",
        "--json-schema",
        ANSWER,
        "--backend",
        "cpu",
        "-m",
    ]);
    program.arg(&path).arg("--record").arg(&record).assert().success();
    samebits().arg("replay").arg(&record).arg("-m").arg(&path).args(["--backend", "cpu"]).assert().success();
}

/// Days and seconds that there are not: formats are as exact as in a validator, also in parts of a schema.
#[test]
fn dates_and_times_exist() {
    let tokenizer = Tokenizer::from_gguf(&Model::stories_file().unwrap()).unwrap();
    let grammars = Grammars::new(&tokenizer).unwrap();
    let id = |byte: u8| (0..tokenizer.vocab_size() as u32).find(|id| tokenizer.decode(&[*id]) == [byte]).unwrap();
    let takes = |schema: &Value, text: &str| {
        let mut constraint = grammars.constraint(&Grammar::new(Kind::JsonSchema, schema.to_string())).unwrap();
        text.bytes().all(|byte| {
            let allowed = constraint.allowed().unwrap().unwrap().has(id(byte));
            allowed && constraint.accept(id(byte)).is_ok()
        }) && (constraint.is_complete() || constraint.allowed().unwrap().unwrap().has(tokenizer.eos().unwrap()))
    };
    let cases = [
        ("date", "2023-02-28", true),
        ("date", "2024-02-29", true),
        ("date", "2000-02-29", true),
        ("date", "2023-02-29", false),
        ("date", "1900-02-29", false),
        ("date", "2024-02-30", false),
        ("date", "2024-04-31", false),
        ("date", "2024-12-31", true),
        ("time", "23:59:59Z", true),
        ("time", "22:13:60.4-17:39", false),
        ("time", "24:00:00Z", false),
        ("date-time", "2024-02-29T10:00:00.5+01:00", true),
        ("date-time", "2023-02-29T10:00:00Z", false),
        ("date-time", "2023-02-28T10:00:60Z", false),
    ];
    for (format, text, is_one) in cases {
        let plain = json!({"type": "string", "format": format});
        assert_eq!(takes(&plain, &format!("{text:?}")), is_one, "{format} {text}");
        let within = json!({
            "type": "array", "minItems": 1, "maxItems": 1, "items": {"$ref": "#/$defs/x"},
            "$defs": {"x": {"type": "string", "format": format, "allOf": [{"maxLength": 40}]}}
        });
        assert_eq!(takes(&within, &format!("[{text:?}]")), is_one, "{format} {text}, within");
    }
}

#[test]
fn the_command_line_keeps_to_a_form_and_says_what_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("schema.json");
    let schema = r#"{"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"enum": [1, 2]}}, "required": ["ok", "n"], "additionalProperties": false}"#;
    std::fs::write(&file, schema).unwrap();
    let run = |extra: &[&str]| {
        let mut command = samebits();
        command.args(["generate", "The answer is", "--backend", "cpu"]).args(extra).assert()
    };
    let name = file.to_str().unwrap();
    for given in [name, schema] {
        let output = run(&["--json-schema", given, "-q"]).success().get_output().stdout.clone();
        let text = String::from_utf8(output).unwrap();
        assert!(text.starts_with("{\"ok\":") && text.ends_with("}\n") && !text.contains(' '), "{text}");
    }
    let json = run(&["--json-schema", schema, "--json"]).success();
    let json: Value = serde_json::from_slice(&json.get_output().stdout).unwrap();
    assert_eq!((&json["complete"], &json["stop_reason"]), (&true.into(), &"complete".into()));
    let cut = run(&["--json-schema", schema, "--json", "-n", "2"]).success();
    let cut = cut.stderr(contains("the text is cut and does not have the form")).get_output().stdout.clone();
    let cut: Value = serde_json::from_slice(&cut).unwrap();
    assert_eq!((&cut["complete"], &cut["stop_reason"]), (&false.into(), &"length".into()));
    run(&["--regex", "(yes|no)"]).success().stdout(predicates::str::is_match("^(yes|no)\n$").unwrap());
    run(&["--grammar", "root ::= \"a\" | \"b\""]).success().stdout(predicates::str::is_match("^[ab]\n$").unwrap());
    run(&["--json-schema", r#"{"not": {}}"#])
        .code(1)
        .stdout("")
        .stderr(contains("has not at /not, which is not supported"));
    run(&["--json-schema", "nothing.json"]).code(1).stderr(contains("cannot read nothing.json"));
    run(&["--grammar", "root = x"]).code(1).stderr(contains("--grammar takes a file, or a grammar with ::="));
    run(&["--regex", "(a"]).code(1).stderr("error: the regular expression is wrong: unclosed group\n");
    run(&["--json-schema", schema, "--regex", "a"]).code(2);
    run(&["--json-schema", schema, "--ignore-eos"]).code(2);
    // The form is part of a record.
    let record = folder.path().join("r.json");
    run(&["--json-schema", name, "--temp", "1", "--record", record.to_str().unwrap()]).success();
    for from in ["0", "3"] {
        samebits().arg("replay").arg(&record).args(["--backend", "cpu", "--from", from]).assert().success();
    }
    // An answer of a chat, too.
    let mut chat = samebits();
    chat.args(["chat", "--chat-template", "chatml", "--backend", "cpu", "--json-schema", schema, "--json", "hi"]);
    let chat: Value = serde_json::from_slice(&chat.assert().success().get_output().stdout).unwrap();
    assert_eq!(chat["complete"], true);
}
