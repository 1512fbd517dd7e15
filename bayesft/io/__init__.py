"""Files: folders written all or nothing or found by name, safetensors, adapters in PEFT's format.

Contract: everything is read as data (no pickle, no code of a model folder), a bad file is a
ModelError that names it before any long work, and a folder is written completely or not at all.
Laws: reading what was written gives the same bits; a failed write leaves what was there.
"""
