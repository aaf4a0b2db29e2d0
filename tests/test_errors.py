import inspect
import re

import pytest

from mixbench import errors
from mixbench.errors import MixbenchError, UnknownNameError

AVAILABLE = ("convmixer_trained", "convmixer_frozen", "resnet_frozen", "pgd")


def _classes() -> dict[str, type[MixbenchError]]:
    members = inspect.getmembers(errors, inspect.isclass)
    return {name: member for name, member in members if issubclass(member, Exception)}


def _tree() -> dict[str, str]:
    """The lines of the tree in the docstring: depth 0 and 1, name, meaning."""
    lines = re.findall(r"^ +([├└]── )?(\w+Error) +(.*)$", str(errors.__doc__), re.MULTILINE)
    assert [bool(branch) for branch, _, _ in lines] == [False] + [True] * (len(lines) - 1)
    return {name: meaning for _, name, meaning in lines}


def test_the_tree_in_the_docstring_is_the_tree_of_classes() -> None:
    root, *children = _tree()
    assert root == MixbenchError.__name__
    assert {root, *children} == set(_classes())
    assert {name for name, error in _classes().items() if error.__bases__ == (MixbenchError,)} == set(children)


def test_there_are_at_most_six_children() -> None:
    assert len(_tree()) - 1 <= 6


def test_every_exit_code_is_the_one_the_docstring_names() -> None:
    named = {name: int(code[1]) for name, meaning in _tree().items() if (code := re.search(r"exit code (\d)", meaning))}
    assert named == {"MixbenchError": 2, "AttackViolationError": 3}
    for name, error in _classes().items():
        assert error.exit_code == named.get(name, 2)


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("convmixer_frozn", "did you mean 'convmixer_frozen'"),
        ("resnet_forzen", "did you mean 'resnet_frozen'"),
        ("gpd", "did you mean 'pgd'"),
    ],
)
def test_a_near_miss_is_answered_with_the_nearest_name(name: str, guess: str) -> None:
    message = str(UnknownNameError("model", name, AVAILABLE))
    assert message.startswith(f"unknown model {name!r}: {guess}")


def test_a_far_miss_lists_all_names_in_order_without_a_guess() -> None:
    error = UnknownNameError("model", "zzz", iter(AVAILABLE))
    assert str(error) == "unknown model 'zzz': available: convmixer_frozen, convmixer_trained, pgd, resnet_frozen"
    assert (error.kind, error.name) == ("model", "zzz")


def test_an_empty_catalogue_is_said_to_be_empty() -> None:
    message = str(UnknownNameError("model", "zzz", (), forms=("timm:NAME",)))
    assert message == "unknown model 'zzz': available: none here, timm:NAME"
