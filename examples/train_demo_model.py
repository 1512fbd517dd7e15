"""Train the story model that the package carries, by maximum likelihood on stories."""

import argparse
import itertools
import json
import os
import re
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers

import bayesft as bft

ROOT = Path(__file__).resolve().parents[1]
ASSETS = Path(os.environ.get("BAYESFT_ASSETS", ROOT.parent / "shared" / "assets"))
BOS, EOS = 0, 1
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 1024,
    "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 224, "max_position_embeddings": 256,
    "hidden_act": "silu", "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
    "initializer_range": 0.04, "bos_token_id": BOS, "eos_token_id": EOS, "dtype": "float32",
}  # fmt: skip
CONTEXT, LENGTH = 8, 184  # tokens before a piece that starts inside a story, and in a piece
BATCH, RATE = 24, 4e-3
SAMPLED = (("stories260K", 1536, 3), ("babyllama361", 512, 4))  # stories, windows of 128 tokens
CARD = """---
license: apache-2.0
---
# A tiny story model

Writes stories for small children, for demonstrations and tests of bayesft; no other use is meant.
Llama architecture, {size} parameters in float16, byte-level BPE of 1024 tokens.

- Data: {stories} stories of TinyStories (Eldan & Li, arXiv:2305.07759) and {drawn} drawn from small
  models trained on it (stories260K, babyllama361; MIT). Licence of the text: CDLA-Sharing-1.0.
- Held-out loss: {loss:.3f} nats per token, {per_character:.3f} per character, over the first
  192 tokens of {held_out} other stories of TinyStories.
- Training: maximum likelihood with bayesft (`examples/train_demo_model.py`), {steps} steps of
  {batch} pieces of at most {length} tokens out of {pieces}, AdamW with peak rate {rate} and cosine
  schedule, {minutes:.0f} minutes on two CPU cores.
"""


def written_stories() -> list[str]:
    """The TinyStories sample in plain quotes and dashes, without its last story, which is cut."""
    text = (ASSETS / "tinystories" / "tinystories_sample_2M.txt").read_text(encoding="utf-8")
    text = text.translate(str.maketrans("“”‘’–—«»", "\"\"''--\"\""))  # fmt: skip
    stories = [re.sub(r"\s*\n\s*", "\n", s.strip()) for s in text.split("<|endoftext|>")[:-1]]
    return [story for story in stories if len(story) > 100]


def drawn_stories(name: str, num: int, windows: int) -> list[tuple[str, bool]]:
    """Stories drawn from a model, and whether each has an end; a window slides over its context."""
    lm = bft.lm.load(ASSETS / name)
    rows: list[list[int]] = [[] for _ in range(num)]
    for window, start in itertools.product(range(windows), range(0, num, 256)):
        batch = rows[start : start + 256]
        target = bft.Target(lm, prompts=[row[-128:] or "" for row in batch], max_new_tokens=128)
        key = jax.random.fold_in(jax.random.key(start), window)
        draws = bft.sample(target, bft.samplers.importance(num_particles=1), key)
        for row, new, length in zip(batch, draws.tokens, draws.lengths, strict=True):
            row.extend([] if set(row) & set(lm.eos) else new[0, : int(length[0])].tolist())
        print(f"{name}: window {window + 1} of {start + 256} stories", flush=True)
    texts = [re.sub(r"\s*\n\s*", "\n", lm.decode(row).strip()) for row in rows]
    ended = [bool(set(row) & set(lm.eos)) for row in rows]
    texts = [t if end else t[: t.rfind(".") + 1] for t, end in zip(texts, ended, strict=True)]
    return list(zip(texts, ended, strict=True))


def train_tokenizer(stories: list[str], folder: Path) -> tokenizers.ByteLevelBPETokenizer:
    """Any text can be encoded, spaces are kept, and BOS comes first."""
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        stories, CONFIG["vocab_size"], special_tokens=["<s>", "</s>"], show_progress=False
    )
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", BOS)]
    )
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 256}
    settings |= {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    return tokenizer


def pieces(ids: list[int], ended: bool) -> list[tuple[list[int], list[int]]]:
    """(prompt, completion) pairs that cover a story: from its start, and from inside."""
    ids = [*ids, EOS] if ended else ids
    last = len(ids) - LENGTH
    if last < 0:  # a story without an end has to fill its pieces
        return [([BOS], ids)] if ended else []
    starts = np.linspace(0, last, 1 + -(-last // LENGTH)).astype(int).tolist()
    return [(ids[max(0, i - CONTEXT) : i] or [BOS], ids[i : i + LENGTH]) for i in starts]


def held_out_loss(lm, tokenizer, stories: list[str]) -> tuple[float, float]:
    """Loss in nats per token and per character over the first 192 tokens of each story."""
    rows = [[*tokenizer.encode(story).ids, EOS][:193] for story in stories]
    counted = np.arange(1, 193) < np.array([len(row) for row in rows])[:, None]
    tokens = np.array([row + [EOS] * (193 - len(row)) for row in rows])
    logits = lm.logits(tokens[:, :-1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:])
    total = float(np.sum(losses, where=counted))
    return total / counted.sum(), total / sum(len(tokenizer.decode(row)) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "bayesft" / "assets" / "stories")
    parser.add_argument("--samples", type=Path, default=ROOT / "out" / "drawn_stories.json")
    parser.add_argument("--steps", type=int, default=3000)
    options = parser.parse_args()

    if not options.samples.exists():
        drawn = [story for sizes in SAMPLED for story in drawn_stories(*sizes)]
        options.samples.parent.mkdir(parents=True, exist_ok=True)
        options.samples.write_text(json.dumps(drawn))
    drawn = json.loads(options.samples.read_text())
    stories = written_stories()
    np.random.default_rng(0).shuffle(stories)
    held_out, stories = stories[: len(stories) // 20], stories[len(stories) // 20 :]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(stories, Path(folder))
        lm = bft.lm.initialise(CONFIG, jax.random.key(0), Path(folder) / "tokenizer.json")
    pairs = [
        pair
        for text, ended in [*((story, True) for story in stories), *drawn]
        for pair in pieces(tokenizer.encode(text, add_special_tokens=False).ids, ended)
    ]
    started = time.perf_counter()

    def report(info) -> None:
        if (info.step + 1) % 50 == 0:
            pace = (info.step + 1) / (time.perf_counter() - started)
            print(f"step {info.step + 1}: {info.value:.1f} nats, {pace:.2f} steps/s", flush=True)

    schedule = optax.warmup_cosine_decay_schedule(0.0, RATE, 100, options.steps)
    clip = optax.clip_by_global_norm(LENGTH)  # the loss of a piece is a sum over its tokens
    guide = bft.fit(
        bft.empirical([y for _, y in pairs], [x for x, _ in pairs], max_new_tokens=LENGTH),
        lm.trainable(),
        objective=bft.objectives.mle,
        optimizer=optax.chain(clip, optax.adamw(schedule, b2=0.98, weight_decay=0.1)),
        num_steps=options.steps,
        prompts_per_step=BATCH,
        micro_batch=4,  # fits the caches: 1.5 times the speed of a whole batch
        key=jax.random.key(1),
        callbacks=[report],
    ).guide
    minutes = (time.perf_counter() - started) / 60

    (options.out / "README.md").unlink(missing_ok=True)
    half = jax.tree.map(lambda a: a.astype(jnp.float16), guide.params)
    guide.with_params(half).save(options.out)
    ends = json.dumps({"bos_token_id": BOS, "eos_token_id": EOS}) + "\n"
    (options.out / "generation_config.json").write_text(ends)
    loss, per_character = held_out_loss(bft.lm.load(options.out), tokenizer, held_out)
    print(f"held out: {loss:.3f} nats per token, {per_character:.3f} per character")
    card = CARD.format(
        size=sum(a.size for a in jax.tree.leaves(half)), stories=len(stories), drawn=len(drawn),
        held_out=len(held_out), loss=loss, per_character=per_character, steps=options.steps,
        batch=BATCH, length=LENGTH, pieces=len(pairs), rate=RATE, minutes=minutes,
    )  # fmt: skip
    (options.out / "README.md").write_text(card)


if __name__ == "__main__":
    main()
