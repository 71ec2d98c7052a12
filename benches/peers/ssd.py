"""mamba_ssm's SSD in Triton at the shapes of tests/src/bin/kernels.rs: medians of event-timed calls, the best of three chunk sizes.

Needs torch, triton, einops and the pure-Python part of mamba_ssm 2.3.2 on PYTHONPATH: its folders ops/triton and utils, under empty packages
(its own top level imports compiled extensions)."""
import math
import re
import sys
from pathlib import Path

import torch
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
from triton.testing import do_bench

source = (Path(__file__).parents[2] / "tests/src/bin/kernels.rs").read_text()
size = r"([\d_]+)"
pattern = rf'\("([^"]+)", Shape \{{ b: {size}, t: {size}, h: {size}, p: {size}, g: {size}, n: {size} \}}\)'
shapes = [(name, *map(int, sizes)) for name, *sizes in re.findall(pattern, source)]
chunks = [int(chunk) for chunk in sys.argv[1:]] or [64, 128, 256]


def median(call):
    return do_bench(call, warmup=50, rep=200, return_mode="median")


def measure(b, t, h, p, g, n, chunk):
    def normal(*shape, scale=1.0):
        return (torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * scale).requires_grad_()

    x, dt = normal(b, t, h, p), normal(b, t, h)
    keys, queries = normal(b, t, g, n, scale=1 / math.sqrt(n)), normal(b, t, g, n, scale=1 / math.sqrt(n))
    rate = -torch.ones(h, device="cuda")

    def forward():
        return mamba_chunk_scan_combined(x, dt, rate, keys, queries, chunk_size=chunk, dt_softplus=True)

    with torch.no_grad():
        forward_ms = median(forward)
    y = forward()
    cotangent = torch.randn_like(y)
    reverse_ms = median(lambda: torch.autograd.grad(y, (x, dt, keys, queries), cotangent, retain_graph=True))
    return forward_ms, reverse_ms


print(torch.cuda.get_device_name(), torch.__version__)
print("| | b t h p g n | forward ms (chunk) | reverse ms (chunk) |\n|---|---|---:|---:|")
for name, *shape in shapes:
    times = [(*measure(*shape, chunk), chunk) for chunk in chunks]
    forward, of_forward = min((forward, chunk) for forward, _, chunk in times)
    reverse, of_reverse = min((reverse, chunk) for _, reverse, chunk in times)
    sizes = " ".join(map(str, shape))
    print(f"| {name} | {sizes} | {forward:.3f} ({of_forward}) | {reverse:.3f} ({of_reverse}) |", flush=True)
