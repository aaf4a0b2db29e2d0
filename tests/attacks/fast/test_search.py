from dataclasses import fields

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mixbench.attacks.fast.search import Slots, input_gradient, margins
from tests.models_for_tests import small_convmixer

GENERATOR = torch.Generator().manual_seed(0)
LEVELS = st.lists(st.integers(-2, 2), min_size=2, max_size=6)


def some_slots(n: int, *, begin: int = 0) -> Slots:
    """Return slots in which every tensor tells the slot's number."""
    number = torch.arange(begin, begin + n)
    images = number.float()[:, None, None, None].expand(n, 1, 2, 2)
    return Slots(
        images=images,
        labels=number,
        keys=number,
        clean_logits=number.float()[:, None].expand(n, 3),
        eps=number.float(),
        steps=number,
        candidate=images,
        margin=number.float(),
    ).copied()


@given(LEVELS, st.data())
def test_the_margin_is_below_zero_exactly_where_argmax_is_another_class(levels: list[int], data: st.DataObject) -> None:
    logits = torch.tensor([levels], dtype=torch.float32)
    label = data.draw(st.integers(0, len(levels) - 1))
    assert bool(margins(logits, torch.tensor([label])) < 0) is (int(logits.argmax(1)) != label)


def test_the_margin_is_the_distance_to_the_largest_other_logit() -> None:
    logits = torch.tensor([[1.0, 4.0, 2.5], [1.0, 4.0, 2.5]])
    assert margins(logits, torch.tensor([1, 2])).tolist() == [1.5, -1.5]


def test_rows_put_into_slots_come_out_again_and_leave_the_others_alone() -> None:
    slots, others = some_slots(5), some_slots(2, begin=10)
    slots.put(torch.tensor([3, 1]), others)
    for name in (field.name for field in fields(Slots)):
        tensor: Tensor = getattr(slots, name)
        assert tensor.flatten(1 if tensor.dim() > 1 else 0).view(5, -1)[:, 0].tolist() == [0, 11, 2, 10, 4], name
    assert slots.rows(torch.tensor([1, 3])).labels.tolist() == [11, 10]


def test_the_candidate_is_the_image_of_least_margin_whatever_the_order() -> None:
    slots = some_slots(3)
    slots.margin.fill_(torch.inf)
    for value, found in ((0.1, [3.0, torch.inf, 2.0]), (0.2, [-1.0, torch.inf, 2.0]), (0.3, [0.0, 5.0, 1.0])):
        slots.consider(torch.full((3, 1, 2, 2), value), torch.tensor(found))
    assert slots.margin.tolist() == [-1.0, 5.0, 1.0]
    assert [round(float(image.max()), 1) for image in slots.candidate] == [0.2, 0.3, 0.3]


def test_a_unit_gradient_has_the_direction_of_the_gradient_and_does_not_vanish() -> None:
    """The loss is scaled down so far that half precision would lose it."""
    model = small_convmixer()
    images = torch.rand((4, 1, 8, 8), generator=GENERATOR)

    def loss(logits: Tensor) -> Tensor:
        return 1e-30 * logits.logsumexp(1)

    logits, losses, plain = input_gradient(model, images, loss)
    _, _, unit = input_gradient(model, images, loss, unit=True)
    assert torch.equal(logits, model(images).detach())
    assert torch.equal(losses, loss(logits))
    assert float(unit.abs().amax()) > 1e-3
    cosines = torch.nn.functional.cosine_similarity((plain * 1e30).flatten(1), unit.flatten(1))
    torch.testing.assert_close(cosines, torch.ones(4))
