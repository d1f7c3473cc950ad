//! Renders chat templates, for scripts/chat-templates: a line of JSON in for each conversation, one out for what came of it.

use std::error::Error;
use std::io::{BufRead, Write};

use minijinja::value::Serde;
use samebits::chat::{Given, Jinja, Unrendered};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let case: Value = serde_json::from_str(&line?)?;
        let text = |key: &str| case[key].as_str().unwrap_or_default().to_owned();
        let given = Given {
            tools: minijinja::Value::from(Serde(&case["tools"])),
            bos: text("bos"),
            eos: text("eos"),
            answer: case["answer"] == true,
        };
        let messages = minijinja::Value::from(Serde(&case["messages"]));
        let rendered = Jinja::new(&text("template")).map_err(Unrendered::Failed);
        let value = match rendered.and_then(|jinja| jinja.render(&messages, &given)) {
            Ok(text) => json!({ "ok": text }),
            Err(Unrendered::Refused(words)) => json!({ "refused": words }),
            Err(Unrendered::Failed(reason)) => json!({ "failed": reason }),
        };
        writeln!(out, "{value}")?;
    }
    Ok(())
}
