//! A block of text that says what was verified where, to paste into an issue.

use std::fmt::Write;
use std::time::Duration;

use super::Rung;
use crate::backend::gpu::{Device, api_name};
use crate::numerics::{Precision, VERSION};

/// What a report tells beside the rungs.
pub struct Facts {
    /// Lines about the adapter, from [`adapter`]; none where the CPU alone was verified.
    pub adapter: Vec<(&'static str, String)>,
    /// The model's name and parameters.
    pub model: (String, u64),
    /// How activations were rounded.
    pub precision: Precision,
    /// What the CPU backend ran on.
    pub cpu: String,
    /// What is known not to hold with this driver.
    pub known_failure: Option<String>,
    /// The fingerprint, and whether it is known to be right.
    pub fingerprint: (String, Option<bool>),
}

/// What there is to say about an open device.
pub fn adapter(device: &Device) -> Vec<(&'static str, String)> {
    let (info, limits) = (&device.info, &device.limits);
    let units = device.matrix_units.map_or("not used".to_owned(), |units| units.to_string());
    vec![
        (
            "adapter",
            format!(
                "{} ({}, {:?}, {:#06x}:{:#06x})",
                info.name,
                api_name(info),
                info.device_type,
                info.vendor,
                info.device
            ),
        ),
        ("driver", format!("{} {}", info.driver, info.driver_info).trim().to_owned()),
        ("compiler", device.compiler.to_string()),
        ("kernels", format!("{:?} arithmetic, matrix units: {}", device.arithmetic, units).to_lowercase()),
        (
            "limits",
            format!(
                "workgroup {} bytes and {} threads, {} storage buffers, binding {} MiB, buffer {} MiB, subgroups {} to {}",
                limits.max_compute_workgroup_storage_size,
                limits.max_compute_invocations_per_workgroup,
                limits.max_storage_buffers_per_shader_stage,
                limits.max_storage_buffer_binding_size >> 20,
                limits.max_buffer_size >> 20,
                info.subgroup_min_size,
                info.subgroup_max_size
            ),
        ),
    ]
}

/// The first lines of every block: this program, and the system that it runs on.
pub fn program() -> Vec<(&'static str, String)> {
    vec![
        ("samebits", format!("{}, {VERSION}", env!("CARGO_PKG_VERSION"))),
        ("system", format!("{} {}", std::env::consts::OS, std::env::consts::ARCH)),
    ]
}

/// A line of a block.
pub fn line(name: &str, value: &str) -> String {
    format!("{name:<12} {value}\n")
}

/// The block; `rungs` with the time that each took.
pub fn text(facts: &Facts, rungs: &[(Rung, Duration)]) -> String {
    let mut lines = program();
    lines.push(("cpu", facts.cpu.clone()));
    lines.extend(facts.adapter.iter().cloned());
    let (name, parameters) = &facts.model;
    lines.push(("model", format!("{name}, {parameters} parameters, {:?}", facts.precision).to_lowercase()));
    lines.extend(facts.known_failure.iter().map(|what| ("known", format!("failure of this driver: {what}"))));
    let mut out = "```\n".to_owned();
    for (name, value) in lines {
        out.push_str(&line(name, &value));
    }
    for (rung, time) in rungs {
        let verdict = if rung.holds { "holds" } else { "FAILS" };
        let _ = writeln!(out, "{verdict:<12} {}: {} ({:.1} s)", rung.name, rung.detail, time.as_secs_f64());
    }
    let (fingerprint, known) = &facts.fingerprint;
    let known = match known {
        Some(true) => ", as on other machines",
        Some(false) => ", ANOTHER than on other machines",
        None => "",
    };
    let total: Duration = rungs.iter().map(|(_, time)| *time).sum();
    let _ = writeln!(out, "{:<12} {fingerprint}{known}", "fingerprint");
    let _ = writeln!(out, "{:<12} {:.0} s", "time", total.as_secs_f64());
    out.push_str("```\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_tells_what_held_where_and_what_did_not() {
        let rung = |name, holds, detail: &str| Rung { name, holds, detail: detail.to_owned(), difference: None };
        let rungs = [
            (rung("primitives, GPU = CPU", true, "15 primitives"), Duration::from_millis(150)),
            (rung("ops, GPU = CPU", false, "op embedding.Q3_K: 61 of 1536 elements differ"), Duration::from_secs(2)),
        ];
        let facts = Facts {
            adapter: vec![("adapter", "Some GPU (dx12)".to_owned()), ("compiler", "FXC".to_owned())],
            model: ("stories".to_owned(), 17),
            precision: Precision::Fast,
            cpu: "2 threads".to_owned(),
            known_failure: None,
            fingerprint: ("ab".to_owned(), Some(false)),
        };
        let text = text(&facts, &rungs);
        assert!(text.starts_with("```\n") && text.ends_with("```\n"), "{text}");
        for line in [
            "compiler     FXC",
            "holds        primitives, GPU = CPU: 15 primitives (0.1 s)",
            "FAILS        ops, GPU = CPU: op embedding.Q3_K: 61 of 1536 elements differ (2.0 s)",
            "fingerprint  ab, ANOTHER than on other machines",
            "time         2 s",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
