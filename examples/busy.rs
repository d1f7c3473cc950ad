//! Tokens per second beside other programs: `cargo run --release --example busy -- [FILE]`.
//!
//! Three situations: a quiet machine, one with a loop on one of its processors, and threads that all share one processor
//! (Linux). In each, one thread and several take turns, every turn in a process of its own. Ends with exit code 1 where
//! the medians do not keep what docs/performance.md says.

use std::error::Error;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use samebits::backend::Sizes;
use samebits::backend::cpu::{Cpu, physical_cores};
use samebits::engine::Session;
use samebits::model::Model;
use samebits::numerics::Precision;

/// Turns of each.
const TURNS: usize = 5;
/// How long a turn is measured.
const TURN: Duration = Duration::from_millis(1500);
/// Tokens behind which generation begins anew.
const TOKENS: usize = 128;

/// A child process that ends with its owner.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["--loop"] => loop {
            std::hint::spin_loop();
        },
        ["--turn", threads, ref file @ ..] => {
            println!("{}", tokens_per_second(threads.parse()?, file.first().copied())?);
            Ok(ExitCode::SUCCESS)
        }
        [] => compare(None),
        [file] => compare(Some(file)),
        _ => Err("give one GGUF file, or nothing for the built-in model".into()),
    }
}

fn tokens_per_second(threads: usize, file: Option<&str>) -> Result<f64, Box<dyn Error>> {
    let model = match file {
        Some(file) => Model::open(Path::new(file))?,
        #[cfg(feature = "stories")]
        None => Model::stories()?,
        #[cfg(not(feature = "stories"))]
        None => return Err("give a GGUF file".into()),
    };
    let sizes = Sizes { context: TOKENS, batch: 1, logits_rows: 1 };
    let cpu = Cpu::new(&model, model.plan(Precision::Fast)?, sizes, threads)?;
    let mut session = Session::new(Box::new(cpu), 1);
    let mut run = |time: Duration| -> Result<f64, Box<dyn Error>> {
        let (start, mut tokens) = (Instant::now(), 0);
        while start.elapsed() < time {
            if tokens % TOKENS == 0 {
                session.clear();
            }
            session.feed(&[(tokens * 977 + 504) as u32 % model.config.vocabulary as u32], false)?;
            tokens += 1;
        }
        Ok(tokens as f64 / start.elapsed().as_secs_f64())
    };
    run(TURN / 5)?;
    run(TURN)
}

/// A turn in a process of its own, on one processor if `pinned`.
fn turn(threads: usize, file: Option<&str>, pinned: bool) -> Result<f64, Box<dyn Error>> {
    let this = std::env::current_exe()?;
    let mut command = if pinned { Command::new("taskset") } else { Command::new(&this) };
    if pinned {
        command.args(["-c", "0"]).arg(&this);
    }
    let out = command.arg("--turn").arg(threads.to_string()).args(file).stderr(Stdio::inherit()).output()?;
    Ok(String::from_utf8(out.stdout)?.trim().parse()?)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Where threads run, and what several must make of it.
struct Situation {
    name: &'static str,
    threads: usize,
    /// Whether another program computes.
    busy: bool,
    /// Whether all threads share one processor.
    pinned: bool,
    /// The least ratio to one thread.
    needed: f64,
}

fn compare(file: Option<&str>) -> Result<ExitCode, Box<dyn Error>> {
    let threads = physical_cores();
    let mut situations = vec![
        Situation { name: "quiet", threads, busy: false, pinned: false, needed: 0.9 },
        Situation { name: "a loop on one processor", threads, busy: true, pinned: false, needed: 0.9 },
    ];
    if cfg!(target_os = "linux") {
        situations.push(Situation { name: "one processor", threads: 2, busy: false, pinned: true, needed: 0.6 });
    }
    let mut kept = true;
    println!("| situation | threads | one thread | several | ratio | needed |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for s in situations {
        let _other = match s.busy {
            true => Some(Killed(Command::new(std::env::current_exe()?).arg("--loop").spawn()?)),
            false => None,
        };
        let (mut one, mut several) = (Vec::new(), Vec::new());
        for _ in 0..TURNS {
            one.push(turn(1, file, s.pinned)?);
            several.push(turn(s.threads, file, s.pinned)?);
        }
        let (one, several) = (median(one), median(several));
        let ratio = several / one;
        kept &= ratio >= s.needed;
        println!("| {} | {} | {one:.0} | {several:.0} | {ratio:.2} | {} |", s.name, s.threads, s.needed);
    }
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
