"""Train the story model that the package carries, by maximum likelihood on stories."""

import argparse
import itertools
import json
import os
import re
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import tokenizers

import bayesft as bft

ROOT = Path(__file__).resolve().parents[1]
ASSETS = Path(os.environ.get("BAYESFT_ASSETS", ROOT.parent / "shared" / "assets"))
ENDS = {"bos_token_id": 0, "eos_token_id": 1}
BOS, EOS = ENDS.values()
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 1024,
    "hidden_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 224, "max_position_embeddings": 256, "hidden_act": "silu",
    "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
    "initializer_range": 0.04, "dtype": "float32", **ENDS,
}  # fmt: skip
CONTEXT, LENGTH = 8, 184  # tokens before a piece that starts inside a story, and in a piece
STEPS, BATCH, RATE = 4000, 24, 6e-3
DRAWN = (("stories260K", 6144, 3), ("babyllama361", 3072, 4))  # stories, windows of 128 tokens
CARD = """---
license: apache-2.0
---
# A tiny story model

Writes stories for small children, for demonstrations and tests of bayesft; no other use is meant.
Llama architecture, {size} parameters in float16, byte-level BPE of 1024 tokens.

- Data: {stories} stories of TinyStories (Eldan & Li, arXiv:2305.07759) and {drawn} drawn from small
  models trained on it (stories260K, babyllama361; MIT). Licence of the text: CDLA-Sharing-1.0.
- Held-out loss: {loss[0]:.3f} nats per token, {loss[1]:.3f} per character, over the first 192
  tokens of {held_out} other stories of TinyStories.
- Training: maximum likelihood with bayesft (`examples/train_demo_model.py`), {STEPS} steps of
  {BATCH} pieces of at most {LENGTH} tokens, AdamW with peak rate {RATE} and cosine
  schedule; {minutes:.0f} minutes on two CPU cores shared with other work.
"""


def written_stories() -> list[str]:
    """The TinyStories sample in plain quotes and dashes, without its last story, which is cut."""
    text = (ASSETS / "tinystories" / "tinystories_sample_2M.txt").read_text(encoding="utf-8")
    text = text.translate(str.maketrans("“”‘’–—", "\"\"''--"))
    stories = [re.sub(r"\s*\n\s*", "\n", s.strip()) for s in text.split("<|endoftext|>")[:-1]]
    return [story for story in stories if len(story) > 100]


def drawn_stories(name: str, num: int, num_windows: int) -> list[tuple[str, bool]]:
    """Stories drawn from a model, and whether each has an end; a window slides over its context."""
    lm = bft.lm.load(ASSETS / name)
    rows: list[list[int]] = [[] for _ in range(num)]
    for start, window in itertools.product(range(0, num, 256), range(num_windows)):
        batch = rows[start : start + 256]
        target = bft.Target(lm, prompts=[row[-128:] or "" for row in batch], max_new_tokens=128)
        key = jax.random.fold_in(jax.random.key(start), window)
        draws = bft.sample(target, bft.samplers.importance(num_particles=1), key)
        for row, new, length in zip(batch, np.asarray(draws.tokens), draws.lengths, strict=True):
            row.extend([] if set(row) & set(lm.eos) else new[0, : int(length[0])].tolist())
        print(f"{name}: {start + len(batch)} stories, window {window + 1}", flush=True)
    stories = [(re.sub(r"\s*\n\s*", "\n", lm.decode(row).strip()), row[-1]) for row in rows]
    # A story without an end goes as far as its last whole sentence.
    return [(s, True) if t in lm.eos else (s[: s.rfind(".") + 1], False) for s, t in stories]


def train_tokenizer(stories: list[str], folder: Path) -> tokenizers.ByteLevelBPETokenizer:
    """Any text can be encoded, spaces are kept, and BOS comes first."""
    tokenizer = tokenizers.ByteLevelBPETokenizer()
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    tokenizer.train_from_iterator(stories, CONFIG["vocab_size"], special_tokens=[*names.values()])
    begin = tokenizers.processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", BOS)])
    tokenizer.post_processor = begin
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings) + "\n")
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
    nats = optax.softmax_cross_entropy_with_integer_labels(lm.logits(tokens)[:, :-1], tokens[:, 1:])
    total = float(np.sum(nats, where=counted))
    return total / counted.sum(), total / sum(len(tokenizer.decode(row)) for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "bayesft" / "assets" / "stories")
    out = parser.parse_args().out
    stories = written_stories()
    np.random.default_rng(0).shuffle(stories)
    held_out, stories = stories[: len(stories) // 20], stories[len(stories) // 20 :]
    drawn = [story for sizes in DRAWN for story in drawn_stories(*sizes)]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(stories, Path(folder))
        lm = bft.lm.initialise(CONFIG, jax.random.key(0), Path(folder) / "tokenizer.json")
    texts = [*((story, True) for story in stories), *drawn]
    rows = [(tokenizer.encode(text, add_special_tokens=False).ids, ended) for text, ended in texts]
    pairs = [pair for row in rows for pair in pieces(*row)]

    def report(info) -> None:
        if (info.step + 1) % 50 == 0:
            print(f"step {info.step + 1}: {info.value:.1f} nats, {info.seconds:.2f} s", flush=True)

    schedule = optax.warmup_cosine_decay_schedule(0.0, RATE, 100, STEPS)
    clip = optax.clip_by_global_norm(LENGTH)  # the loss of a piece is a sum over its tokens
    fitted = bft.fit(
        bft.empirical([y for _, y in pairs], [x for x, _ in pairs], max_new_tokens=LENGTH),
        lm.trainable(), objective=bft.objectives.mle, num_steps=STEPS,
        optimizer=optax.chain(clip, optax.adamw(schedule, b2=0.98, weight_decay=0.1)),
        prompts_per_step=BATCH, micro_batch=4,  # fits the caches, which doubles the speed
        key=jax.random.key(1), callbacks=[report],
    )  # fmt: skip
    (out / "README.md").unlink(missing_ok=True)
    half = jax.tree.map(lambda a: a.astype(jnp.float16), fitted.guide.params)
    fitted.guide.with_params(half).save(out)
    (out / "generation_config.json").write_text(json.dumps(ENDS) + "\n")
    loss = held_out_loss(bft.lm.load(out), tokenizer, held_out)
    facts = {"stories": len(stories), "drawn": len(drawn), "held_out": len(held_out), "loss": loss}
    facts["minutes"] = sum(info.seconds for info in fitted.history) / 60
    facts["size"] = sum(a.size for a in jax.tree.leaves(half))
    (out / "README.md").write_text(CARD.format(**globals(), **facts))
    print("Held out: {:.3f} nats per token, {:.3f} per character".format(*loss))


if __name__ == "__main__":
    main()
