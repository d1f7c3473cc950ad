//! A block of text about a device, its kernels and their times, to paste into an issue: what is needed to choose kernels for a
//! card that nobody here has.

use std::fmt::Write;

use super::profile::Share;
use super::{Row, Test};
use crate::verify::report;

/// The rows of prompts that a report measures, around the edges of kernels, and the new tokens.
pub const PROMPTS: [u32; 8] = [2, 4, 8, 16, 32, 64, 128, 512];

/// The block: lines `about` a place, and what was measured there, with profiles.
pub fn text(about: &[(&'static str, String)], rows: &[Row]) -> String {
    let mut out = "```\n".to_owned();
    let mut line = |name: &str, value: &str| out.push_str(&report::line(name, value));
    report::program().iter().chain(about).for_each(|(name, value)| line(name, value));
    let mut model = String::new();
    for row in rows {
        if let Some(read) = row.read_gb_per_s
            && model.is_empty()
        {
            line("read loop", &format!("{read:.1} GB/s"));
        }
        let this = format!("{}, {}, {} rows at once", row.model_type, row.precision, row.n_ubatch);
        if this != model {
            line("model", &this);
            model = this;
        }
        line(&row.test, &speed(row));
        for share in &row.profile {
            line("", &took(share, row));
            share.launches.iter().for_each(|l| line("", &format!("    {:?} of {}", l.groups, l.kernel)));
        }
    }
    out.push_str("```\n");
    out
}

/// Tokens per second, and what passes read and launched.
fn speed(row: &Row) -> String {
    let mut text = format!("{:.2} \u{b1} {:.2} tokens/s", row.avg_ts, row.stddev_ts);
    if let Some(bytes) = row.gb_per_s {
        let _ = write!(text, ", {bytes:.1} GB/s");
    }
    if let Some(dispatches) = row.dispatches_per_pass {
        let _ = write!(text, ", {dispatches:.0} dispatches a pass");
    }
    if let Some(encode) = row.encode_us_per_token {
        let _ = write!(text, ", {encode:.1} us a token to encode");
    }
    text
}

/// How long a kind of step takes, how often it ran in a pass, and how fast it read.
fn took(share: &Share, row: &Row) -> String {
    let test = Test { prompt: row.n_prompt, generate: row.n_gen, depth: row.n_depth };
    let each = share.seconds / share.calls.max(1) as f64;
    let mut text = format!("{:.1} us, {} a pass", each * 1e6, share.calls / test.passes(row.n_ubatch).max(1));
    if share.bytes > 0 {
        let _ = write!(text, ", {:.1} GB/s", share.bytes as f64 / share.seconds.max(f64::MIN_POSITIVE) / 1e9);
    }
    // A token is chosen by no step of the plan.
    let _ = write!(text, ": {}", if share.step.is_empty() { &share.op } else { &share.step });
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Launch;

    #[test]
    fn a_report_tells_how_each_kernel_was_spread_and_how_fast_it_read() {
        let launch = Launch { kernel: "gate_up.Q4_K.THREADS=256".to_owned(), groups: [896, 1, 1] };
        let share = Share {
            op: "gate_up Q4_K".to_owned(),
            step: "ffn_gate+ffn_up".to_owned(),
            calls: 64,
            seconds: 64.0 * 40e-6,
            share: 1.0,
            bytes: 64 * 60_000_000,
            launches: vec![launch],
        };
        let row = Row {
            model_type: "llama 8B Q4_K - Medium".to_owned(),
            precision: "fast".to_owned(),
            n_ubatch: 512,
            test: "tg2".to_owned(),
            n_gen: 2,
            avg_ts: 320.5,
            stddev_ts: 1.25,
            gb_per_s: Some(1480.0),
            read_gb_per_s: Some(3081.5),
            dispatches_per_pass: Some(163.0),
            profile: vec![share],
            ..Row::default()
        };
        let text = text(&[("adapter", "Some GPU (vulkan)".to_owned())], &[row.clone(), row]);
        assert!(text.starts_with("```\n") && text.ends_with("```\n"), "{text}");
        for (line, times) in [
            ("adapter      Some GPU (vulkan)", 1),
            ("read loop    3081.5 GB/s", 1),
            ("model        llama 8B Q4_K - Medium, fast, 512 rows at once", 1),
            ("tg2          320.50 \u{b1} 1.25 tokens/s, 1480.0 GB/s, 163 dispatches a pass", 2),
            ("             40.0 us, 32 a pass, 1500.0 GB/s: ffn_gate+ffn_up", 2),
            ("                 [896, 1, 1] of gate_up.Q4_K.THREADS=256", 2),
        ] {
            assert_eq!(text.lines().filter(|l| *l == line).count(), times, "{line} in\n{text}");
        }
    }
}
