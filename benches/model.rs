//! The CPU's whole way: a token and a prompt of the built-in model.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[cfg(builtin_model)]
mod stories {
    use criterion::{Criterion, Throughput};
    use samebits::backend::Sizes;
    use samebits::backend::cpu::{Cpu, Isa};
    use samebits::engine::Session;
    use samebits::model::Model;
    use samebits::numerics::Precision;

    const CHUNK: usize = 64;

    pub fn bench(c: &mut Criterion) {
        let model = Model::stories().unwrap();
        let sizes = Sizes { context: 4 * CHUNK, batch: CHUNK, logits_rows: 1 };
        for (name, precision) in [("fast", Precision::Fast), ("precise", Precision::Precise)] {
            let plan = model.plan(precision).unwrap();
            let threads = num_cpus::get_physical();
            let cpu = Cpu::with_isa(&model, plan, sizes, threads, Isa::from_environment().unwrap()).unwrap();
            let mut session = Session::new(Box::new(cpu), CHUNK);
            let prompt: Vec<u32> = (0..CHUNK as u32).map(|i| i * 7 + 3).collect();
            let mut group = c.benchmark_group(format!("stories/{name}"));
            group.throughput(Throughput::Elements(CHUNK as u64));
            group.bench_function("a prompt of 64", |b| {
                b.iter(|| {
                    session.clear();
                    session.feed(&prompt, false).unwrap()
                });
            });
            group.throughput(Throughput::Elements(1));
            group.bench_function("a token behind 64", |b| {
                b.iter(|| {
                    session.truncate(CHUNK);
                    session.feed(&[5], false).unwrap()
                });
            });
        }
    }
}

#[cfg(not(builtin_model))]
mod stories {
    pub fn bench(_: &mut criterion::Criterion) {}
}

criterion::criterion_group!(model, stories::bench);
criterion::criterion_main!(model);
