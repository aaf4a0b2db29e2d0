"""What a sweep runs: grids of models, recipes, seeds and attacks in a TOML file."""

import itertools
import json
import math
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from mixbench.attacks import attack_named
from mixbench.datasets import CATALOGUE
from mixbench.errors import InvalidInputError, MixbenchError
from mixbench.threat_model import Norm, ThreatModel, parse_eps
from mixbench.training import TrainingRun, usual_tag

_Names = Annotated[tuple[str, ...], Field(min_length=1)]
_Seeds = Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
_FilterSeeds = Annotated[tuple[Annotated[int, Field(ge=0, lt=2**32)], ...], Field(min_length=1)]


class SweepValue(BaseModel):
    """What is read from a file: unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SweepEvaluation(SweepValue):
    """An attack on every trained model: `eps` as on the command line, on `n_examples` or all test examples."""

    attack: str
    norm: str = "Linf"
    eps: _Names
    n_examples: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    def threat_models(self) -> list[ThreatModel]:
        """Return what is attacked under; raises InvalidInputError or UnknownNameError."""
        norm = Norm.parse(self.norm)
        return [ThreatModel(norm, parse_eps(eps)) for eps in self.eps]


class Grid(SweepValue):
    """Every combination of these is a run, evaluated as `evaluation` says.

    `keep_weights` keeps the checkpoint folder of each run beside its result.
    """

    models: _Names
    dataset: str
    recipes: _Names = ("standard",)
    seeds: _Seeds = (0,)
    filter_seeds: _FilterSeeds = (0,)
    epochs: Annotated[int, Field(ge=1)] | None = None
    keep_weights: bool = True
    evaluation: tuple[SweepEvaluation, ...] = ()

    def runs(self) -> Iterator[TrainingRun]:
        """Yield the runs; seeds other than 0 and 0 stand in the tag."""
        for recipe, seed, filter_seed, model in itertools.product(
            self.recipes, self.seeds, self.filter_seeds, self.models
        ):
            tag = usual_tag(self.dataset, recipe) + (f"_s{seed}_f{filter_seed}" if seed or filter_seed else "")
            yield TrainingRun(model, self.dataset, recipe, seed, filter_seed, self.epochs, tag)

    def check(self) -> None:
        """Raise UnknownNameError or InvalidInputError for the first name or number that would fail after training."""
        for run in self.runs():
            run.spec()
            run.resolved_recipe()
        dataset = CATALOGUE[self.dataset]
        n, size, classes = dataset.splits["test"].n, dataset.image_size, len(dataset.class_names)
        for evaluation in self.evaluation:
            attack = attack_named(evaluation.attack)
            for threat_model in evaluation.threat_models():
                attack.check_fits(threat_model, num_classes=classes, image_size=size)
                threat_model.check_fits(math.prod(size))
            if evaluation.n_examples is not None and evaluation.n_examples > n:
                raise InvalidInputError(
                    f"n_examples {evaluation.n_examples} is over the {n} test examples of {self.dataset}: choose from 1"
                    f" to {n}, or leave it out for all"
                )


class Sweep(SweepValue):
    """The content of a sweep's TOML file."""

    grid: Annotated[tuple[Grid, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [run.name for grid in self.grid for run in grid.runs()]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two runs are called {twice}: let each combination stand in one grid alone")
        return self


def read_sweep(path: Path) -> Sweep:
    """Return the sweep in the TOML file `path`; raises a MixbenchError that names the file, the place and the fault.

    Everything in it is checked before anything is trained: models, recipes, attacks, radii and numbers of examples.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        # As JSON, so that lists are tuples, but "5" and true are no whole numbers.
        sweep = Sweep.model_validate_json(json.dumps(content, default=str), strict=True)
    except OSError as error:
        raise InvalidInputError(f"cannot read the sweep {path} ({error.strerror}): check the path") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"{path} is not TOML ({error}): correct it") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "grid"
        raise InvalidInputError(f"{path} is not a sweep: {place}: {first['msg']}; correct it") from None
    for number, grid in enumerate(sweep.grid):
        try:
            grid.check()
        except MixbenchError as error:
            error.args = (f"{path}: grid.{number}: {error}",)
            raise
    return sweep
