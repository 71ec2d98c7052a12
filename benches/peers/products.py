"""cuBLAS through PyTorch at the shapes of tests/src/bin/products.rs: medians over seven series with one wait each."""
import re
import statistics
import time
from pathlib import Path

import torch

source = (Path(__file__).parents[2] / "tests/src/bin/products.rs").read_text()
timed = re.findall(r'\("([^"]+)", \[(\d+), (\d+), (\d+)\]\)', source)


def median(call):
    def series(calls):
        started = time.perf_counter()
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
        return (time.perf_counter() - started) / calls

    series(3)
    calls = min(200, max(5, int(0.01 / series(3))))
    return statistics.median(series(calls) for _ in range(7))


def matrix(rows, columns):
    return torch.randn(rows, columns, device="cuda", dtype=torch.bfloat16)


print(torch.cuda.get_device_name(), torch.__version__)
for name, *sizes in timed:
    m, n, k = map(int, sizes)
    forms = {
        "Plain": (matrix(m, k), matrix(k, n)),
        "RightTransposed": (matrix(m, k), matrix(n, k).t()),
        "LeftTransposed": (matrix(k, m).t(), matrix(k, n)),
    }
    for form, (a, b) in forms.items():
        out = torch.empty(m, n, device="cuda", dtype=torch.bfloat16)
        seconds = median(lambda: torch.matmul(a, b, out=out))
        print(f"| {name} [{m}, {n}, {k}] | {form} | {seconds * 1e3:.4f} ms, {2e-12 * m * n * k / seconds:.0f} TFLOP/s |")
