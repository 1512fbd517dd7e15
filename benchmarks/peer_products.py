"""torch's matrix products of the sizes in `steps.json`; a request is all of them once."""

import json
import os
import sys
import time
from pathlib import Path

import torch

ROWS, sizes, REPEATS = json.loads(Path(__file__).with_name("steps.json").read_text())["products"]
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
pairs = [(torch.rand(ROWS, m), torch.rand(m, n)) for m, n in sizes] * REPEATS
print(json.dumps({"ready": torch.__version__}), flush=True)
for _ in sys.stdin:
    started = time.perf_counter()
    found = [a @ b for a, b in pairs]
    print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)
