//! Texts that keep to a form: what is complete is valid, whatever the schema, the seed and the backend.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{Random, samebits, turn};
use predicates::prelude::*;
use predicates::str::contains;
use samebits::backend::gpu::Api;
use samebits::grammar::{Grammar, GrammarError, Grammars, Kind};
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
    let kinds = if depth == 0 { 10 } else { 15 };
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
        9 => json!({"type": "string", "format": (["date", "time", "uuid", "ipv4"][random.word() as usize % 4])}),
        10 => {
            let least = few(random);
            json!({"type": "array", "items": schema(random, depth - 1), "minItems": least, "maxItems": least + few(random)})
        }
        11 => json!({
            "type": "array", "prefixItems": [schema(random, depth - 1), schema(random, depth - 1)], "items": false, "minItems": few(random)
        }),
        12 => json!({"anyOf": [schema(random, depth - 1), schema(random, depth - 1)]}),
        13 => json!({"$ref": "#/$defs/shared"}),
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
                "time" => r"^([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\.[0-9]+)?([zZ]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$",
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
        ("prefixItems", Value::Array(values)) => values.iter().zip(list(part)).all(|(v, part)| is_valid(v, &part, root)),
        ("minItems", Value::Array(values)) => values.len() as f64 >= number(part),
        ("maxItems", Value::Array(values)) => values.len() as f64 <= number(part),
        ("anyOf", _) => list(part).iter().any(|part| is_valid(value, part, root)),
        ("$ref", _) => is_valid(value, root.pointer(&part.as_str().unwrap()[1..]).unwrap(), root),
        ("properties", Value::Object(values)) => {
            values.iter().all(|(name, value)| part.get(name).is_none_or(|part| is_valid(value, part, root)))
        }
        ("required", Value::Object(values)) => list(part).iter().all(|name| values.contains_key(name.as_str().unwrap())),
        ("additionalProperties", Value::Object(values)) => {
            assert_eq!(part, false);
            values.keys().all(|name| map["properties"].get(name).is_some())
        }
        ("$defs", _) => true,
        (
            "minimum" | "maximum" | "exclusiveMinimum" | "multipleOf" | "minLength" | "maxLength" | "pattern" | "format"
            | "items" | "prefixItems" | "minItems" | "maxItems" | "properties" | "required" | "additionalProperties",
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

/// 320 schemas: every complete output is valid, drawn and greedy, and says that it is complete; what is cut says so.
#[test]
fn every_complete_output_is_valid() {
    let (mut llm, mut random) = (stories(Wanted::Cpu), Random(20));
    let (mut complete, mut cut) = (0, 0);
    for i in 0..320u64 {
        let schema = with_definitions(&mut random);
        let temperature = if i.is_multiple_of(4) { 0.0 } else { 1.0 };
        let text = make(&mut llm, &schema, temperature, i);
        let value: Option<Value> = serde_json::from_str(&text.text).ok();
        if text.complete == Some(true) {
            complete += 1;
            let value = value.unwrap_or_else(|| panic!("{schema} {}", text.text));
            assert!(is_valid(&value, &schema, &schema), "{schema}: {value}");
            assert!(matches!(text.stop_reason, StopReason::Complete | StopReason::EndOfText));
        } else {
            cut += 1;
            assert_eq!((text.complete, text.stop_reason), (Some(false), StopReason::Length), "{schema}: {}", text.text);
        }
    }
    assert!(complete >= 240, "only {complete} outputs are complete, {cut} are cut");
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
