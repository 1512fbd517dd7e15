"""TRL's SFT step on a model folder: `peer_sft.py FOLDER ROWS LENGTH`; a request is ten steps."""

import json
import logging
import os
import statistics
import sys
import tempfile
import time

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer

folder, rows, length = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
logging.disable(logging.WARNING)
STEPS = 10
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{folder}/tokenizer.json", eos_token="</s>")
tokenizer.pad_token = tokenizer.eos_token
generator = torch.Generator().manual_seed(0)
ids = torch.randint(4, model.config.vocab_size, (rows * STEPS, length), generator=generator)
data = Dataset.from_dict({"input_ids": ids.tolist()})


class Clock(TrainerCallback):
    def __init__(self):
        self.times = []

    def on_step_begin(self, *_, **__):
        self.started = time.perf_counter()

    def on_step_end(self, *_, **__):
        self.times.append(time.perf_counter() - self.started)


def steps() -> float:
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        config = SFTConfig(
            output_dir=out,
            per_device_train_batch_size=rows,
            max_steps=STEPS,
            max_length=length,
            report_to=[],
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            learning_rate=1e-4,
        )
        trainer = SFTTrainer(
            model, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[clock]
        )
        trainer.train()
    return statistics.median(clock.times[2:])


print(json.dumps({"ready": torch.__version__}), flush=True)
for _ in sys.stdin:
    print(json.dumps({"seconds": steps()}), flush=True)
