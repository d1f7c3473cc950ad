//! Every format against ggml's own values.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{Random, json};
use samebits::numerics::{ActivationRow, Precision};
use samebits::ops::quantize_activations;
use samebits::quant::{FORMATS, Format};

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
