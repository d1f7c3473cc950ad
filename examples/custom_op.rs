//! An op of one's own, checked against its twin: `cargo run --release --example custom_op`.
//!
//! The op is `out = x * sigmoid(1.702 * x)`, an approximation of GELU. The WGSL kernel is made of the functions of
//! `wgsl/lib/numerics.wgsl`, the Rust function of those of `samebits::numerics`. Both seal every rounding, so the bits are equal on every
//! device, and that is what the example compares.

use samebits::backend::gpu::{AdapterOptions, Device, Kernel};
use samebits::numerics::{ACTIVATION_FLOOR, flush, settle, sigmoid};
use samebits::shaders::Shader;
use samebits::shaders::params::State;

/// The kernel. Binding 0 is the state of a run, which every kernel has; 1 its parameters.
static QUICK_GELU: Shader = Shader {
    name: "quick_gelu",
    file: "",
    own: &[],
    wgsl: "
struct Params {
  width: u32,
}
@group(0) @binding(1) var<uniform> params: Params;
@group(0) @binding(2) var<storage, read> x: array<f32>;
@group(0) @binding(3) var<storage, read_write> out: array<f32>;

@compute @workgroup_size(64)
fn main(@builtin(global_invocation_id) thread: vec3<u32>) {
  let i = thread.x;
  if i >= params.width { return; }
  let a = flush(x[i], ACTIVATION_FLOOR);
  out[i] = settle(mul(a, sigmoid(mul(1.702, a))));
}
",
};

/// Its twin, which defines the bits.
fn twin(x: f32) -> f32 {
    let a = flush(x, ACTIVATION_FLOOR);
    settle(a * sigmoid(1.702 * a))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut device = Device::open(&AdapterOptions::default())?;
    let x: Vec<f32> = (0..10_000).map(|i| (i as f32 - 5_000.0) * 0.003).collect();

    let pipeline = device.pipeline(&Kernel::new(&QUICK_GELU))?;
    let buffers = [
        device.upload("state", bytemuck::bytes_of(&State { rows: 1, ..State::default() }))?,
        device.uniform("params", &(x.len() as u32).to_le_bytes())?,
        device.upload("x", bytemuck::cast_slice(&x))?,
        device.upload("out", &vec![0; 4 * x.len()])?,
    ];
    let bindings = device.bind(&pipeline, &buffers.each_ref());
    let mut encoder = device.device.create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(pipeline.code()?);
        pass.set_bind_group(0, &bindings, &[0]);
        pass.dispatch_workgroups((x.len() as u32).div_ceil(64), 1, 1);
    }
    device.queue.submit([encoder.finish()]);
    let got = device.read(&buffers[3], 0, x.len())?;

    let wrong = x.iter().zip(&got).filter(|(x, got)| twin(**x).to_bits() != **got).count();
    println!("{}: {wrong} of {} results differ from the twin", device.info.name, x.len());
    if wrong == 0 { Ok(()) } else { Err("the kernel is not its twin".into()) }
}
