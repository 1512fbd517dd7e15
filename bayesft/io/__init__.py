"""Files: folders written all or nothing or found by name, safetensors, adapters in PEFT's format,
and the states of fits.

Contract: everything is read as data (no pickle, no code of a model folder), a bad file is a
ModelError that names it before any long work, and a folder is written completely or not at all.
Laws: reading what was written gives the same bits; a failed write leaves what was there; a state of
a fit that is cut short or damaged is noticed, and the one before it is used (tests/fitting), in
several processes by all of them (tests/sharding).
"""

from bayesft.io.checkpoint import checkpoint

__all__ = ["checkpoint"]
