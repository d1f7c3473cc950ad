//! A conversation: `cargo run --release --example chat -- MODEL.gguf [TEMPLATE]`, a message in each line of standard input.
//!
//! Without TEMPLATE the model's own is used; `chatml` and others exist for files without one.

use samebits::chat::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut llm = samebits::open(arguments.next().ok_or("give a GGUF file")?)?;
    let template = arguments.next();
    let mut messages = vec![Message::new("system", "Answer in one sentence.")];
    for line in std::io::stdin().lines() {
        messages.push(Message::new("user", line?));
        // The turns before are in the cache; only what is new is computed.
        let answer = match &template {
            Some(template) => llm.chat_by(template, &messages)?,
            None => llm.chat(&messages)?,
        };
        let answer = answer.max_tokens(48).text()?;
        println!("{}", answer.text.trim());
        eprintln!("[{} tokens read, {} made]", answer.prompt_computed, answer.tokens.len());
        messages.push(Message::new("assistant", answer.text));
    }
    Ok(())
}
