"""Compiles naga's Metal text as C++ and runs it, for scripts/platforms.

    msl.py FOLDER WORK FILE…      what `samebits validate --kernels FOLDER --dispatches` wrote, and the kernels to run

Every recorded dispatch (its buffers before, and what they must hold behind it) is run by its kernel's Metal text, which g++
compiles over tests/platforms/metal. Not an Apple compiler: it shows what naga or a shader writes wrongly.
"""

import concurrent.futures
import ctypes
import hashlib
import json
import os
import pathlib
import re
import struct
import subprocess
import sys

# The binding of a kernel's parameters.
PARAMS = 1
HERE = pathlib.Path(__file__).parent
SIGNATURE = re.compile(r"kernel void (\w+)\((.*?)\n\) \{", re.S)
BUILTINS = {
    "threadgroup_position_in_grid": "group",
    "thread_index_in_threadgroup": "index",
    "thread_position_in_threadgroup": "metal::uint3(index, 0, 0)",
    "thread_position_in_grid": "metal::uint3(group.x * threads + index, group.y, group.z)",
}


def wrapper(text, path):
    """C++ that calls the kernel for every thread of a grid."""
    found = SIGNATURE.search(text)
    if not found:
        raise ValueError("no kernel in the text")
    name, parameters = found.groups()
    arguments, shared = [], []
    for parameter in re.split(r"\n\s*,?\s*", parameters.strip()):
        parameter = parameter.lstrip(", ").strip()
        attribute = re.search(r"\[\[(\w+)(?:\((\d+)\))?\]\]", parameter)
        declared = parameter.split("[[")[0].strip()
        if attribute and attribute.group(1) == "buffer":
            kind = re.sub(r"^(device|constant)\s+", "", declared).rsplit("&", 1)[0].replace(" const", "").strip()
            arguments.append(f"*({kind} *)buffers[{attribute.group(2)}]")
        elif attribute and attribute.group(1) in BUILTINS:
            arguments.append(BUILTINS[attribute.group(1)])
        elif declared.startswith("threadgroup "):
            kind = declared[len("threadgroup ") :].split("&")[0].strip()
            shared.append(f"  alignas(16) static unsigned char shared{len(shared)}[sizeof({kind})];")
            arguments.append(f"*({kind} *)shared{len(shared) - 1}")
        else:
            raise ValueError(f"unknown parameter: {parameter}")
    fill = "".join(f" std::memset(shared{i}, 0xa5, sizeof shared{i});" for i in range(len(shared)))
    barrier = "threadgroup_barrier" in text
    call = f"{name}({', '.join(arguments)})"
    run = f"if (!fibers::run(threads, [&](uint32_t index) {{ {call}; }})) return 1;" if barrier else (
        f"for (uint32_t index = 0; index < threads; index++) {call};"
    )
    lines = "\n".join(shared)
    return f"""#include "fibers.h"
#include "{path}"
extern "C" int run(void **buffers, const uint32_t *groups, uint32_t threads) {{
{lines}
  metal::uint3 group;
  for (group.z = 0; group.z < groups[2]; group.z++)
    for (group.y = 0; group.y < groups[1]; group.y++)
      for (group.x = 0; group.x < groups[0]; group.x++) {{
       {fill}
        {run}
      }}
  return 0;
}}
"""


def compiled(text_path, work):
    """The kernel as a library; one that was compiled before is used again."""
    text = text_path.read_text()
    parts = [text] + [p.read_text() for p in sorted((HERE / "metal").glob("*")) if p.is_file()]
    parts.append(pathlib.Path(__file__).read_text())
    name = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
    library = work / f"{name}.so"
    if not library.exists():
        source = work / f"{name}.cpp"
        source.write_text(wrapper(text, text_path.resolve()))
        # In Metal 1.0 is a float; and an array of unknown length is declared with one element.
        command = ["g++", "-std=c++17", "-O1", "-ffp-contract=off", "-fsingle-precision-constant", "-fwrapv"]
        command += ["-fno-strict-aliasing", "-fno-aggressive-loop-optimizations", "-w", "-shared", "-fPIC", "-x", "c++"]
        command += ["-I", str(HERE / "metal"), "-o", f"{library}.tmp", str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"does not compile: {done.stderr[:1500]}")
        os.rename(f"{library}.tmp", library)
    return library


def run(library, case, data):
    """What differs, or None."""
    code = ctypes.CDLL(str(library))
    words = lambda span: data[4 * span[0] : 4 * (span[0] + span[1])]
    zeroed = lambda contents: ctypes.create_string_buffer(bytes(contents), max(16, len(contents)))
    buffers = [zeroed(words(b["before"])) for b in case["buffers"]]
    bound = {b["binding"]: buffer for b, buffer in zip(case["buffers"], buffers)}
    bound[PARAMS] = zeroed(words(case["params"]))
    # Behind the last is the table of lengths, which no kernel reads: none asks for the length of an array.
    pointers = (ctypes.c_void_p * (max(bound) + 2))(*[ctypes.addressof(bound[i]) if i in bound else None for i in range(max(bound) + 1)])
    groups = (ctypes.c_uint32 * 3)(*case["groups"])
    if code.run(pointers, groups, ctypes.c_uint32(case["threads"])):
        return "some threads end while others wait at a barrier"
    for i, (buffer, expected) in enumerate(zip(buffers, case["buffers"])):
        if expected["after"] is None:
            continue
        got, wanted = buffer.raw[: 4 * expected["after"][1]], bytes(words(expected["after"]))
        if got != wanted:
            n = len(wanted) // 4
            pairs = zip(struct.unpack(f"{n}I", got), struct.unpack(f"{n}I", wanted))
            wrong = [(at, a, b) for at, (a, b) in enumerate(pairs) if a != b]
            at, a, b = wrong[0]
            return f"buffer {i}: {len(wrong)} of {n} words differ, at {at} {a:#010x} for {b:#010x}"
    return None


def main(folder, work, *files):
    folder, work = pathlib.Path(folder), pathlib.Path(work)
    work.mkdir(parents=True, exist_ok=True)
    cases = json.loads((folder / "dispatches.json").read_text())
    data = memoryview((folder / "dispatches.bin").read_bytes())
    kernels = sorted(pathlib.Path(file).name.removesuffix(".metal") for file in files)
    failures, libraries = [], {}

    def make(kernel):
        try:
            return kernel, compiled(folder / "kernels" / f"{kernel}.metal", work), None
        except ValueError as error:
            return kernel, None, str(error)

    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for kernel, library, error in pool.map(make, kernels):
            if error:
                failures.append((kernel, error))
            else:
                libraries[kernel] = library
    count = 0
    for case in cases:
        library = libraries.get(case["file"])
        if library is None:
            continue
        count += 1
        # In a process of its own: a wrong index ends that, and is told.
        pid = os.fork()
        if pid == 0:
            why = run(library, case, data)
            if why:
                print(f"  FAIL {case['name']} {case['shape']}: {why}", flush=True)
            os._exit(1 if why else 0)
        status = os.waitpid(pid, 0)[1]
        if status:
            failures.append((case["name"], ""))
            if os.WIFSIGNALED(status):
                print(f"  FAIL {case['name']} {case['shape']}: ended by signal {os.WTERMSIG(status)}")
    print(f"msl: {len(libraries)} of {len(kernels)} kernels compile as C++, {count} dispatches run, {len(failures)} fail")
    for kernel, error in failures:
        if error:
            print(f"  FAIL {kernel}: {error}")
    return 1 if failures or not count else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
