from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mixbench.attacks.fast.apgd import Apgd
from mixbench.attacks.fast.engine import Engine, Outcome
from mixbench.attacks.fast.search import Network, Search, Slots, margins
from mixbench.attacks.protocol import Passes
from mixbench.threat_model import Norm, ThreatModel
from tests.attacks.fast.networks import judged_by, rowwise_network
from tests.models_for_tests import as_floats, grey_levels, linear_model, small_convmixer

SMALL = ThreatModel(Norm.LINF, Fraction(1, 50))
NETWORK = rowwise_network(36)
IMAGES = as_floats(grey_levels(40))
LABELS = NETWORK(IMAGES).argmax(1)
LINEAR = linear_model()
NEVER = 10_000
PASSES = Passes(3, 2)


def attacked(
    engine: Engine,
    search: Search[Slots] | Apgd,
    chosen: Sequence[int] = range(40),
    *,
    network: Network = NETWORK,
    threat_model: ThreatModel = SMALL,
    seed: int = 0,
) -> Outcome:
    index = torch.tensor(list(chosen), dtype=torch.int64)
    with torch.no_grad():
        logits = network(IMAGES[index])
    return engine.run(search, IMAGES[index], logits.argmax(1), logits, threat_model, seed=seed)


@dataclass(frozen=True)
class Scripted:
    """A search that finds what the script says: in which step an example's candidate turns up.

    Steps are counted from 1 over all runs. The script is the image's first pixel times 10,000.
    """

    length: int
    parts: int = 1
    name: str = "scripted"
    passes: Passes = PASSES

    def budget(self, num_classes: int) -> int:
        return self.length * self.runs(num_classes)

    def runs(self, num_classes: int) -> int:
        del num_classes
        return self.parts

    def start(
        self, images: Tensor, labels: Tensor, keys: Tensor, clean_logits: Tensor, eps: Tensor, *, run: Tensor
    ) -> Slots:
        infinite = torch.full_like(eps, torch.inf)
        # The clean logits are free to say at which step of the script the run begins.
        begin = (run * self.length).float()[:, None].expand_as(clean_logits)
        return Slots(images, labels, keys, begin, eps, torch.zeros_like(labels), images, infinite)

    def step(self, network: Network, slots: Slots) -> None:
        del network
        slots.steps += 1
        found = slots.steps + slots.clean_logits[:, 0] == scripts_of(slots.images)
        slots.consider(slots.images + 0.5, torch.where(found, -1.0, torch.inf))


def scripts_of(images: Tensor) -> Tensor:
    return (images[:, 0, 0, 0] * 10_000).round().long()


def scripted(scripts: Sequence[int]) -> Tensor:
    """Return images that carry the scripts, each different from the others by its last pixel."""
    images = torch.zeros((len(scripts), 1, 2, 2))
    images[:, 0, 0, 0] = torch.tensor(scripts) / 10_000
    images[:, 0, 1, 1] = torch.arange(len(scripts)) / 1000
    return images


class Shown:
    """A judge that confirms everything and notes what it was shown."""

    def __init__(self) -> None:
        self.images: list[Tensor] = []

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        self.images.extend(images)
        return torch.full(labels.shape, -1.0)


def run_script(
    scripts: Sequence[int],
    search: Scripted,
    *,
    slots: int,
    longest_stride: int = 16,
    on_steps: Callable[[int, int], None] | None = None,
) -> tuple[Outcome, Shown]:
    images, shown = scripted(scripts), Shown()
    engine = Engine(lambda images: images.flatten(1), shown, slots=slots, longest_stride=longest_stride)
    labels = torch.zeros(len(scripts), dtype=torch.int64)
    return engine.run(search, images, labels, torch.zeros(len(scripts), 4), SMALL, seed=0, on_steps=on_steps), shown


scripts_up_to = st.lists(st.one_of(st.integers(1, 60), st.just(NEVER)), min_size=0, max_size=60)


@given(scripts_up_to, st.integers(1, 70), st.integers(1, 20), st.integers(1, 40))
def test_no_example_is_lost_or_attacked_twice(scripts: list[int], slots: int, longest_stride: int, length: int) -> None:
    passes: list[tuple[int, int]] = []
    outcome, shown = run_script(
        scripts,
        Scripted(length),
        slots=slots,
        longest_stride=longest_stride,
        on_steps=lambda forwards, backwards: passes.append((forwards, backwards)),
    )
    expected = np.array(scripts, dtype=np.int64) <= length
    clean = scripted(scripts)
    np.testing.assert_array_equal(outcome.broken, expected)
    kept = torch.from_numpy(expected)
    assert torch.equal(outcome.adversarial, clean + 0.5 * kept[:, None, None, None])
    assert sorted(float(image[0, 1, 1]) for image in shown.images) == (clean[kept, 0, 1, 1] + 0.5).tolist()
    assert outcome.confirmations == expected.sum()
    assert outcome.refuted == 0
    assert (outcome.backwards[~expected] == 2 * length).all()
    assert (outcome.forwards == outcome.backwards // 2 * 3 + expected).all()
    assert sum(forwards for forwards, _ in passes) == outcome.forwards.sum()
    assert sum(backwards for _, backwards in passes) == outcome.backwards.sum()


@given(scripts_up_to, st.integers(1, 70), st.integers(1, 16), st.integers(1, 5))
def test_runs_of_one_example_may_go_side_by_side(scripts: list[int], slots: int, length: int, parts: int) -> None:
    """The script's step may lie in any run; the passes of runs that another one made needless count too."""
    outcome, _ = run_script(scripts, Scripted(length, parts), slots=slots)
    expected = np.array(scripts, dtype=np.int64) <= length * parts
    np.testing.assert_array_equal(outcome.broken, expected)
    assert (outcome.backwards[~expected] == 2 * length * parts).all()
    assert (outcome.backwards[expected] <= 2 * length * parts).all()


@given(st.integers(1, 400), st.integers(1, 64))
def test_a_broken_example_leaves_soon(script: int, longest_stride: int) -> None:
    """At once while it is young; later after no more than a quarter of the steps that it had made by then."""
    outcome, _ = run_script([script], Scripted(400), slots=8, longest_stride=longest_stride)
    waste = outcome.backwards[0] // 2 - script
    assert 0 <= waste < min(max(script / 4, 1), longest_stride)


def test_an_example_costs_the_same_in_any_company() -> None:
    scripts = [1, 3, 9, 17, 40, 41, NEVER, 100, 30, 2, NEVER, 64]
    alone = [int(run_script([script], Scripted(120), slots=8)[0].forwards[0]) for script in scripts]
    for slots in (1, 5, 8, 100):
        assert run_script(scripts, Scripted(120), slots=slots)[0].forwards.tolist() == alone


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
@pytest.mark.parametrize("loss", ["ce", "dlr-targeted"])
def test_order_company_and_slots_do_not_change_a_bit(norm: Norm, loss: str) -> None:
    """On a network that is the same for a row in any batch; where runs go side by side, any of them may come first."""
    search = Apgd(norm, loss, iterations=30)  # pyright: ignore[reportArgumentType]
    threat_model = ThreatModel(norm, {Norm.LINF: Fraction(1, 100), Norm.L2: Fraction(1, 25)}[norm])
    whole = attacked(Engine(NETWORK, judged_by(NETWORK)), search, threat_model=threat_model)
    assert 4 <= whole.broken.sum() <= 36
    shuffled = np.random.Generator(np.random.PCG64(0)).permutation(40)
    for chosen, slots in ((range(40), 8), (range(40), 24), (shuffled, 24), (range(5, 30), 512), ([7], 16)):
        part = attacked(Engine(NETWORK, judged_by(NETWORK), slots=slots), search, chosen, threat_model=threat_model)
        np.testing.assert_array_equal(part.broken, whole.broken[list(chosen)])
        if loss == "ce":
            assert torch.equal(part.adversarial, whole.adversarial[list(chosen)])
            np.testing.assert_array_equal(part.forwards, whole.forwards[list(chosen)])


def test_the_seed_decides_and_no_global_generator_is_touched() -> None:
    engine, search = Engine(NETWORK, judged_by(NETWORK)), Apgd(Norm.LINF, "ce", iterations=5)
    state = torch.random.get_rng_state()
    first, again, other = (attacked(engine, search, seed=seed) for seed in (3, 3, 4))
    assert first.broken.any()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(first.adversarial, again.adversarial)
    assert not torch.equal(first.adversarial, other.adversarial)


def nearest(images: Tensor) -> Tensor:
    """Return which clean image each of `images` descends from."""
    return torch.cdist(images.detach().flatten(1), IMAGES.flatten(1)).argmin(1)


def lying(lies: Tensor) -> Network:
    """Return a network that sees the margins of each example smaller than they are, by its own amount."""
    labels = LINEAR(IMAGES).argmax(1)

    def network(images: Tensor) -> Tensor:
        descent = nearest(images)
        bias = torch.zeros(len(images), 4).scatter(1, labels[descent][:, None], -lies[descent][:, None])
        return LINEAR(images) + bias

    return network


@pytest.mark.parametrize("loss", ["ce", "dlr-targeted"])
def test_a_false_candidate_is_refuted_and_the_example_attacked_on(loss: str) -> None:
    """Every other example looks broken early; in the end each verdict is the judge's model's own."""
    radii = LINEAR.radii(IMAGES, Norm.LINF)
    eps = Fraction(float(np.sort(radii)[19:21].mean()))
    dual = float(LINEAR.weights.detach().abs().sum())
    lies = torch.zeros(40)
    lies[::2] = 0.5 * float(eps) * dual
    search = Apgd(Norm.LINF, loss)  # pyright: ignore[reportArgumentType]
    outcome = attacked(
        Engine(lying(lies), judged_by(LINEAR)), search, network=LINEAR, threat_model=ThreatModel(Norm.LINF, eps)
    )
    expected = radii < float(eps)
    np.testing.assert_array_equal(outcome.broken, expected)
    assert outcome.refuted > 0
    assert outcome.confirmations == outcome.refuted + expected.sum()
    assert (outcome.backwards[~expected] == search.budget(4)).all()
    assert (outcome.forwards - outcome.backwards).sum() == outcome.confirmations
    looked_broken = ~expected & (radii < 1.5 * float(eps)) & (lies.numpy() > 0)
    assert looked_broken.any()
    assert ((outcome.forwards - outcome.backwards)[looked_broken] >= 1).all()
    assert torch.equal(outcome.adversarial[torch.from_numpy(~expected)], IMAGES[torch.from_numpy(~expected)])


@pytest.mark.parametrize(("suspicion", "found"), [(0.0, False), (0.1, True)])
def test_suspicion_finds_what_the_network_misses_by_less(suspicion: float, *, found: bool) -> None:
    """The network sees every margin 0.04 too large."""
    radii = LINEAR.radii(IMAGES, Norm.LINF)
    dual = float(LINEAR.weights.detach().abs().sum())
    weakest = int(radii.argmin())
    eps = Fraction(float(radii[weakest]) + 0.02 / dual)
    outcome = attacked(
        Engine(lying(torch.full((40,), -0.04)), judged_by(LINEAR), suspicion=suspicion),
        Apgd(Norm.LINF, "ce"),
        [weakest],
        network=LINEAR,
        threat_model=ThreatModel(Norm.LINF, eps),
    )
    assert outcome.broken.tolist() == [found]


@pytest.mark.parametrize(("least", "asks"), [(0.04, 3), (0.055, 2)])
def test_the_judge_is_asked_again_only_about_what_is_new(least: float, asks: int) -> None:
    """The margin falls from 0.09 in steps, all of them false; the judge is asked at 0.08 and at 0.05 or 0.055.

    A smaller step down is asked about at the end only; the candidate that it denied already is not shown again.
    """

    @dataclass(frozen=True)
    class Falling(Scripted):
        def step(self, network: Network, slots: Slots) -> None:
            del network
            slots.steps += 1
            slots.consider(slots.images, (0.1 - 0.01 * slots.steps.float()).clamp(min=least))

    engine = Engine(lambda images: images, lambda _, labels: torch.full(labels.shape, 1.0), suspicion=0.085)
    outcome = engine.run(Falling(6), scripted([1]), torch.zeros(1).long(), torch.zeros(1, 4), SMALL, seed=0)
    assert (outcome.confirmations, outcome.refuted) == (asks, asks)
    assert outcome.forwards.tolist() == [6 * 3 + asks]


def test_runs_that_became_needless_are_never_begun() -> None:
    """In a single slot the second run breaks the example with its first step, before the third has its turn."""
    outcome, _ = run_script([41], Scripted(40, parts=5), slots=1)
    assert outcome.broken.all()
    assert outcome.backwards.tolist() == [2 * 41]


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
def test_half_precision_gives_nearly_the_same_verdicts_and_none_that_the_judge_denies(norm: Norm) -> None:
    model = small_convmixer().requires_grad_(requires_grad=False)
    half = small_convmixer().requires_grad_(requires_grad=False).to(torch.bfloat16)
    images = as_floats(grey_levels(64, (1, 8, 8)))
    with torch.no_grad():
        logits = model(images)
    labels, threat_model = (
        logits.argmax(1),
        ThreatModel(norm, {Norm.LINF: Fraction(1, 30), Norm.L2: Fraction(1, 4)}[norm]),
    )
    half_error = (half(images.to(torch.bfloat16)).float() - logits).abs().max()
    judge, search = judged_by(model), Apgd(norm, "ce", iterations=50)
    exact = Engine(model, judge).run(search, images, labels, logits, threat_model, seed=0)
    fast = Engine(lambda images: half(images.to(torch.bfloat16)).float(), judge, suspicion=2 * float(half_error)).run(
        search, images, labels, logits, threat_model, seed=0
    )
    assert 10 <= exact.broken.sum() <= 54
    assert (fast.broken == exact.broken).mean() >= 0.93
    assert torch.equal(judge(fast.adversarial, labels) < 0, torch.from_numpy(fast.broken))
    assert fast.refuted > 0


def test_a_network_that_is_undecided_is_judged_as_argmax_does() -> None:
    """Equal logits: the label 1 has lost to class 0, the label 0 has not lost to class 1."""

    def network(images: Tensor) -> Tensor:
        return images.flatten(1)[:, :1] * 0 + torch.zeros(len(images), 4)

    labels = torch.tensor([0, 1])
    outcome = Engine(network, judged_by(network)).run(
        Apgd(Norm.LINF, "ce", iterations=3), IMAGES[:2], labels, torch.zeros(2, 4), SMALL, seed=0
    )
    assert outcome.broken.tolist() == [False, True]
    assert margins(network(IMAGES[:2]), labels)[0] == 0


def test_no_examples_are_no_work() -> None:
    outcome = attacked(Engine(NETWORK, judged_by(NETWORK)), Apgd(Norm.LINF, "ce"), [])
    assert (len(outcome.broken), len(outcome.adversarial), outcome.confirmations) == (0, 0, 0)


@pytest.mark.parametrize(
    ("device", "examples", "width"),
    [
        ("cpu", 1, 8),
        ("cpu", 8, 8),
        ("cpu", 41, 48),
        ("cpu", 1000, 100),
        ("cuda", 1, 16),
        ("cuda", 16, 16),
        ("cuda", 17, 24),
        ("cuda", 25, 32),
        ("cuda", 65, 96),
        ("cuda", 97, 100),
        ("cuda", 1000, 100),
    ],
)
def test_the_width_holds_the_examples_if_it_may(device: str, examples: int, width: int) -> None:
    engine = Engine(NETWORK, judged_by(NETWORK), slots=100)
    assert engine.width(examples, torch.device(device)) == width


def test_few_stubborn_examples_fill_many_slots() -> None:
    """The runs after the first go side by side: 40 steps of one run twice over, not 40 for each of five runs."""
    widths: list[int] = []

    class Watching(Scripted):
        def step(self, network: Network, slots: Slots) -> None:
            widths.append(len(slots.labels))
            super().step(network, slots)

    outcome, _ = run_script([NEVER] * 6, Watching(40, parts=5), slots=64)
    assert widths == [8] * 40 + [24] * 40
    assert outcome.backwards.tolist() == [2 * 200] * 6
