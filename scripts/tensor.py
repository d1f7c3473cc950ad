"""Compares results of tensor ops with NumPy's in double precision, and einsum's refusals with NumPy's.

    scripts/tensor.py target/tmp/tensor.jsonl

A line has an op, its operands, its other arguments and its result in f32, and in double precision by the program's own reference. The error
bounds are derived from the order of operations in docs/numerics.md; u is half of the distance from 1 to the next f32.
"""

import json
import math
import sys

import numpy as np

u = 2.0**-24
# Elements below are stored as 0, or taken for 0 by functions and in products.
RESULT, WEIGHT, PRODUCT = 2.0**-100, 2.0**-40, 2.0**-50


def array(value):
    return np.array(value["data"], dtype=np.float64).reshape(value["shape"])


def additions(n):
    """Sums that a term is part of: four in its lane, the tree, its lane of blocks, and that tree."""
    return 4 + 3 + math.ceil(n / 256) + 3


# Relative errors in units of u, where the arguments are exact (docs/numerics.md has what was measured).
FUNCTIONS = {
    "neg": (np.negative, 0),
    "abs": (np.abs, 0),
    "exp": (np.exp, 2),
    "ln": (np.log, 3),
    "sqrt": (np.sqrt, 1),
    "rsqrt": (lambda x: 1 / np.sqrt(x), 2),
    "recip": (lambda x: 1 / x, 1),
    "silu": (lambda x: x / (1 + np.exp(-x)), 4),
    "gelu": (lambda x: x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))), 9),
    "tanh": (np.tanh, 3),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), 4),
    "relu": (lambda x: np.maximum(x, 0), 0),
    "half": (lambda x: x, 2**13),
}
PAIRS = {
    "add": (np.add, 1),
    "sub": (np.subtract, 1),
    "mul": (np.multiply, 1),
    "div": (np.divide, 1),
    "minimum": (np.minimum, 0),
    "maximum": (np.maximum, 0),
    "less": (lambda a, b: (a < b).astype(np.float64), 0),
    "equal": (lambda a, b: (a == b).astype(np.float64), 0),
}


def contraction(compute, operands, terms):
    """A sum of products: each product and each sum rounds once."""
    exact = compute(*operands)
    stages = max(len(operands) - 1, 1)
    sizes = compute(*[np.abs(x) for x in operands])
    # An operand that counts as 0 changes the product by no more than its size times the others'.
    small = sum(compute(*[np.full_like(x, PRODUCT) if i == j else np.abs(x) for j, x in enumerate(operands)])
                for i in range(len(operands)))
    return exact, stages * (1 + additions(terms) + additions(terms)) * u * sizes * 1.01 + small


def expected(op, arguments, x):
    """The exact result, and how far from it f32 may be."""
    if op in FUNCTIONS:
        f, units = FUNCTIONS[op]
        exact = f(x[0])
        return exact, units * u * np.abs(exact) + (WEIGHT if units > 2 else RESULT)
    if op in PAIRS:
        f, units = PAIRS[op]
        exact = f(*x)
        return exact, units * u * np.abs(exact) + RESULT
    if op == "matmul":
        return contraction(np.matmul, x, x[0].shape[-1] if x[0].ndim else 1)
    if op == "einsum":
        compute = lambda *operands: np.asarray(np.einsum(arguments["text"], *operands), dtype=np.float64)
        return contraction(compute, x, max(math.prod(t.shape) for t in x))
    if op == "powi":
        exact = x[0] ** arguments["n"]
        return exact, 2 * arguments["n"] * u * np.abs(exact) + RESULT
    if op == "rms_norm":
        n = x[0].shape[-1]
        exact = x[0] / np.sqrt(np.mean(x[0] ** 2, axis=-1, keepdims=True) + np.float64(np.float32(1e-5))) * x[1]
        return exact, ((2 + additions(n)) / 2 + 2 + 5) * u * np.abs(exact) + WEIGHT * 100
    axis = arguments["axis"]
    n = x[0].shape[axis]
    if op == "sum":
        return np.sum(x[0], axis), additions(n) * u * np.sum(np.abs(x[0]), axis) + RESULT
    if op == "mean":
        return np.mean(x[0], axis), (additions(n) + 2) * u * np.mean(np.abs(x[0]), axis) + RESULT
    if op == "max":
        return np.max(x[0], axis), 0
    if op == "argmin":
        return np.argmin(x[0], axis).astype(np.float64), 0
    if op == "topk":
        return np.flip(np.sort(x[0], axis), axis).take(range(arguments["k"]), axis), 0
    if op == "take":
        return np.take(x[0], x[1].astype(np.int64), axis), 0
    if op == "cumsum":
        return np.cumsum(x[0], axis), n * u * np.cumsum(np.abs(x[0]), axis) + RESULT
    top = np.max(x[0], axis, keepdims=True)
    below = x[0] - top
    total = np.sum(np.exp(below), axis, keepdims=True)
    if op == "softmax":
        exact = np.exp(below) / total
        # Scores are multiplied by log2(e), which is rounded, and their difference rounds once more; twice, for the sum has it, too.
        scores = 2 * math.log(2) * 4 * u * np.max(np.abs(x[0]), axis, keepdims=True) * math.log2(math.e)
        return exact, exact * (scores + (2 * 2 + additions(n) + 2 + 2) * u) + WEIGHT
    if op == "log_softmax":
        exact = below - np.log(total)
        largest = np.max(np.abs(below), axis, keepdims=True)
        return exact, u * (np.abs(below) + largest + 2 + additions(n) + 3 * np.abs(np.log(total)) + np.abs(exact)) * 1.01
    if op == "layer_norm":
        weight, bias = x[1], x[2]
        eps = np.float64(np.float32(1e-5))
        mean = np.mean(x[0], axis, keepdims=True)
        centred = x[0] - mean
        variance = np.mean(centred**2, axis, keepdims=True)
        scale = 1 / np.sqrt(variance + eps)
        exact = centred * scale * weight + bias
        of_mean = (additions(n) + 2) * u * np.mean(np.abs(x[0]), axis, keepdims=True)
        of_centred = of_mean + u * np.abs(centred)
        of_variance = (np.mean(2 * np.abs(centred) * of_centred + of_centred**2, axis, keepdims=True)
                       + (additions(n) + 4) * u * (variance + eps))
        of_scale = scale * (of_variance / (2 * (variance + eps)) + 3 * u)
        size = np.abs(centred) * scale * np.abs(weight)
        return exact, (np.abs(weight) * (scale * of_centred + np.abs(centred) * of_scale) + 3 * u * size + u * np.abs(exact)) * 1.01
    sys.exit(f"error: no op {op}")


wrong, refused, compared, worst = [], 0, {}, {}
for text in open(sys.argv[1]):
    line = json.loads(text)
    op, arguments, result = line["op"], line["arguments"], line["result"]
    operands = [array(x) for x in line["operands"]]
    about = f"{op} {json.dumps(arguments)} of {[x.shape for x in operands]}"
    try:
        exact, bound = expected(op, arguments, operands)
    except (ValueError, IndexError) as error:
        exact = error
    if "refused" in result or isinstance(exact, Exception):
        if not ("refused" in result and isinstance(exact, Exception)):
            wrong.append(f"{about}: {result.get('refused', 'is computed')}; NumPy: {exact if isinstance(exact, Exception) else 'computes it'}")
        refused += 1
        continue
    if list(exact.shape) != result["shape"]:
        wrong.append(f"{about}: the shape is {result['shape']}, NumPy's {exact.shape}")
        continue
    double = np.array(result["double"]).reshape(exact.shape)
    if not np.allclose(double, exact, rtol=1e-11, atol=1e-13):
        wrong.append(f"{about}: the reference in double precision is {np.max(np.abs(double - exact))} from NumPy's")
    error = np.abs(array(result) - exact)
    if np.any(error > bound):
        wrong.append(f"{about}: {np.max(error)} from NumPy's, where {np.max(bound)} is the bound")
    compared[op] = compared.get(op, 0) + 1
    if error.size and np.any(bound > 0):
        worst[op] = max(worst.get(op, 0), float(np.max(error / np.maximum(bound, 1e-300))))

for message in wrong[:20]:
    print(message, file=sys.stderr)
if wrong or compared.get("einsum", 0) < 500 or refused < 50:
    sys.exit(f"error: {len(wrong)} results are not NumPy's; {compared} compared, {refused} refused by both")
print(f"{sum(compared.values())} results of {len(compared)} ops are NumPy's within their bounds, {refused} are refused by both")
print("the largest part of a bound: " + ", ".join(f"{op} {part:.2f}" for op, part in sorted(worst.items())))
