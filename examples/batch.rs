//! Many prompts, one in each line of standard input: `cargo run --release --example batch -- MODEL.gguf < prompts.txt`.
//!
//! Prints a line of JSON for each. Its hash depends on its prompt alone, not on those before.

use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut llm = samebits::open(std::env::args().nth(1).ok_or("give a GGUF file")?)?;
    for prompt in std::io::stdin().lines() {
        let prompt = prompt?;
        let text = llm.generate(&prompt).max_tokens(16).stop("\n").text()?;
        let line = json!({
            "prompt": prompt,
            "text": text.text,
            "logits_hash": text.logits_hash,
            "stop_reason": text.stop_reason,
        });
        println!("{line}");
    }
    Ok(())
}
