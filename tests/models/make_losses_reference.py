"""Writes losses_reference.json beside it: losses and gradients of each head for what drawn.py
draws. Run it at the commit whose numbers are to stay, as a module.

The file is that of 61f9b94, which assigned image by image, and picked positives out with masks.
"""

import json
from pathlib import Path

from tests.models.drawn import TARGETS, learned, predictions

FILE = Path(__file__).with_name("losses_reference.json")


def figures(head: object, prediction: tuple, targets: list[dict]) -> dict[str, list[float]]:
    """Terms and divisors by name, and of each learned tensor the gradient's sum of absolute values
    and its product with a ramp, which tells the places apart."""
    parts = learned(prediction)
    losses = head.losses(prediction, targets)
    found = {
        name: [value.item(), losses.weight_of(name).item()] for name, value in losses.terms.items()
    }
    losses.total().backward()
    for number, part in enumerate(parts):
        gradient, part.grad = part.grad.flatten(), None
        ramp = gradient.new_ones(len(gradient)).cumsum(0) / len(gradient)
        found[f"gradient {number}"] = [gradient.abs().sum().item(), (gradient * ramp).sum().item()]
    return found


def main() -> None:
    """Writes the file."""
    found = {
        name: {case: figures(head, prediction, targets) for case, targets in TARGETS.items()}
        for name, (head, prediction) in predictions().items()
    }
    FILE.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
