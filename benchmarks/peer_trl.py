"""TRL's training steps on a model folder: `peer_trl.py KIND FOLDER [ROWS]`.

A request is some steps. KIND is sft, dpo, grpo (no KL) or grpo_kl; sizes are those of `steps.py`,
and so are the ROWS of sft and dpo, whose gradients TRL accumulates.
"""

import json
import logging
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer

kind, folder, *at_a_time = sys.argv[1:]
sizes = json.loads((Path(__file__).with_name("steps.json")).read_text())
ROWS, LENGTH, GROUP, NEW = (sizes[name] for name in ("rows", "length", "group", "new"))
AT_A_TIME = int(at_a_time[0]) if at_a_time else ROWS
STEPS, SKIPPED = sizes["steps"][kind.split("_")[0]], 1
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
logging.disable(logging.WARNING)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json", eos_token="</s>")
tokenizer.pad_token = tokenizer.eos_token
random.seed(0)


def words(count: int) -> str:
    return "".join(f" w{random.randrange(4, model.config.vocab_size)}" for _ in range(count))


class Clock(TrainerCallback):
    def __init__(self):
        self.times = []

    def on_step_begin(self, *_, **__):
        self.started = time.perf_counter()

    def on_step_end(self, *_, **__):
        self.times.append(time.perf_counter() - self.started)


COMMON = dict(
    max_steps=STEPS,
    report_to=[],
    save_strategy="no",
    logging_strategy="no",
    disable_tqdm=True,
    use_cpu=True,
    bf16=False,
    gradient_checkpointing=False,
    learning_rate=1e-4,
)


def reward(completions, **_):
    return [float(text.count("7")) for text in completions]


def trainer(out: str, clock: Clock):
    shared = dict(output_dir=out, **COMMON)
    accumulating = dict(
        per_device_train_batch_size=AT_A_TIME, gradient_accumulation_steps=ROWS // AT_A_TIME
    )
    if kind == "sft":
        data = Dataset.from_dict(
            {"input_ids": [tokenizer(words(LENGTH)).input_ids for _ in range(ROWS * STEPS)]}
        )
        config = SFTConfig(max_length=LENGTH, **accumulating, **shared)
        return SFTTrainer(
            model, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[clock]
        )
    if kind == "dpo":
        # TRL adds EOS.
        data = {
            "prompt": [words(1).strip() for _ in range(ROWS * STEPS)],
            "chosen": [words(LENGTH - 2) for _ in range(ROWS * STEPS)],
            "rejected": [words(LENGTH - 2) for _ in range(ROWS * STEPS)],
        }
        config = DPOConfig(max_length=LENGTH, **accumulating, **shared)
        return DPOTrainer(
            model,
            args=config,
            train_dataset=Dataset.from_dict(data),
            processing_class=tokenizer,
            callbacks=[clock],
        )
    config = GRPOConfig(
        per_device_train_batch_size=GROUP * GROUP,
        num_generations=GROUP,
        max_completion_length=NEW,
        beta=0.04 if kind == "grpo_kl" else 0.0,
        temperature=1.0,
        **shared,
    )
    prompts = [words(1).strip() for _ in range(GROUP * STEPS)]
    return GRPOTrainer(
        model,
        reward_funcs=reward,
        args=config,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        processing_class=tokenizer,
        callbacks=[clock],
    )


def step_seconds() -> float:
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        trainer(out, clock).train()
    return statistics.median(clock.times[SKIPPED:])


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


print(json.dumps({"ready": torch.__version__}), flush=True)
for _ in sys.stdin:
    print(json.dumps({"seconds": step_seconds(), "peak_mib": peak()}), flush=True)
