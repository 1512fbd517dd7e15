"""Train the story model that bayesft carries in its package, by maximum likelihood.

Data: TinyStories text, and stories drawn from two small public models by `bft.sample`. Result: a
Hugging Face folder in float16 of at most 1.5 MB, with its held-out loss in the model card.

    python examples/train_demo_model.py --steps 2500 --out bayesft/assets/stories
"""

import argparse
import json
import os
import re
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

import bayesft as bft

ROOT = Path(__file__).parents[1]
ASSETS = Path(os.environ.get("BAYESFT_ASSETS", ROOT.parent / "shared" / "assets"))
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 1024,
    "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 224, "max_position_embeddings": 256,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
    "initializer_range": 0.04, "bos_token_id": 0, "eos_token_id": 1, "dtype": "float16",
}  # fmt: skip
CONTEXT, LENGTH = 8, 184  # tokens before a piece that starts inside a story, and in a piece
SAMPLED = {"stories260K": (2048, 3), "babyllama361": (1024, 4)}  # stories, windows of 128 tokens


def written_stories() -> list[str]:
    """The TinyStories sample, in plain quotes and dashes; its last story is cut off."""
    text = (ASSETS / "tinystories" / "tinystories_sample_2M.txt").read_text(encoding="utf-8")
    text = text.translate(str.maketrans("“”‘’–—«»", "\"\"''--\"\""))
    stories = [" ".join(s.split(" ")).strip() for s in text.split("<|endoftext|>")[:-1]]
    return [re.sub(r"\s*\n\s*", "\n", story) for story in stories if len(story) > 100]


def sampled_stories(name: str, num: int, windows: int, key: jax.Array, batch: int = 256):
    """(story, whether it has an end) drawn from a model; a window slides over its context."""
    lm = bft.lm.load(ASSETS / name)
    for start in range(0, num, batch):
        rows: list[list[int]] = [[] for _ in range(batch)]
        for window in range(windows):
            prompts = [row[-128:] or "" for row in rows]
            target = bft.Target(lm, prompts=prompts, max_new_tokens=128)
            step = jax.random.fold_in(key, start * windows + window)
            draws = bft.sample(target, bft.samplers.importance(num_particles=1), step)
            tokens, lengths = np.asarray(draws.tokens)[:, 0], np.asarray(draws.lengths)[:, 0]
            for row, new, length in zip(rows, tokens, lengths, strict=True):
                if not set(row) & set(lm.eos):
                    row.extend(new[:length].tolist())
        print(f"{name}: {start + batch} of {num} stories", flush=True)
        for row in rows:
            story = re.sub(r"\s*\n\s*", "\n", lm.decode(row).strip())
            if row[-1] in lm.eos:
                yield story, True
            elif whole := re.match(r'.*[.!?]"?', story, re.DOTALL):
                yield whole.group(), False


def train_tokenizer(stories: list[str], path: Path) -> tokenizers.Tokenizer:
    """Byte-level BPE: every text can be encoded, and a text gets BOS in front."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=CONFIG["vocab_size"], special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(stories, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", CONFIG["bos_token_id"])]
    )
    tokenizer.save(str(path / "tokenizer.json"), pretty=False)
    names = {"bos_token": "<s>", "eos_token": "</s>", "model_max_length": 256}
    names |= {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    (path / "tokenizer_config.json").write_text(json.dumps(names, indent=2) + "\n")
    return tokenizer


def pieces(ids: list[int], ended: bool):
    """(prompt, completion) pairs that cover a story: from its start, and from inside."""
    ids = [*ids, CONFIG["eos_token_id"]] if ended else ids
    last = len(ids) - LENGTH
    if last <= 0:  # without an end it would have to fill a piece
        return [([CONFIG["bos_token_id"]], ids)] if ended or last == 0 else []
    starts = np.linspace(0, last, 1 + -(-last // LENGTH)).astype(int).tolist()
    return [
        (ids[max(0, i - CONTEXT) : i] or [CONFIG["bos_token_id"]], ids[i : i + LENGTH])
        for i in starts
    ]


def held_out_loss(lm, rows: list[list[int]], tokenizer) -> tuple[float, float]:
    """Mean loss in nats per token and per character over the first 192 tokens of each story."""
    rows = [[CONFIG["bos_token_id"], *row, CONFIG["eos_token_id"]][:193] for row in rows]
    tokens = np.full((len(rows), 193), CONFIG["eos_token_id"])
    mask = np.zeros((len(rows), 192), bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)], mask[i, : len(row) - 1] = row, True
    total = 0.0
    for batch in np.array_split(np.arange(len(rows)), -(-len(rows) // 16)):
        logits = lm.logits(tokens[batch, :-1])
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[batch, 1:])
        total += float(jnp.sum(losses * mask[batch]))
    return total / mask.sum(), total / sum(len(tokenizer.decode(row)) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "bayesft" / "assets" / "stories")
    parser.add_argument("--steps", type=int, default=2500)
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--samples", type=Path, help="JSON file that keeps the drawn stories")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    written = written_stories()
    order = np.random.default_rng(0).permutation(len(written))
    held_out = [written[i] for i in order[: len(written) // 20]]
    stories = [(written[i], True) for i in order[len(written) // 20 :]]
    if options.samples and options.samples.exists():
        drawn = json.loads(options.samples.read_text())
    else:
        drawn = [
            story
            for index, (name, (num, windows)) in enumerate(SAMPLED.items())
            for story in sampled_stories(name, num, windows, jax.random.key(index))
        ]
        if options.samples:
            options.samples.write_text(json.dumps(drawn))
    tokenizer = train_tokenizer([text for text, _ in stories], options.out)

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False).ids

    pairs = [p for text, ended in [*stories, *drawn] for p in pieces(encode(text), ended)]
    print(f"{len(stories)} stories, {len(drawn)} drawn ones, {len(pairs)} pieces", flush=True)
    data = bft.empirical([y for _, y in pairs], [x for x, _ in pairs], max_new_tokens=LENGTH)
    lm = bft.lm.initialise(CONFIG, jax.random.key(0), tokenizer=options.out / "tokenizer.json")
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, options.rate, min(100, options.steps // 10), options.steps
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(LENGTH),  # the loss of a piece is a sum over its tokens
        optax.adamw(schedule, b2=0.98, weight_decay=0.1,
                    mask=lambda params: jax.tree.map(lambda a: a.ndim > 1, params)),
    )  # fmt: skip
    started = time.perf_counter()

    def report(info: bft.StepInfo) -> None:
        if (info.step + 1) % 50 == 0:
            speed = (info.step + 1) / (time.perf_counter() - started)
            print(f"step {info.step + 1}: {info.value / LENGTH:.3f} nats, {speed:.2f} steps/s",
                  flush=True)  # fmt: skip

    fitted = bft.fit(
        data, lm.trainable(), objective=bft.objectives.mle, optimizer=optimizer,
        num_steps=options.steps, prompts_per_step=options.batch, key=jax.random.key(1),
        callbacks=[report],
    )  # fmt: skip
    minutes = (time.perf_counter() - started) / 60
    ...


if __name__ == "__main__":
    main()
