//! Plans that only look like llama's, and calls beyond a backend's limits: equal bits or an error, never something else.
#![cfg(builtin_model)]
#![allow(clippy::unwrap_used)]

mod common;

use common::{bits, device, on_cpu, sizes, turn, variable};
use proptest::prelude::*;
use samebits::backend::cpu::Cpu;
use samebits::backend::gpu::Gpu;
use samebits::backend::{Backend, BackendError, Batch, BatchError, Interrupt, Lane, Rows};
use samebits::engine::Session;
use samebits::model::Model;
use samebits::numerics::Precision;
use samebits::ops;
use samebits::plan::{Op, Plan, Step, StepName, WeightId};

const CONTEXT: usize = 64;

fn stories() -> Model {
    Model::stories().unwrap()
}

fn cpu(model: &Model, plan: &Plan) -> Cpu {
    Cpu::new(model, plan.clone(), sizes(CONTEXT, 32), 2).unwrap()
}

fn gpu(model: &Model, plan: &Plan) -> Gpu {
    Gpu::new(device(), model, plan.clone(), sizes(CONTEXT, 32), &mut |_| {}).unwrap()
}

/// The logits of `tokens` tokens, single ones and then the same in one batch.
fn both_ways(backend: &mut dyn Backend, tokens: usize) -> [Vec<u32>; 2] {
    let (ids, limits): (Vec<u32>, _) = ((3..).take(tokens).collect(), backend.limits());
    let mut singles = Vec::new();
    for (position, id) in ids.iter().enumerate() {
        let batch = Batch::checked(std::slice::from_ref(id), position, Rows::All, &limits).unwrap();
        singles.extend(bits(backend.forward(batch, None).unwrap()));
    }
    let batch = Batch::checked(&ids, 0, Rows::All, &limits).unwrap();
    [singles, bits(backend.forward(batch, None).unwrap())]
}

/// Runs a plan on both backends, token by token and at once, and compares; returns whether the GPU fused it.
fn same_bits(model: &Model, plan: &Plan, tokens: usize) -> bool {
    let _turn = turn();
    let mut gpu = gpu(model, plan);
    let [singles, batch] = both_ways(&mut cpu(model, plan), tokens);
    assert_eq!(singles, batch, "the CPU's batch");
    let [by_gpu, batch] = both_ways(&mut gpu, tokens);
    assert!(by_gpu == singles, "single tokens: fused {:?}", gpu.unfused_because());
    assert!(batch == singles, "{tokens} tokens at once");
    gpu.unfused_because().is_none()
}

fn change(plan: &mut Plan, mut change: impl FnMut(&str, &mut Op)) {
    plan.steps.iter_mut().for_each(|step| change(&step.name.to_string(), &mut step.op));
}

#[test]
fn the_shipped_model_takes_five_dispatches_a_layer() {
    let (model, _turn) = (stories(), turn());
    let gpu = gpu(&model, &model.plan(Precision::Fast).unwrap());
    assert_eq!(gpu.unfused_because(), None);
    // The embedding, the logits and the choice come on top.
    assert_eq!(gpu.dispatches_per_token(0), 5 * model.config.block_count + 3);
}

#[test]
fn norms_with_their_own_epsilon() {
    let model = stories();
    let mut plan = model.plan(Precision::Fast).unwrap();
    let mut n = 0.0;
    change(&mut plan, |_, op| {
        if let Op::RmsNorm(ops::RmsNorm { eps, .. }) = op {
            n += 1.0;
            *eps = 1e-5 + 1e-2 * n;
        }
    });
    assert!(same_bits(&model, &plan, 20));
}

#[test]
fn a_second_reader_of_a_norm_gets_what_the_norm_is() {
    let model = stories();
    for norm in ["attn_norm", "ffn_norm"] {
        let mut plan = model.plan(Precision::Fast).unwrap();
        let (mut steps, mut x) = (Vec::new(), None);
        for step in std::mem::take(&mut plan.steps) {
            if let Op::RmsNorm(ops::RmsNorm { x: from, out, .. }) = step.op
                && step.name.part == norm
            {
                x = Some((from, out));
            }
            let last = step.name.part == "ffn_residual";
            let name = StepName { part: format!("{}.again", step.name.part), ..step.name.clone() };
            steps.push(step);
            if let (true, Some((x, norm))) = (last, x) {
                steps.push(Step { name, op: Op::Add(ops::Add { x, b: norm }) });
            }
        }
        plan.steps = steps;
        plan.check().unwrap();
        assert!(!same_bits(&model, &plan, 20), "{norm}: the fused kernels do not keep a norm");
    }
}

#[test]
fn what_is_read_behind_the_layers_is_kept() {
    let model = stories();
    let mut plan = model.plan(Precision::Fast).unwrap();
    let norm = plan.steps.iter().find_map(|s| match s.op {
        Op::RmsNorm(ops::RmsNorm { out, .. }) => Some(out),
        _ => None,
    });
    let gather = plan.first_wanted();
    let Op::Gather(ops::Gather { x, .. }) = plan.steps[gather].op else { panic!("no wanted rows") };
    let name = StepName { layer: None, part: "again".to_owned() };
    plan.steps.insert(gather, Step { name, op: Op::Add(ops::Add { x, b: norm.unwrap() }) });
    plan.check().unwrap();
    assert!(!same_bits(&model, &plan, 20));
}

#[test]
fn pairs_of_halves_are_fused_too() {
    let model = stories();
    let mut plan = model.plan(Precision::Fast).unwrap();
    change(&mut plan, |_, op| {
        if let Op::Rope(ops::Rope { neox, .. }) = op {
            *neox = true;
        }
    });
    assert!(same_bits(&model, &plan, 20));
}

#[test]
fn what_is_not_fused_is_said() {
    let model = stories();
    let mut plan = model.plan(Precision::Fast).unwrap();
    // Queries and keys with pairs of their own have no kernel together.
    change(&mut plan, |name, op| {
        if let (Op::Rope(ops::Rope { neox, .. }), true) = (op, name.ends_with("attn_k.rope")) {
            *neox = true;
        }
    });
    let _turn = turn();
    let layers = model.config.block_count;
    let said = gpu(&model, &plan).unfused_because().map(str::to_owned);
    assert_eq!(said, Some(format!("{layers} × attn_q.rope, {layers} × attn_k.rope, {layers} × kv_cache")));
}

#[test]
fn a_gate_of_itself_is_computed() {
    let model = stories();
    let mut plan = model.plan_of_layers(Precision::Fast, 0..1).unwrap();
    change(&mut plan, |_, op| {
        if let Op::SiluMul(ops::SiluMul { a, b, .. }) = op {
            *a = *b;
        }
    });
    plan.check().unwrap();
    assert!(!same_bits(&model, &plan, 18));
}

/// A change of one operand of a plan.
fn rewired(plan: &Plan, which: usize, with: usize) -> Plan {
    let mut plan = plan.clone();
    let buffers = plan.buffers.len();
    let mut places = 0;
    let mut visit = |id: &mut samebits::plan::BufferId| {
        if places == which {
            id.0 = with % buffers;
        }
        places += 1;
    };
    // The operands of the first two layers: every kind of step is there.
    for step in plan.steps.iter_mut().take(44) {
        match &mut step.op {
            Op::Embedding(ops::Embedding { out, .. }) => visit(out),
            Op::RmsNorm(ops::RmsNorm { x, out, .. })
            | Op::QuantizeActivations(ops::QuantizeActivations { x, out })
            | Op::Matmul(ops::Matmul { x, out, .. })
            | Op::Gather(ops::Gather { x, out }) => {
                visit(x);
                visit(out);
            }
            Op::Rope(ops::Rope { x, .. }) | Op::Scale(ops::Scale { x, .. }) | Op::SoftCap(ops::SoftCap { x, .. }) => {
                visit(x)
            }
            Op::KvStore(ops::KvStore { k: a, v: b, .. })
            | Op::Add(ops::Add { x: a, b })
            | Op::Route(ops::Route { x: a, out: b, .. })
            | Op::RowGate(ops::RowGate { x: a, h: b, .. }) => {
                visit(a);
                visit(b);
            }
            Op::Attention(ops::Attention { q, out, .. })
            | Op::ExpertMatmul(ops::ExpertMatmul { x: q, out, .. })
            | Op::Columns(ops::Columns { a: ops::columns::Slice { x: q, .. }, out, .. }) => {
                visit(q);
                visit(out);
            }
            Op::SiluMul(ops::SiluMul { a, b, out })
            | Op::GeluMul(ops::GeluMul { a, b, out })
            | Op::ClampedGate(ops::ClampedGate { a, b, out })
            | Op::Combine(ops::Combine { x: a, routes: b, out }) => {
                visit(a);
                visit(b);
                visit(out);
            }
        }
    }
    plan
}

/// Every plan with one operand changed on the CPU, where products of the same activations run as one.
#[test]
fn every_other_operand_is_refused_or_computed_on_the_cpu() {
    let model = stories();
    let original = model.plan_of_layers(Precision::Fast, 0..2).unwrap();
    let mut computed = 0;
    for which in 0.. {
        let mut is_there = false;
        for with in 0..original.buffers.len() {
            let plan = rewired(&original, which, with);
            is_there |= plan.steps != original.steps;
            if plan.check().is_ok() {
                let [singles, batch] = both_ways(&mut cpu(&model, &plan), 3);
                assert_eq!(singles, batch, "operand {which} is buffer {with}");
                computed += 1;
            }
        }
        if !is_there {
            break;
        }
    }
    assert!(computed > 60, "{computed} plans were computed");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: variable("SAMEBITS_PLANS", 12) as u32, failure_persistence: None, ..ProptestConfig::default() })]

    /// A plan with one operand changed is refused, or has the same bits on both backends and all ways to run it.
    #[test]
    fn a_plan_with_another_operand_is_refused_or_computed(which in 0usize..80, with in 0usize..16) {
        let model = stories();
        let plan = rewired(&model.plan_of_layers(Precision::Fast, 0..2).unwrap(), which, with);
        match plan.check() {
            Ok(()) => drop(same_bits(&model, &plan, 18)),
            Err(error) => {
                prop_assert!(matches!(Cpu::new(&model, plan, sizes(8, 1), 1), Err(BackendError::Plan(e)) if e == error));
            }
        }
    }
}

#[test]
fn plans_that_do_not_fit_together_name_the_step() {
    let model = stories();
    let plan = || model.plan(Precision::Fast).unwrap();
    type Case = (&'static str, &'static str, fn(&mut Plan));
    let broken: [Case; 11] = [
        ("token_embd", "weight 999", |p| {
            if let Op::Embedding(ops::Embedding { weight, .. }) = &mut p.steps[0].op {
                *weight = WeightId(999);
            }
        }),
        ("blk.0.attn_norm", "before anything is written", |p| drop(p.steps.remove(0))),
        ("blk.0.attention", "among 0 heads", |p| {
            change(p, |_, op| {
                if let Op::Attention(ops::Attention { heads, .. }) = op {
                    *heads = 0;
                }
            })
        }),
        ("blk.0.attention", "window of no positions", |p| p.caches[0].window = Some(0)),
        ("blk.0.attention", "caps scores at 0", |p| {
            change(p, |_, op| {
                if let Op::Attention(ops::Attention { scoring, .. }) = op {
                    scoring.cap = Some(0.0);
                }
            })
        }),
        ("blk.0.attention", "needs a vector of", |p| {
            change(p, |_, op| {
                if let Op::Attention(ops::Attention { scoring, .. }) = op {
                    scoring.sinks = Some(WeightId(1));
                }
            })
        }),
        ("blk.0.kv_cache", "the cache 7000", |p| {
            change(p, |_, op| {
                if let Op::KvStore(ops::KvStore { cache, .. }) = op {
                    cache.0 = 7000;
                }
            })
        }),
        ("blk.0.attn_q.rope", "angles", |p| p.angles.clear()),
        ("blk.0.attention", "before anything is appended", |p| {
            p.steps.retain(|s| s.name.to_string() != "blk.0.kv_cache")
        }),
        ("blk.1.attn_norm", "the name of an earlier step", |p| {
            let first = p.steps[1].clone();
            let at = p.steps.iter().position(|s| s.name.to_string() == "blk.1.attn_norm").unwrap();
            p.steps[at].name = first.name;
        }),
        ("output", "the logits of the wanted rows", |p| p.logits.0 = 0),
    ];
    for (step, reason, change) in broken {
        let mut plan = plan();
        change(&mut plan);
        let error = plan.check().unwrap_err();
        assert!(error.reason.contains(reason), "{error}");
        // The renamed step has the other's name.
        if reason != "the name of an earlier step" {
            assert_eq!(error.step, step, "{error}");
        }
    }
}

#[test]
fn a_batch_of_another_backend_is_refused() {
    let (model, _turn) = (stories(), turn());
    let plan = model.plan(Precision::Fast).unwrap();
    let mut large = Cpu::new(&model, plan.clone(), sizes(128, 32), 1).unwrap();
    let ids = [1, 2];
    let (batch, lane) = (
        Batch::checked(&ids, 100, Rows::None, &large.limits()).unwrap(),
        Lane::checked(1, 100, 2, &large.limits()).unwrap(),
    );
    large.forward(batch, None).unwrap();
    let small: [Box<dyn Backend>; 2] = [Box::new(cpu(&model, &plan)), Box::new(gpu(&model, &plan))];
    for mut small in small {
        let refused = |e: BackendError| assert!(matches!(e, BackendError::Batch(BatchError::OtherLimits)), "{e}");
        refused(small.forward(batch, None).unwrap_err());
        refused(small.profile(batch).unwrap_err());
        refused(small.run(lane, samebits::backend::Sampling::Greedy, true, &mut |_| true).unwrap_err());
        let beyond = Batch::checked(&ids, 100, Rows::None, &small.limits()).unwrap_err();
        assert_eq!(beyond, BatchError::Context { position: 100, rows: 2, context: CONTEXT });
    }
}

#[test]
fn all_logits_of_a_backend_that_gives_few_at_once() {
    let model = stories();
    let plan = model.plan(Precision::Fast).unwrap();
    let few = samebits::backend::Sizes { context: CONTEXT, batch: 16, logits_rows: 1 };
    let mut session = Session::new(Box::new(Cpu::new(&model, plan, few, 2).unwrap()), 16);
    let ids: Vec<u32> = (1..21).collect();
    let mut usual = on_cpu(&model, Precision::Fast, CONTEXT, 16, 2);
    assert_eq!(bits(&session.feed(&ids, true).unwrap()), bits(&usual.feed(&ids, true).unwrap()));
}

#[test]
fn an_interrupt_stops_both_backends_between_steps() {
    let (model, _turn) = (stories(), turn());
    let plan = model.plan(Precision::Fast).unwrap();
    let backends: [Box<dyn Backend>; 2] = [Box::new(cpu(&model, &plan)), Box::new(gpu(&model, &plan))];
    for mut backend in backends {
        let interrupt = Interrupt::default();
        backend.stop_on(interrupt.clone());
        let (ids, limits) = ([1, 2, 3], backend.limits());
        let batch = Batch::checked(&ids, 0, Rows::Last, &limits).unwrap();
        let mut heard = 0;
        let mut listen = |_: &Step, _: &[u32]| {
            heard += 1;
            if heard == 3 {
                interrupt.request();
            }
        };
        assert!(matches!(backend.forward(batch, Some(&mut listen)), Err(BackendError::Interrupted)));
        assert_eq!(heard, 3, "{}", backend.name());
        assert!(matches!(backend.forward(batch, None), Err(BackendError::Interrupted)));
        interrupt.clear();
        assert_eq!(backend.forward(batch, None).unwrap().len(), limits.vocabulary);
    }
}
