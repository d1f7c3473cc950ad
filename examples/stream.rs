//! A text while it is made: `cargo run --release --example stream -- models/stories.gguf "Once upon a time"`.

use std::io::Write;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().ok_or("give a GGUF file")?;
    let prompt = arguments.next().unwrap_or_else(|| "Once upon a time".to_owned());
    let mut llm = samebits::open(file)?;
    eprintln!("on {} ({})", llm.backend().name(), llm.backend().device());
    print!("{prompt}");
    for piece in llm.generate(&prompt).temperature(0.8).seed(7).max_tokens(64).stream()? {
        print!("{}", piece?);
        std::io::stdout().flush()?;
    }
    println!();
    // Equal on every machine.
    eprintln!("logits hash: {}", llm.last().map_or("", |text| &text.logits_hash));
    Ok(())
}
