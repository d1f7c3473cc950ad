//! Times each fused kernel of a token: `cargo run --release --example token_profile -- FILE [POSITION …]`.

use samebits::backend::Sizes;
use samebits::backend::gpu::{Choice, Device, Gpu};
use samebits::model::Model;
use samebits::numerics::Precision;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let model = Model::open(arguments.next().ok_or("give a GGUF file")?.as_ref())?;
    let positions: Vec<usize> = arguments.map(|a| a.parse()).collect::<Result<_, _>>()?;
    let context = positions.iter().max().copied().unwrap_or(0) + 128;
    let device = Device::open(&Choice::default())?;
    let sizes = Sizes { context, batch: 1, logits_rows: 1 };
    let gpu = Gpu::new(device, &model, model.plan(Precision::Fast)?, sizes, &mut |_| {})?;
    for position in positions {
        gpu.times(position, 200)?;
        println!("position {position}");
        let times = gpu.times(position, 50)?;
        for (name, dispatches, seconds) in &times {
            println!("{name:<24} {dispatches:>4} dispatches {:>9.1} us {:>8.2} us each", seconds * 1e6, seconds * 1e6 / *dispatches as f64);
        }
        println!("sum {:.1} us", times.iter().map(|t| t.2).sum::<f64>() * 1e6);
    }
    Ok(())
}
