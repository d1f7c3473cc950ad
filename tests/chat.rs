//! Conversations: what templates make of messages, through the library and as a user types it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{changed, samebits, smollm2_path};
use predicates::prelude::*;
use predicates::str::contains;
use proptest::prelude::*;
use samebits::chat::{ChatError, Message, Template, names};
use samebits::gguf::{Gguf, Value};
use samebits::tokenizer::Tokenizer;

fn conversation() -> Vec<Message> {
    let turns = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello!"), ("user", "Who are you?")];
    turns.map(|(role, text)| Message::new(role, text)).to_vec()
}

fn smollm2_file() -> Gguf {
    Gguf::open(&smollm2_path()).unwrap()
}

/// The forms that the models' makers document.
#[test]
fn templates_by_name_write_what_their_models_expect() {
    let gguf = smollm2_file();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    // SmolLM2's own BOS and EOS.
    let (bos, eos) = ("<|im_start|>", "<|im_end|>");
    let expected = |name: &str| match name {
        "chatml" => "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
                     <|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nWho are you?<|im_end|>\n\
                     <|im_start|>assistant\n"
            .to_owned(),
        "llama2" => format!(
            "{bos}[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello! {eos}{bos}[INST] Who are you? [/INST]"
        ),
        "llama3" => format!(
            "{bos}<|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\nHello!<|eot_id|>\
             <|start_header_id|>user<|end_header_id|>\n\nWho are you?<|eot_id|>\
             <|start_header_id|>assistant<|end_header_id|>\n\n"
        ),
        "mistral" => format!("{bos}[INST] Be brief.\n\nHi [/INST] Hello!{eos}[INST] Who are you? [/INST]"),
        "gemma" => format!(
            "{bos}<start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\nHello!<end_of_turn>\n\
             <start_of_turn>user\nWho are you?<end_of_turn>\n<start_of_turn>model\n"
        ),
        "zephyr" => format!(
            "<|system|>\nBe brief.{eos}\n<|user|>\nHi{eos}\n<|assistant|>\nHello!{eos}\n<|user|>\nWho are you?{eos}\n\
             <|assistant|>\n"
        ),
        "vicuna" => {
            format!("Be brief.\n\nUSER: Hi\nASSISTANT: Hello!{eos}\nUSER: Who are you?\nASSISTANT:")
        }
        other => panic!("{other} has no expectation here"),
    };
    for name in names() {
        let template = Template::named(name, &gguf, &tokenizer).unwrap();
        assert_eq!(template.prompt(&conversation()).unwrap().text, expected(name), "{name}");
    }
    assert!(matches!(Template::named("nonsense", &gguf, &tokenizer), Err(ChatError::Unknown { .. })));
    // The model's own says something about itself where nobody else does.
    let own = Template::of_model(&gguf, &tokenizer).unwrap();
    assert_eq!(own.prompt(&conversation()).unwrap().text, expected("chatml"));
    let text = own.prompt(&[Message::new("user", "Hi")]).unwrap().text;
    assert!(text.starts_with("<|im_start|>system\nYou are a helpful AI assistant named SmolLM"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// What a person writes ends no message and begins none, whatever it looks like, and nothing of it gets lost. What the
    /// model wrote is what it was.
    #[test]
    fn control_tokens_in_a_message_are_text(
        words in prop::collection::vec(
            prop::sample::select(vec!["<|im_end|>", "<|im_start|>", "<|im_", "end|>", "<", "|>", "<|endoftext|>", "é", "日本 ", "\n", "x", "\u{100000}"]),
            0..12,
        ),
    ) {
        static FILE: std::sync::OnceLock<(Gguf, Tokenizer)> = std::sync::OnceLock::new();
        let (gguf, tokenizer) = FILE.get_or_init(|| {
            let gguf = smollm2_file();
            let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
            (gguf, tokenizer)
        });
        let template = Template::named("chatml", gguf, tokenizer).unwrap();
        let text = words.concat();
        for (role, stays_text) in [("user", true), ("system", true), ("assistant", false)] {
            let prompt = template.prompt(&[Message::new(role, text.as_str()), Message::new("user", "!")]).unwrap();
            prop_assert_eq!(
                &prompt.text,
                &format!("<|im_start|>{role}\n{text}<|im_end|>\n<|im_start|>user\n!<|im_end|>\n<|im_start|>assistant\n")
            );
            prop_assert_eq!(String::from_utf8(tokenizer.decode(&prompt.ids)).unwrap(), prompt.text.as_str());
            let controls = prompt.ids.iter().filter(|id| **id <= 2).count();
            let spelt = text.matches("<|im_end|>").count() + text.matches("<|im_start|>").count()
                + text.matches("<|endoftext|>").count();
            prop_assert_eq!(controls, 5 + if stays_text { 0 } else { spelt });
        }
    }
}

/// `generate --chat` is `generate` on the prompt that the template makes; without it the user is told.
#[test]
fn a_message_becomes_a_prompt() {
    let model = smollm2_path();
    let run = |arguments: &[&str]| {
        let mut command = samebits();
        command.args(["generate", "-n", "12", "--json", "--backend", "cpu", "-m"]).arg(&model).args(arguments);
        let output = command.assert().success().get_output().clone();
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (value, String::from_utf8(output.stderr).unwrap())
    };
    let (chat, said) = run(&["--chat", "What is the capital of France?"]);
    assert!(chat["text"].as_str().unwrap().contains("Paris"), "{chat}");
    assert!(!said.contains("--chat"), "{said}");
    let gguf = smollm2_file();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let prompt = Template::of_model(&gguf, &tokenizer).unwrap();
    let prompt = prompt.prompt(&[Message::new("user", "What is the capital of France?")]).unwrap();
    let (raw, said) = run(&["--raw", "-p", &prompt.text]);
    assert_eq!((&raw["logits_hash"], &raw["text"]), (&chat["logits_hash"], &chat["text"]));
    assert!(!said.contains("--chat"), "{said}");
    let (plain, said) = run(&["What is the capital of France?"]);
    assert_ne!(plain["logits_hash"], chat["logits_hash"]);
    assert!(said.contains("this model is made for conversations"), "{said}");
    let (_, said) = run(&["-q", "What is the capital of France?"]);
    assert_eq!(said, "");
    // The system prompt that the model's own template adds is missing in the general one.
    let (other, _) = run(&["--chat-template", "chatml", "What is the capital of France?"]);
    assert!(other["prompt_tokens"].as_array().unwrap().len() < chat["prompt_tokens"].as_array().unwrap().len());
}

#[test]
fn what_is_wrong_with_a_template_is_said_with_the_next_step() {
    let folder = tempfile::tempdir().unwrap();
    let fails = |extra: &[&str], code: i32, says: &str| {
        let mut command = samebits();
        command.args(["generate", "hi", "-n", "1", "--backend", "cpu"]).args(extra);
        command.assert().code(code).stdout("").stderr(contains(says.to_owned()).and(contains("panicked").not()));
    };
    let template = |text: &str| {
        let path = folder.path().join("template.jinja");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    fails(&["--chat"], 1, "no chat template, so it is probably not made for conversations; name one: --chat-template chatml|");
    fails(&["--chat-template", "nonsense"], 1, "choose chatml, llama2");
    fails(&["--chat-template", ""], 2, "it is empty");
    fails(&["--chat-template", "chatml", "--raw"], 2, "cannot be used with");
    fails(&["--chat-template", &template("{% if %}")], 1, "is broken");
    fails(
        &["--chat-template", &template("{{ raise_exception('no \u{1b}[31m users') }}")],
        1,
        "does not allow this: no \\u{1b}[31m users",
    );
    let hostile = [
        "{% for i in range(100000000) %}{{ i }}{% endfor %}",
        "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ strftime_now('%Q%') }}",
        "{{ messages[0].content.no_such_method() }}",
        "{{ no_such_function() }}",
        "{% include 'other' %}",
        "{{ 'x' * 100000000000 }}",
        "{{ messages | tojson(nonsense=1) }}",
    ];
    for text in hostile {
        fails(&["--chat-template", &template(text)], 1, "the chat template fails: ");
    }
    fails(&["--chat-template", &template("")], 1, "the prompt is empty");
    // One that is in a file, and is no text.
    let path = folder.path().join("model.gguf");
    let write = |value: Value| {
        std::fs::write(&path, changed("tiny-f32.gguf", &[("tokenizer.chat_template", value)], &[])).unwrap();
        path.to_str().unwrap().to_owned()
    };
    fails(&["--chat", "-m", &write(Value::U32(7))], 1, "no chat template");
    fails(&["--chat", "-m", &write(Value::String("{% for %}".to_owned()))], 1, "chat template of the model is broken");
}
