"""Swap maps held to TransformerLens: the same states, patched one by one, on the same weights.

    localprobe models prepare smollm2-135m --type f32
    python benchmarks/swap_map.py [-m MODEL] [--prompt TEXT --against TEXT]

Needs torch, transformers, accelerate, gguf and transformer-lens, which localprobe itself never
does. For one pair of prompts, `token_map(..., "swap", direction=...)` in both directions against
`get_act_patch_resid_pre`, every layer and every token; says by how much the logit difference
differs at most. Ends with 1 where that is more than the tolerance.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.patching import get_act_patch_resid_pre
from transformers import AutoModelForCausalLM, AutoTokenizer

from localprobe.api import Model, token_map
from localprobe.models import opening as models

TOLERANCE = 0.02
PROMPT = "Q: What is the capital of Spain?\nA: Madrid\nQ: What is the capital of France?\nA:"


def bridge(gguf: Path) -> TransformerBridge:
    """The GGUF's weights in TransformerLens, in float32."""
    with tempfile.TemporaryDirectory() as folder:
        options = {"gguf_file": gguf.name}
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, dtype=torch.float32, **options)
        # What it was read from is of no matter any more, and would keep it from being written.
        model.hf_quantizer = None
        del model.config.quantization_config
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(gguf.parent, **options).save_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, device="cpu", dtype=torch.float32)


def theirs(
    model: TransformerBridge, into: list[int], source: list[int], answer: int, other: int
) -> np.ndarray:
    """(n_layer, n_tokens) logit differences, the source's states in the run of `into`."""
    _, cache = model.run_with_cache(torch.tensor([source]))

    def difference(logits: torch.Tensor) -> torch.Tensor:
        return logits[0, -1, answer] - logits[0, -1, other]

    found = get_act_patch_resid_pre(model, torch.tensor([into]), cache, difference)
    return found.detach().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("-m", "--model", default="smollm2-135m@f32")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--against", default=PROMPT.replace("France", "Italy"))
    parser.add_argument("--direction", choices=["noising", "denoising"], help="else both")
    options = parser.parse_args()
    worst = 0.0
    their_model = bridge(models.find(options.model)[1])
    with Model(options.model) as model:
        tokenize = model.loaded.model.tokenize
        clean, corrupt = tokenize(options.prompt), tokenize(options.against)
        for direction in [options.direction] if options.direction else ["noising", "denoising"]:
            ours = token_map(
                model,
                options.prompt,
                "swap",
                group="tokens",
                against=options.against,
                direction=direction,
            )
            pair = (clean, corrupt) if direction == "noising" else (corrupt, clean)
            assert ours.other_id is not None
            expected = theirs(their_model, *pair, ours.answer_id, ours.other_id)
            # The last token is never written to by us.
            difference = np.abs(ours.values - expected[:, :-1])
            worst = max(worst, float(difference.max()))
            print(
                f"{direction}: {difference.size} cells, logit({ours.answer!r}) - "
                f"logit({ours.other!r}) from {ours.values.min():.2f} to {ours.values.max():.2f}; "
                f"largest difference {difference.max():.1e}"
            )
    if worst > TOLERANCE:
        raise SystemExit(f"more than {TOLERANCE}")


if __name__ == "__main__":
    main()
