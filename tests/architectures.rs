//! Tiny models of every architecture (`tests/data/arch`): close to float64 within what rounded activations explain, and the same bits on
//! every path.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use common::{bits, data, floats, ids, json, on_cpu, on_gpu, on_isa, turn};
use samebits::backend::cpu::Isa;
use samebits::engine::Session;
use samebits::model::{Model, architectures};
use samebits::numerics::Precision;
use serde_json::Value;

/// Records of `arch.json`, each with its model; what the names in `SAMEBITS_ARCH` do not occur in is left out.
fn records() -> Vec<(Value, Model)> {
    let only = std::env::var("SAMEBITS_ARCH").unwrap_or_default();
    let all = json("arch/arch.json")["models"].as_array().unwrap().clone();
    let all = all.into_iter().filter(|r| r["file"].as_str().unwrap().contains(&only));
    let open = |r: Value| {
        let model = Model::open(&data("arch").join(r["file"].as_str().unwrap()));
        let model = model.unwrap_or_else(|e| panic!("{}: {e}", r["file"]));
        (r, model)
    };
    all.map(open).collect()
}

/// What rounding activations changes in the reference: to halves, or to 8 bits where weights are integers.
fn bound(record: &Value, precision: Precision) -> f64 {
    let of = |kind: &str| record["act_error"][kind]["max_abs"].as_f64().unwrap_or(0.0);
    let halves = of("f16");
    2.0 * if precision == Precision::Fast { halves.max(of("q8_0")).max(of("q8_k")) } else { halves }
}

/// The logits of all tokens, so many at once.
fn all_logits(session: &mut Session, ids: &[u32], rows: usize) -> Vec<u32> {
    session.clear();
    ids.chunks(rows).flat_map(|ids| bits(&session.feed(ids, true).unwrap())).collect()
}

#[test]
fn logits_are_those_of_the_reference() {
    let mut failed = Vec::new();
    for (record, model) in records() {
        let (ids, want) = (ids(&record["ids"]), floats(&record["last_logits"]));
        let context = record["n_ctx"].as_u64().unwrap() as usize;
        for precision in [Precision::Precise, Precision::Fast] {
            let got = on_cpu(&model, precision, context, 16, 2).feed(&ids, false).unwrap();
            let off = got.iter().zip(&want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
            let bound = bound(&record, precision);
            println!("{} {context} {precision:?}: {off:.2e} of {bound:.2e}", record["file"]);
            if off > bound {
                failed.push(format!("{} {precision:?}: {off:.2e} > {bound:.2e}", record["file"]));
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn bits_are_the_same_on_every_path() {
    let _turn = turn();
    for (record, model) in records() {
        let ids = ids(&record["ids"]);
        // Plain numbers are multiplied alike in both.
        let integers =
            model.plan(Precision::Fast).unwrap().weights.iter().any(|w| w.format.activation_block().is_some());
        for precision in [Precision::Fast, Precision::Precise].into_iter().take(1 + usize::from(integers)) {
            let place = format!("{} {precision:?}", record["file"]);
            let want = all_logits(&mut on_isa(&model, precision, 64, 40, 2, Isa::Scalar), &ids, 40);
            let (mut cpu, mut gpu) = (on_cpu(&model, precision, 64, 40, 2), on_gpu(&model, precision, 64, 40));
            for rows in [1, 3, 40] {
                assert!(all_logits(&mut cpu, &ids, rows) == want, "{place}: CPU, vectors, {rows} rows");
                assert!(all_logits(&mut gpu, &ids, rows) == want, "{place}: GPU, {rows} rows");
            }
        }
    }
}

#[test]
fn every_architecture_has_a_file() {
    let records = records();
    for name in architectures() {
        assert!(records.iter().any(|(r, _)| r["architecture"] == name), "{name}");
    }
}
