//! `samebits devices`.

use clap::Args;
use serde_json::json;

use super::Outcome;
use super::terminal::{note, print, print_json};
use crate::backend::gpu::{Api, adapters, api_name, is_software};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(a: &Arguments) -> Outcome {
    let mut all = Vec::new();
    for (i, adapter) in adapters(Api::Any).iter().enumerate() {
        let (info, limits) = (adapter.get_info(), adapter.limits());
        let kind = format!("{:?}", info.device_type);
        if a.json {
            all.push(json!({
                "device": i,
                "name": info.name,
                "api": api_name(&info),
                "kind": kind,
                "software": is_software(&info),
                "driver": info.driver,
                "driver_info": info.driver_info,
                "subgroup_sizes": [info.subgroup_min_size, info.subgroup_max_size],
                "max_storage_buffer_binding_size": limits.max_storage_buffer_binding_size,
                "max_buffer_size": limits.max_buffer_size,
                "max_compute_workgroup_storage_size": limits.max_compute_workgroup_storage_size,
                "max_compute_workgroups_per_dimension": limits.max_compute_workgroups_per_dimension,
                "features": adapter.features().iter_names().map(|(name, _)| name).collect::<Vec<_>>(),
            }));
            continue;
        }
        print(&format!("{i}: {} ({}, {kind})", info.name, api_name(&info)))?;
        print(&format!("   driver       {} {}", info.driver, info.driver_info))?;
        print(&format!("   subgroups    {} to {}", info.subgroup_min_size, info.subgroup_max_size))?;
        let mib = |bytes: u64| bytes >> 20;
        let (binding, buffer) = (limits.max_storage_buffer_binding_size, limits.max_buffer_size);
        print(&format!("   limits       binding {} MiB, buffer {} MiB", mib(binding), mib(buffer)))?;
    }
    if a.json {
        return Ok(print_json(&json!(all))?);
    }
    if adapters(Api::Any).is_empty() {
        note!("no GPU adapter found; --backend cpu works without one");
    }
    Ok(())
}
