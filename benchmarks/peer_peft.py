"""Logits of saved models and adapters by transformers and PEFT: `peer_peft.py FOLDER`."""

import json
import logging
import sys
from pathlib import Path

import numpy as np
import peft
import torch
import transformers

root = Path(sys.argv[1])
logging.disable(logging.WARNING)
transformers.utils.logging.disable_progress_bar()
tokens = torch.from_numpy(np.load(root / "tokens.npy")).long()


@torch.inference_mode()
def difference(model, expected: np.ndarray) -> float:
    return float(np.abs(model(tokens).logits.numpy() - expected).max())


def differences(folder: Path) -> dict:
    expected = np.load(folder / "logits.npz")
    load = transformers.AutoModelForCausalLM.from_pretrained
    base, report = load(
        folder / "model",
        dtype=torch.float32,
        attn_implementation="eager",  # the others ignore Gemma 2's cap
        output_loading_info=True,
    )
    assert not any(report.values()), report
    found = {
        "model": difference(base.eval(), expected["model"]),
        "largest_logit": float(np.abs(expected["model"]).max()),
        "effect_of_adapter": float(np.abs(expected["adapter"] - expected["model"]).max()),
    }
    adapted = peft.PeftModel.from_pretrained(base, folder / "adapter").eval()
    return found | {"adapter": difference(adapted, expected["adapter"])}


versions = {"transformers": transformers.__version__, "peft": peft.__version__}
print(json.dumps({"ready": torch.__version__} | versions), flush=True)
for _ in sys.stdin:
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    print(json.dumps({path.name: differences(path) for path in folders}), flush=True)
