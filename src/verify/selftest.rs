//! The self-test at start: a silent check of the primitives that every kernel is made of, and of the unpacking of the formats
//! that a model has, done once per adapter, driver and version. It takes a small dispatch, and one for each format;
//! `samebits verify` proves the rest.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ops::{Case, Random, plain, run, unpacking};
use super::{Rung, VerifyError};
use crate::backend::BackendError;
use crate::backend::gpu::{Device, api_name, disk};
use crate::numerics::{
    VERSION, WEIGHT_FLOOR, exp, exp2, f16_bits, f16_value, flush, r13, recip, rsqrt, s8, settle, silu,
};
use crate::ops::THREADS;
use crate::quant::Format;
use crate::shaders::{SELFTEST, params};

/// Threads of a workgroup, each with an input of its own.
const GROUP: usize = THREADS as usize;
/// Workgroups: enough for every special case of the primitives.
const GROUPS: usize = 8;

/// Two floats and two integers.
type Input = [u32; 4];

/// What a primitive guarantees, and its result.
type Primitive = (&'static str, fn(&Input) -> u32);

/// In the order of the shader. The sum over a workgroup comes last.
static PRIMITIVES: [Primitive; 14] = [
    ("a sum behind a product is rounded on its own", |i| (a(i) * b(i) + a(i)).to_bits()),
    ("a difference behind a sum is not simplified", |i| ((a(i) + b(i)) - a(i)).to_bits()),
    ("results below 2^-100 become zero", |i| settle(f32::from_bits(i[2] & 0x807f_ffff)).to_bits()),
    ("rounding to 13 bits", |i| r13(a(i)).to_bits()),
    ("rounding to f16", |i| f16_bits(a(i))),
    ("values of f16", |i| f16_value(i[2] & 0xbfff).to_bits()),
    ("integers as f32, rounded to nearest", |i| (i[2].cast_signed() as f32).to_bits()),
    ("rounding half to even", |i| {
        ((((i[3].cast_signed() >> 12) as f32) * 0.5).round_ties_even() as i32).cast_unsigned()
    }),
    ("products of 8-bit integers", |i| dot4(i[2], i[3]).cast_unsigned()),
    ("1/x", |i| recip(divisor(i)).to_bits()),
    ("1/sqrt(x)", |i| rsqrt(divisor(i).abs()).to_bits()),
    ("exp", |i| exp(a(i)).to_bits()),
    ("exp2", |i| exp2(-a(i).abs()).to_bits()),
    ("silu", |i| silu(a(i)).to_bits()),
];
const SUM: &str = "sums of floats in the order S8";

fn a(i: &Input) -> f32 {
    flush(f32::from_bits(i[0]), WEIGHT_FLOOR)
}

fn b(i: &Input) -> f32 {
    flush(f32::from_bits(i[1]), WEIGHT_FLOOR)
}

fn divisor(i: &Input) -> f32 {
    if b(i) == 0.0 { 1.0 } else { b(i) }
}

fn dot4(x: u32, y: u32) -> i32 {
    x.to_le_bytes()
        .iter()
        .zip(y.to_le_bytes())
        .map(|(&x, y)| i32::from(x.cast_signed()) * i32::from(y.cast_signed()))
        .sum()
}

/// The inputs of every thread and the words that the shader must give.
pub(crate) fn case() -> Case {
    let mut random = Random(0);
    let wide = |random: &mut Random| (random.word() & 0x807f_ffff) | (127 - 30 + random.word() % 50) << 23;
    let floats = random.floats(GROUPS * GROUP);
    // Ordinary numbers beside numbers of every size that f16 and its rounding know.
    let inputs: Vec<Input> =
        floats.iter().map(|x| [wide(&mut random), x.to_bits(), random.word(), random.word()]).collect();
    let mut expected = Vec::new();
    for group in inputs.chunks(GROUP) {
        let mut sum = s8::Sum::default();
        group.iter().for_each(|i| sum.push(a(i)));
        for i in group {
            expected.extend(PRIMITIVES.iter().map(|(_, result)| result(i)));
            expected.push(sum.total().to_bits());
        }
    }
    Case {
        kernel: plain(&SELFTEST),
        shape: String::new(),
        params: bytemuck::bytes_of(&params::Selftest { primitives: PRIMITIVES.len() as u32 + 1 }).to_vec(),
        position: 0,
        groups: [GROUPS as u32, 1, 1],
        buffers: vec![inputs.concat(), vec![0; expected.len()]],
        out: 1,
        expected,
    }
}

/// Runs the self-test; returns what does not hold, in words.
///
/// # Errors
/// When the device fails.
pub fn failures(device: &mut Device) -> Result<Vec<String>, BackendError> {
    let case = case();
    let got = run(device, &case)?;
    let words = PRIMITIVES.len() + 1;
    let names = PRIMITIVES.iter().map(|(name, _)| *name).chain([SUM]);
    let describe = |(k, name): (usize, &str)| {
        let of = |x: &[u32]| x.iter().copied().skip(k).step_by(words).collect::<Vec<_>>();
        let wrong: Vec<_> = of(&got).into_iter().zip(of(&case.expected)).filter(|(x, y)| x != y).collect();
        let (x, y) = wrong.first()?;
        Some(format!("{name} ({} of {} results differ, {x:#010x} for {y:#010x})", wrong.len(), GROUPS * GROUP))
    };
    Ok(names.enumerate().filter_map(describe).collect())
}

/// The self-test as a rung of `samebits verify`.
pub(super) fn rung(device: &mut Device) -> Result<Rung, VerifyError> {
    let failures = failures(device)?;
    let detail = if failures.is_empty() {
        format!("{} primitives, {} inputs each: the same bits", PRIMITIVES.len() + 1, GROUPS * GROUP)
    } else {
        failures.join("; ")
    };
    Ok(Rung { name: "primitives, GPU = CPU", holds: failures.is_empty(), detail, difference: None })
}

/// What does not hold of the kernel that reads rows of a matrix of this format, in words. (Seen: FXC, the scales of Q3_K.)
fn format_failure(device: &mut Device, format: &'static Format) -> Result<Option<String>, BackendError> {
    let Some(case) = unpacking(format) else { return Ok(None) };
    let got = run(device, &case)?;
    let mut wrong = got.iter().zip(&case.expected).filter(|(x, y)| x != y);
    let Some((x, y)) = wrong.next() else { return Ok(None) };
    let (wrong, all) = (wrong.count() + 1, got.len());
    Ok(Some(format!("weights of {} ({wrong} of {all} differ, {x:#010x} for {y:#010x})", format.name)))
}

/// A result in the user's cache.
#[derive(Debug, Serialize, Deserialize)]
struct Cached {
    adapter: String,
    driver: String,
    numerics: String,
    version: String,
    failures: Vec<String>,
}

/// [`failures`], and those of unpacking `formats`, from the cache where this adapter, driver and version were tested before with
/// these formats. A cache that cannot be read or written costs a test per start, no error.
///
/// # Errors
/// When the device fails.
pub fn cached_failures(device: &mut Device, formats: &[&'static Format]) -> Result<Vec<String>, BackendError> {
    let kernels = formats.iter().filter_map(|f| unpacking(f)).map(|case| case.kernel).chain([plain(&SELFTEST)]);
    let sources: String = kernels.map(|k| k.source(device.arithmetic)).collect();
    let content = format!("{VERSION}{sources}");
    let path = disk::folder().map(|folder| folder.join(disk::file_name("selftest", &device.info, &content, "json")));
    let read = |path: &PathBuf| serde_json::from_slice::<Cached>(&std::fs::read(path).ok()?).ok();
    if let Some(known) = path.as_ref().and_then(read) {
        return Ok(known.failures);
    }
    let mut failures = failures(device)?;
    for format in formats {
        failures.extend(format_failure(device, format)?);
    }
    if let Some(path) = path {
        let info = &device.info;
        let cached = Cached {
            adapter: format!("{} ({})", info.name, api_name(info)),
            driver: format!("{} {}", info.driver, info.driver_info),
            numerics: VERSION.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            failures: failures.clone(),
        };
        // Where it cannot be written, the next start tries again.
        let _ = serde_json::to_vec_pretty(&cached).map(|json| disk::write(&path, &[&json]));
    }
    Ok(failures)
}
