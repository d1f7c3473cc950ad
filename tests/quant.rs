//! Every format against ggml's own values.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{Random, json};
use samebits::numerics::{ActivationRow, Precision};
use samebits::ops::quantize_activations;
use samebits::quant::{Decode, FORMATS, Format};

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap()).collect()
}

fn floats(text: &str) -> Vec<f32> {
    unhex(text).chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn cases(format: &Format) -> serde_json::Value {
    let file = json(&format!("dequant/{}.json", format.name));
    assert_eq!(file["ggml_type_id"], format.type_id);
    assert_eq!(file["block_values"], format.block);
    assert_eq!(file["block_bytes"], format.bytes);
    file
}

#[test]
fn dequantisation_is_exact() {
    for format in FORMATS {
        for case in cases(format)["cases"].as_array().unwrap() {
            let raw = unhex(case["raw_hex"].as_str().unwrap());
            let want = floats(case["f32_le_hex"].as_str().unwrap());
            let mut got = vec![0.0; want.len()];
            format.dequantize(&raw, &mut got);
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                let equal =
                    got.to_bits() == want.to_bits() || (*got == 0.0 && *want == 0.0) || (got.is_nan() && want.is_nan());
                assert!(equal, "{} {} value {i}: {got:e}, want {want:e}", format.name, case["name"]);
            }
        }
    }
}

#[test]
fn products_are_close() {
    for format in FORMATS {
        for case in cases(format)["cases"].as_array().unwrap().iter().filter(|c| c.get("matvec").is_some()) {
            let raw = unhex(case["raw_hex"].as_str().unwrap());
            let matvec = &case["matvec"];
            let x = floats(matvec["x_f32_le_hex"].as_str().unwrap());
            for precision in [Precision::Fast, Precision::Precise] {
                let (mut hi, mut lo, mut scale) = (vec![0i8; x.len()], vec![0i8; x.len()], vec![0.0; x.len()]);
                let row = match format.activation_block() {
                    None => ActivationRow::Float(&x),
                    Some(block) => {
                        quantize_activations::cpu(block, precision, &x, &mut hi, &mut lo, &mut scale);
                        let lo = if precision == Precision::Precise { Some(&lo[..]) } else { None };
                        ActivationRow::Quantized { scale: &scale, hi: &hi, lo }
                    }
                };
                let bytes = format.row_bytes(x.len());
                for (n, raw) in raw.chunks_exact(bytes).enumerate() {
                    let mut y = [0.0];
                    format.dot(raw, &[row], &mut y);
                    let want = matvec["y"][n].as_f64().unwrap();
                    let size = matvec["sum_abs_products"][n].as_f64().unwrap();
                    // Rounding to 127 or 32512 steps of the block's largest value, and to 13 bits for plain 16-bit numbers.
                    let bound = match (format.activation_block(), precision) {
                        (Some(_), Precision::Fast) => 1e-2,
                        (None, _) if format.bytes == 4 => 1e-6,
                        _ => 1e-4,
                    };
                    let error = (f64::from(y[0]) - want).abs() / size;
                    assert!(error <= bound, "{} {precision:?} row {n}: {} for {want}, {error:e}", format.name, y[0]);
                }
            }
        }
    }
}

#[test]
fn random_bytes_do_not_panic() {
    let mut random = Random(1);
    for format in FORMATS {
        for _ in 0..200 {
            let n = if format.block == 1 { 256 } else { format.block };
            let raw: Vec<u8> = (0..n / format.block * format.bytes).map(|_| random.word() as u8).collect();
            let mut out = vec![0.0; n];
            format.dequantize(&raw, &mut out);
            let (hi, lo) = (vec![-127i8; n], vec![-128i8; n]);
            let x = vec![1.0f32; n];
            let row = match format.activation_block() {
                None => ActivationRow::Float(&x),
                Some(_) => ActivationRow::Quantized { scale: &[1.0], hi: &hi, lo: Some(&lo) },
            };
            format.dot(&raw, &[row], &mut [0.0]);
        }
    }
}

#[test]
fn streams_cover_each_block_once() {
    for format in FORMATS {
        let mut used = vec![0; format.bytes];
        format.streams.iter().for_each(|&(at, len)| used[at..at + len].iter_mut().for_each(|n| *n += 1));
        assert!(used.iter().all(|n| *n == 1), "{}", format.name);
        assert!(format.streams.len() <= 4);
    }
}

/// ggml's own quantiser on the same numbers gives the same bytes.
#[test]
fn quantisers_make_what_ggml_makes() {
    for case in json("quantize.json")["cases"].as_array().unwrap() {
        let x = floats(case["x_f32_le_hex"].as_str().unwrap());
        for format in FORMATS.iter().filter(|f| f.name != "F32") {
            let want = unhex(case["raw_hex"][format.name].as_str().unwrap());
            let mut got = vec![0u8; want.len()];
            format.quantize(&x, &mut got);
            assert!(got == want, "{} {}", format.name, case["name"]);
        }
    }
}

/// docs/numerics.md, "Error of a product".
#[test]
fn products_stay_within_the_bound_of_the_contract() {
    let mut random = Random(3);
    for format in FORMATS {
        let Some(block) = format.activation_block() else { continue };
        for blocks in [1, 2, 5, 17] {
            let n = blocks * block;
            let mut weights = vec![0.0f32; n];
            let mut raw = vec![0u8; format.row_bytes(n)];
            format.quantize(&random.floats(n, -8, 0), &mut raw);
            format.dequantize(&raw, &mut weights);
            let x = random.floats(n, -6, 4);
            for precision in [Precision::Fast, Precision::Precise] {
                let (mut hi, mut lo, mut scale) = (vec![0i8; n], vec![0i8; n], vec![0.0; blocks]);
                quantize_activations::cpu(block, precision, &x, &mut hi, &mut lo, &mut scale);
                let lo = if precision == Precision::Precise { Some(&lo[..]) } else { None };
                let mut y = [0.0];
                format.dot(&raw, &[ActivationRow::Quantized { scale: &scale, hi: &hi, lo }], &mut y);
                let (mut exact, mut size, mut bound) = (0.0, 0.0, 0.0);
                let sizes = part_sizes(format, &raw);
                for ((w, sizes), x) in weights.chunks(block).zip(sizes.chunks(block)).zip(x.chunks(block)) {
                    let products = || w.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x));
                    let amax = x.iter().fold(0.0f64, |m, x| m.max(f64::from(x.abs())));
                    exact += products().sum::<f64>();
                    size += sizes.iter().zip(x).map(|(w, x)| w * f64::from(x.abs())).sum::<f64>();
                    bound += amax / f64::from(precision.steps()) * w.iter().map(|w| f64::from(w.abs())).sum::<f64>();
                }
                let (u, terms) = (f64::powi(2.0, -24), blocks as f64);
                let limit = 0.5 * bound * (1.0 + f64::powi(2.0, -8)) + (terms / 8.0 + 11.0) * u * (size + bound);
                let error = (f64::from(y[0]) - exact).abs();
                assert!(error <= limit, "{} {precision:?} {blocks} blocks: {error:e} > {limit:e}", format.name);
            }
        }
    }
}

/// `|d s q| + |m mm|` of every weight.
fn part_sizes(format: &Format, raw: &[u8]) -> Vec<f64> {
    let Decode::Block { scales, unpack, .. } = format.decode else { return Vec::new() };
    let mut sizes = Vec::new();
    for block in raw.chunks(format.bytes) {
        let [d, m] = scales(block).map(f64::from);
        for c in 0..format.block / 32 {
            let mut q = [0; 32];
            let sub = unpack(block, c, &mut q);
            sizes.extend(q.iter().enumerate().map(|(i, q)| {
                (d * f64::from(sub.s[i / 16]) * f64::from(*q)).abs() + (m * f64::from(sub.m[i / 16])).abs()
            }));
        }
    }
    sizes
}
