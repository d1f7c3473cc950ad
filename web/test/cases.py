"""Writes the cases that the page's program is tested with, and what the native program gives for each.

    cases.py PROGRAM FORMATS FOLDER [MODEL FILE] [--quick]      MODEL here is FILE where the page is tested, FORMATS is FOLDER
"""

import json
import pathlib
import subprocess
import sys

STORY = {"prompt": "Once upon a time"}
BOTH, NODE = {"node": True, "chromium": True}, {"node": True}
CPU, WEBGPU = {"webgpu": False}, {"webgpu": True}
GREEDY, DRAWN = {"temperature": 0, "seed": 0}, {"temperature": 0.8, "seed": 7}
FAST, PRECISE = {"precise": False}, {"precise": True}


def native(program, case, model):
    """What the native program gives on the CPU."""
    options = ["--backend", "cpu", "--json", "--precision", "precise" if case["precise"] else "fast"]
    if model:
        options += ["-m", model]
    if case.get("verify"):
        command = [program, "verify", "--quick", *options]
    else:
        command = [program, "generate", "-q", "-p", case["prompt"], "--chat" if case.get("chat") else "--raw", "-n", str(case["tokens"])]
        command += ["--temp", str(case["temperature"]), "--seed", str(case["seed"]), *options]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main():
    arguments = [a for a in sys.argv[1:] if a != "--quick"]
    quick = "--quick" in sys.argv
    program, formats, folder = arguments[:3]
    model, file = arguments[3:] or (None, None)
    cases = [
        {"name": "CPU, greedy", **BOTH, **CPU, **FAST, **STORY, **GREEDY, "tokens": 128},
        {"name": "CPU, precise", **BOTH, **CPU, **PRECISE, **STORY, **GREEDY, "tokens": 32},
        {"name": "CPU, drawn", **BOTH, **CPU, **FAST, **STORY, **DRAWN, "tokens": 128},
        {"name": "CPU, verify", **BOTH, **CPU, **FAST, "verify": True},
        {"name": "CPU, verify, precise", **NODE, **CPU, **PRECISE, "verify": True},
        {"name": "WebGPU, greedy", **BOTH, **WEBGPU, **FAST, **STORY, **GREEDY, "tokens": 32},
        {"name": "WebGPU, drawn", **BOTH, **WEBGPU, **FAST, **STORY, **DRAWN, "tokens": 32},
    ]
    if not quick:
        cases += [
            {"name": "WebGPU, precise", **BOTH, **WEBGPU, **PRECISE, **STORY, **GREEDY, "tokens": 32},
            {"name": "WebGPU, verify, precise", **BOTH, **WEBGPU, **PRECISE, "verify": True},
            {"name": "WebGPU, verify", **BOTH, **WEBGPU, **FAST, "verify": True, "screenshot": "page"},
        ]
    if model:
        other = {**FAST, **GREEDY, "prompt": "The capital of France is", "tokens": 16, "file": file}
        cases += [{"name": "SmolLM2, CPU", **BOTH, **CPU, **other}]
        cases += [{"name": "SmolLM2, CPU, a message", **BOTH, **CPU, **other, "prompt": "Name a colour.", "chat": True}]
        if not quick:
            cases += [{"name": "SmolLM2, WebGPU", **BOTH, **WEBGPU, **other}]
    # There is a kernel for each kind of format, precision and number of rows: up to 2, 4, 8 and 16 of a prompt, one of a new token.
    for path in sorted(pathlib.Path(formats).glob("*.gguf")):
        for precision in [FAST, PRECISE]:
            for prompt in ["Once", "Once upon a", "Once upon a time, there was", "Once upon a time there was a little dog. He ran to the red house and saw"]:
                name = f"CPU, {path.stem}, {'precise' if precision['precise'] else 'fast'}, {len(prompt.split())} words"
                cases.append({"name": name, **NODE, **CPU, **precision, **GREEDY, "prompt": prompt, "tokens": 3, "file": f"{folder}/{path.name}", "model": str(path)})
    for case in cases:
        result = native(program, case, case.pop("model", model) if "file" in case else None)
        keys = ["fingerprint"] if case.get("verify") else ["tokens", "logits_hash"]
        case["expected"] = {key: result[key] for key in keys}
    json.dump(cases, sys.stdout, indent=1)


main()
