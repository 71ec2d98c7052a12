"""mamba_ssm's SSD in Triton at the shapes of tests/src/bin/kernels.rs: medians of event-timed calls, the best of three chunk sizes.

Every shape and chunk size is run once first, all of them side by side, so that Triton's candidates are compiled on all cores; the timed process
then finds them in Triton's cache.

Needs torch, triton, einops and the pure-Python part of mamba_ssm 2.3.2 on PYTHONPATH: its folders ops/triton and utils, under empty packages
(its own top level imports compiled extensions)."""
import math
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path

import torch
from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined
from triton.testing import do_bench

source = (Path(__file__).parents[2] / "tests/src/bin/kernels.rs").read_text()
size = r"([\d_]+)"
pattern = rf'\("([^"]+)", Shape \{{ b: {size}, t: {size}, h: {size}, p: {size}, g: {size}, n: {size} \}}\)'
shapes = [(name, *map(int, sizes)) for name, *sizes in re.findall(pattern, source)]
CHUNKS = [64, 128, 256]


def median(call):
    return do_bench(call, warmup=50, rep=200, return_mode="median")


def calls(b, t, h, p, g, n, chunk):
    """The forward call, and the reverse one of a result that is kept."""

    def normal(*shape, scale=1.0):
        return (torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * scale).requires_grad_()

    x, dt = normal(b, t, h, p), normal(b, t, h)
    keys, queries = normal(b, t, g, n, scale=1 / math.sqrt(n)), normal(b, t, g, n, scale=1 / math.sqrt(n))
    rate = -torch.ones(h, device="cuda")

    def forward():
        return mamba_chunk_scan_combined(x, dt, rate, keys, queries, chunk_size=chunk, dt_softplus=True)

    y = forward()
    cotangent = torch.randn_like(y)
    return forward, lambda: torch.autograd.grad(y, (x, dt, keys, queries), cotangent, retain_graph=True)


def measure(*case):
    forward, reverse = calls(*case)
    with torch.no_grad():
        forward_ms = median(forward)
    return forward_ms, median(reverse)


def compile_all():
    def run(case):
        subprocess.run([sys.executable, __file__, *map(str, case)], stderr=subprocess.DEVNULL)

    with ThreadPoolExecutor(cpu_count()) as pool:
        list(pool.map(run, ((*shape, chunk) for _, *shape in shapes for chunk in CHUNKS)))


if len(sys.argv) == 8:
    calls(*map(int, sys.argv[1:]))[1]()
    sys.exit()
if "--compiled" not in sys.argv:
    compile_all()
print(torch.cuda.get_device_name(), torch.__version__)
print("| | b t h p g n | forward ms (chunk) | reverse ms (chunk) |\n|---|---|---:|---:|")
for name, *shape in shapes:
    times = []
    for chunk in CHUNKS:
        try:
            times.append((*measure(*shape, chunk), chunk))
        except Exception as error:  # a chunk size that Triton cannot launch, or memory
            print(f"{name}, chunks of {chunk}: {error}", file=sys.stderr)
        torch.cuda.empty_cache()
    if not times:
        continue
    forward, of_forward = min((forward, chunk) for forward, _, chunk in times)
    reverse, of_reverse = min((reverse, chunk) for _, reverse, chunk in times)
    sizes = " ".join(map(str, shape))
    print(f"| {name} | {sizes} | {forward:.3f} ({of_forward}) | {reverse:.3f} ({of_reverse}) |", flush=True)
