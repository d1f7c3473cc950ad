//! What a record and a form cost for each token, beside the token itself: a link of the chain, and a mask. For the built-in model's
//! vocabulary, and SmolLM2's where `scripts/test` has put it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[cfg(builtin_model)]
mod costs {
    use std::hint::black_box;
    use std::path::Path;
    use std::time::{Duration, Instant};

    use criterion::Criterion;
    use samebits::gguf::Gguf;
    use samebits::grammar::{Grammar, Grammars, Kind};
    use samebits::model::Model;
    use samebits::record::Chain;
    use samebits::tokenizer::{EncodeOptions, Tokenizer};

    const SCHEMA: &str = r#"{"type": "array", "minItems": 3, "items": {"type": "object", "properties": {
        "name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 3}},
        "required": ["name", "age", "tags"], "additionalProperties": false}}"#;

    const TEXT: &str = r#"[{"name":"Anna Maria","age":31,"tags":["red","blue"]},{"name":"Bob","age":7,"tags":[]},{"name":"a small fox","age":112,"tags":["green","green","red"]}"#;

    pub fn bench(c: &mut Criterion) {
        let mut files = vec![("stories", Model::stories_file().unwrap())];
        if let Ok(file) = Gguf::open(Path::new("models/download/SmolLM2-135M-Instruct.Q4_1.gguf")) {
            files.push(("SmolLM2", file));
        }
        for (name, file) in files {
            let tokenizer = Tokenizer::from_gguf(&file).unwrap();
            let mut group = c.benchmark_group(format!("{name}, {} tokens", tokenizer.vocab_size()));
            let logits: Vec<f32> = (0..tokenizer.vocab_size()).map(|i| (i as f32).sin()).collect();
            let mut chain = Chain::new(&[1, 2, 3]);
            group.bench_function("a link of a record's chain", |b| b.iter(|| chain.push(7, black_box(&logits))));
            let plain = EncodeOptions { add_special: false, parse_special: false };
            let ids = tokenizer.encode(TEXT, plain).unwrap();
            let grammars = Grammars::new(&tokenizer).unwrap();
            let grammar = Grammar::new(Kind::JsonSchema, SCHEMA);
            group.bench_function("a form's first mask", |b| {
                b.iter(|| grammars.constraint(&grammar).unwrap().allowed().unwrap());
            });
            group.bench_function("a mask of a form", |b| {
                // Texts in turn, of which each token counts, but not the making of the constraint and its first mask.
                b.iter_custom(|n| {
                    let (mut time, mut masks) = (Duration::ZERO, 0);
                    while masks < n {
                        let mut constraint = grammars.constraint(&grammar).unwrap();
                        constraint.allowed().unwrap();
                        constraint.accept(ids[0]).unwrap();
                        let start = Instant::now();
                        for id in &ids[1..] {
                            black_box(constraint.allowed().unwrap());
                            constraint.accept(*id).unwrap();
                        }
                        time += start.elapsed();
                        masks += ids.len() as u64 - 1;
                    }
                    time.mul_f64(n as f64 / masks as f64)
                });
            });
        }
    }
}

#[cfg(not(builtin_model))]
mod costs {
    pub fn bench(_: &mut criterion::Criterion) {}
}

criterion::criterion_group!(text, costs::bench);
criterion::criterion_main!(text);
