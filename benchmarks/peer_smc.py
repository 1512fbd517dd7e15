"""What the two SMC peers share: the model folder on genlm-backend, and the loop that times them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable

import numpy as np
import torch
from genlm.backend.llm import AsyncTransformer
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

FOLDER, PARTICLES, TOKENS = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
PROMPT = [1]


def load() -> AsyncTransformer:
    """The model, with batches as large as the particles are many (the default of 20 is slower)."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    model = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=f"{FOLDER}/tokenizer.json",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
    )
    return AsyncTransformer(model, tokenizer, batch_size=PARTICLES)


def serve(model: AsyncTransformer, work: Callable[[], Awaitable[int]]) -> None:
    """Answer every line with the time that `work`, which returns the number of tokens, took.

    The caches of the run before are dropped, or else they would grow; the prompt's is kept.
    """
    torch.manual_seed(0)
    np.random.seed(0)
    print(json.dumps({"ready": torch.__version__}), flush=True)
    for _ in sys.stdin:
        model.clear_cache()
        model.cache_kv(PROMPT)
        started, cpu_started = time.perf_counter(), time.process_time()
        num_tokens = asyncio.run(work())
        taken = {
            "seconds": time.perf_counter() - started,
            "cpu_seconds": time.process_time() - cpu_started,
        }
        assert num_tokens == PARTICLES * TOKENS, num_tokens
        print(json.dumps(taken), flush=True)
