"""torch's `generate` on a model folder: `peer_generate.py FOLDER ROWS TOKENS`."""

import json
import os
import sys
import time

import torch
from transformers import AutoModelForCausalLM

folder, rows, tokens = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
model.generation_config.eos_token_id = None  # both sides make every token
prompt = torch.full((rows, 1), 1)
print(json.dumps({"ready": torch.__version__}), flush=True)
for _ in sys.stdin:
    started = time.perf_counter()
    with torch.inference_mode():
        out = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=tokens,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            pad_token_id=0,
        )
    assert out.shape == (rows, tokens + 1)
    print(json.dumps({"seconds": time.perf_counter() - started}), flush=True)
