//! Times each GPU kernel of a token or a batch: `cargo run --release --example token_profile -- FILE POSITION:ROWS …`.

use samebits::backend::gpu::{AdapterOptions, Device, Gpu};
use samebits::backend::{Backend, Batch, Rows, Sizes};
use samebits::model::Model;
use samebits::numerics::Precision;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = Model::open(arguments.next().ok_or("give a GGUF file")?.as_ref())?;
    let mut places: Vec<(usize, usize)> = Vec::new();
    for place in arguments {
        let (position, rows) = place.split_once(':').ok_or("give POSITION:ROWS")?;
        places.push((position.parse()?, rows.parse()?));
    }
    let context = places.iter().map(|(p, r)| p + r).max().unwrap_or(1);
    let batch = places.iter().map(|p| p.1).max().unwrap_or(1);
    let device = Device::open(&AdapterOptions::default())?;
    let sizes = Sizes { context, batch, logits_rows: 1 };
    let mut gpu = Gpu::new(device, &model, model.plan(Precision::Fast)?, sizes, &mut |_| {})?;
    let ids: Vec<u32> = (0..batch as u32).map(|i| (i * 977 + 504) % model.config.vocabulary as u32).collect();
    for (position, rows) in places {
        for start in (0..position + rows).step_by(batch) {
            let n = batch.min(position + rows - start);
            gpu.forward(Batch::checked(&ids[..n], start, Rows::Last, &gpu.limits())?, None)?;
        }
        let repetitions = if rows == 1 { 50 } else { 5 };
        gpu.times(position, rows, 2 * repetitions)?;
        println!("{rows} rows at {position}");
        let times = gpu.times(position, rows, repetitions)?;
        for t in &times {
            let us = t.seconds * 1e6;
            println!(
                "{:<28} {:>4} dispatches {us:>9.1} us {:>8.2} us each",
                t.name,
                t.dispatches,
                us / t.dispatches as f64
            );
        }
        println!(
            "sum {:.1} us",
            times.iter().filter(|t| t.name != "all in order").map(|t| t.seconds).sum::<f64>() * 1e6
        );
    }
    Ok(())
}
