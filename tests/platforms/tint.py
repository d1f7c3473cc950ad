"""Gives shaders to Tint, the WGSL compiler of Chrome and Dawn, for scripts/platforms.

    tint.py FOLDER      what `samebits validate --kernels FOLDER` wrote

Dawn's null backend makes modules and pipelines as any other, down to where a driver would begin: no GPU is needed.
Every assembled text is parsed and checked (grammar, types, uniformity of barriers); every kernel of kernels.json becomes a
pipeline with its overrides, within the 256 threads, 16 KiB and 8 storage buffers of that backend, or is checked against the
1,024 threads, 32 KiB and 10 storage buffers that browsers on real GPUs offer (some kernels that the program can do without need
more buffers).
"""

import json
import os
import pathlib
import re
import sys

os.environ["WGPU_BACKEND_TYPE"] = "Null"

import wgpudawn  # noqa: E402,F401
from wgpudawn.backends.auto import gpu  # noqa: E402

# Tint does not know wgpu's matrix units, and wgpu reaches them through SPIR-V.
ONLY_NAGA = "enable wgpu_cooperative_matrix;"
MOST_BYTES, MOST_THREADS, MOST_BUFFERS = 32768, 1024, 10
# The program makes these only where there are buffers enough, and else takes the kernels that they are made of.
OPTIONAL = re.compile(r"(qkv|siblings)_joined\.")
TOO_LARGE = re.compile(r"workgroup storage|workgroup invocations|workgroup_size|number of storage buffers \((\d+)\)")
# What no model's kernels are among: one that only measures, those of matrix units, and what runs before and behind them.
UNLISTED = {"bandwidth", "tiled_units", "tiled_units8", "tiled_lanes"}


def first_words(error):
    lines = [line for line in str(error).splitlines() if line.strip()]
    return " | ".join(lines[:4])


def main(folder):
    adapter = gpu.request_adapter_sync()
    features = [f for f in ["shader-f16"] if f in adapter.features]
    device = adapter.request_device_sync(required_features=features, required_limits=dict(adapter.limits))
    modules, failures = {}, []
    texts = sorted((folder / "kernels").glob("*.wgsl"))
    skipped = 0
    for path in texts:
        source = path.read_text()
        if ONLY_NAGA in source:
            skipped += 1
            continue
        try:
            modules[path.stem] = device.create_shader_module(label=path.stem, code=source)
        except Exception as error:
            failures.append((path.stem, first_words(error)))
    pipelines = beyond = 0
    kernels = json.loads((folder / "kernels.json").read_text())
    listed = {kernel["variant"].partition(".")[0] for kernel in kernels}
    for shader in sorted({path.name.partition(".")[0] for path in texts} - listed - UNLISTED):
        failures.append((shader, "no kernel of any model has this shader, so that other compilers are not given it"))
    for kernel in kernels:
        module = modules.get(kernel["variant"] + ".portable")
        if module is None:
            continue
        stage = {"module": module, "entry_point": "main", "constants": kernel["constants"]}
        try:
            device.create_compute_pipeline(layout="auto", compute=stage)
            pipelines += 1
        except Exception as error:
            large = TOO_LARGE.search(str(error))
            fits = kernel["workgroup_bytes"] <= MOST_BYTES and kernel["threads"] <= MOST_THREADS
            few = large and int(large.group(1) or 0) <= MOST_BUFFERS
            if large and fits and (few or OPTIONAL.match(kernel["variant"])):
                beyond += 1
            else:
                failures.append((kernel["file"], first_words(error)))
    print(
        f"tint: {len(modules)} of {len(texts) - skipped} texts compile ({skipped} for matrix units left out), "
        f"{pipelines} pipelines, {beyond} more need more than 256 threads, 16 KiB or 8 storage buffers"
    )
    for name, why in failures:
        print(f"  FAIL {name}: {why}")
    if not modules:
        print("  FAIL: there was nothing to compile")
    return 1 if failures or not modules else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
