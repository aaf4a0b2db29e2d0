"""The README.md of a checkpoint, with the metadata that the Hugging Face hub reads."""

from mixbench.models import Checkpoint
from mixbench.records import Accuracy
from mixbench.statistics import wilson_interval
from mixbench.training.recipes import Recipe, Schedule

_MIXING = {
    "trained": "Everything learns (the paper's *Full*).",
    "frozen": "The spatial mixers keep their seeded random values; all else learns (the paper's *Chans*).",
    "frozen_smooth": "The spatial mixers keep seeded random values that were smoothed; all else learns.",
    "spatial": "The channel mixers keep their seeded random values; all else learns (the paper's *Space*).",
}
_SCHEDULES = {Schedule.ONE_CYCLE: "one cycle", Schedule.PIECEWISE: "piecewise linear"}


def model_card(name: str, checkpoint: Checkpoint, recipe: Recipe, *, title: str) -> str:
    """Return the model card of the checkpoint called `name`, trained on the dataset called `title`."""
    card, spec = checkpoint.card, checkpoint.spec
    held_out = (
        "" if card.validation is None else f"| held out | {_percentage(card.validation, 'training examples')} |\n"
    )
    architecture = ", ".join(f"{key} {value}" for key, value in spec.args.items())
    return f"""---
library_name: timm
license: mit
tags:
- image-classification
- timm
- mixbench
datasets:
- {card.dataset}
metrics:
- accuracy
---
# {name}

{_MIXING[card.mixing]} Trained on {title}.

| | |
| --- | --- |
| architecture | {spec.architecture.name} ({architecture}) |
| spatial filters | {card.filter_scheme}, filter seed {card.filter_seed} |
| parameters | {card.parameters.trained} trained, {card.parameters.frozen} frozen |
| input | {"x".join(str(n) for n in card.image_size)}, pixels in [0, 1], no normalisation |
| training data | {card.dataset}, train split, fingerprint `{card.dataset_fingerprint}` |
| recipe | {_describe(recipe)} |
| seed | {card.seed} |
{held_out}| clean accuracy | {_percentage(card.clean, "test examples")} |
| made by | `{card.command}` in {card.seconds:.0f} s on {card.device} |
| weights | `model.safetensors`, SHA-256 `{card.sha256}` |

The last epoch was kept; the test split was looked at once, for this card. Loading checks the SHA-256, the logits on
fixed inputs and, bit for bit, the frozen filters:

```python
import timm
import mixbench.models

model = timm.create_model("{name}", pretrained=True).eval()
```
"""


def _describe(recipe: Recipe) -> str:
    optimizer = (
        f"AdamW, {_SCHEDULES[recipe.schedule]} to learning rate {recipe.learning_rate:g}, weight decay"
        f" {recipe.weight_decay:g}, batch {recipe.batch_size}, {recipe.epochs} epochs"
    )
    parts = [
        optimizer,
        f"shifts up to {recipe.max_shift} px{', half mirrored' if recipe.flip else ''}",
    ]
    if recipe.rand_augment is not None:
        chosen = recipe.rand_augment
        parts.append(f"RandAugment of {chosen.operations} operations at magnitude {chosen.magnitude}")
    if recipe.erasing:
        parts.append(f"a random rectangle blackened in {recipe.erasing:.0%} of the images")
    if recipe.adversarial is not None:
        training = recipe.adversarial
        warm_up = f", eps rising over {training.warmup_epochs} epochs" if training.warmup_epochs else ""
        parts.append(
            f"adversarial training at {training.threat_model}, PGD with {training.steps} steps of"
            f" {training.relative_step_size:g} eps{warm_up}"
        )
    if recipe.validation:
        parts.append(f"{recipe.validation} training examples held out for validation")
    return f"{recipe.name}: {'; '.join(parts)}"


def _percentage(accuracy: Accuracy, what: str) -> str:
    interval = wilson_interval(accuracy.correct, accuracy.total)
    return (
        f"{accuracy.rate:.2%} ({accuracy.correct} of {accuracy.total} {what}; 95% Wilson interval {interval.low:.2%} to"
        f" {interval.high:.2%})"
    )
