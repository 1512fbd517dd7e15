"""Language models as priors: Hugging Face folders in, guides trained, folders out.

Contract. `load(path)`, of a folder or of "org/model" on the Hugging Face Hub, gives a
`LanguageModel`, a `bayesft.base.Prior` that is a pytree of arrays; everything else about it is
hashed metadata, so that two loads of one folder share their traces. `lora(lm)` and `lm.trainable()`
give guides: `params` are the trainable arrays alone, in float32 or wider whatever dtype the model
computes in, and the base weights of a LoRA guide are the language model's own.
`guide.with_remat(policy)` trades time for memory, `lora(quantize(lm))` keeps its base in int8.
`load_adapter(lm, path)` reads a PEFT adapter, `initialise(config, key)` starts from random weights,
and `save(path)` of each writes a folder that bayesft, transformers and PEFT read. `from_module`
takes a user's own Flax module (`modules`).

One forward pass (`decoder`) serves every use; what differs is the *context* that attention sees:
the tokens alone, a prompt before them, or a cache that one token at a time is written into. The
prompt's cache is stored once per prompt, never per particle. Products with weights
(`products`) take lanes of a `vmap` for rows.

A family of models is a config reader and the names of its weights (`families`). A setting that is
not implemented is refused, never ignored. A model folder is data: nothing in it is executed.

Laws. Logits equal the reference implementation's to 1e-4 in float32, greedy tokens exactly.
Stepping equals teacher forcing; a prompt in a batch equals the same prompt alone; padding and
blocks of causal attention change nothing. Reordering equals a gather. Import after export, and
export after import, are exact. Log-probs take memory that does not grow with T · V, and a frozen
head no gradient. Remat changes no gradient. A LoRA guide starts equal to its prior.
"""

from bayesft.lm.language_model import FullGuide, LanguageModel
from bayesft.lm.loading import initialise, load, load_adapter
from bayesft.lm.lora import LoraGuide, lora
from bayesft.lm.modules.prior import ModuleGuide, ModulePrior, from_module
from bayesft.lm.quantized import quantize

__all__ = [
    "FullGuide",
    "LanguageModel",
    "LoraGuide",
    "ModuleGuide",
    "ModulePrior",
    "from_module",
    "initialise",
    "load",
    "load_adapter",
    "lora",
    "quantize",
]
