//! Looks into a layer: `cargo run --release --example trace_layer -- MODEL.gguf 3 "Once upon a time"`.
//!
//! Prints the root mean square of every step's output in the layer, for the last token of the prompt. `samebits trace` has more.

use samebits::backend::{Batch, Rows};
use samebits::plan::{Step, Words};
use samebits::tokenizer::EncodeOptions;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut llm = samebits::open(arguments.next().ok_or("give a GGUF file")?)?;
    let layer: usize = arguments.next().ok_or("give the number of a layer")?.parse()?;
    let prompt = arguments.next().unwrap_or_else(|| "Once upon a time".to_owned());
    let ids = llm.tokenizer().encode(&prompt, EncodeOptions { add_special: true, parse_special: true })?;

    let prefix = format!("blk.{layer}.");
    let mut listen = |step: &Step, words: &[u32]| {
        // Every step is heard with the bits of its output, `[tokens, width]`.
        if step.op.words() != Words::Floats || !step.name.to_string().starts_with(&prefix) {
            return;
        }
        let last = &words[words.len() - words.len() / ids.len()..];
        let squares: f64 = last.iter().map(|w| f64::from(f32::from_bits(*w)).powi(2)).sum();
        println!(
            "{:<24} {:>6} elements, root mean square {:.4}",
            step.name,
            last.len(),
            (squares / last.len() as f64).sqrt()
        );
    };
    let backend = llm.session().backend_mut();
    let limits = backend.limits();
    backend.forward(Batch::checked(&ids, 0, Rows::Last, &limits)?, Some(&mut listen))?;
    Ok(())
}
