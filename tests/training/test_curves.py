from pathlib import Path

import pytest
from PIL import Image

from mixbench.errors import InvalidInputError, RecordError
from mixbench.files import check_picture
from mixbench.records import Accuracy
from mixbench.training import Epoch
from mixbench.training.curves import draw_curves


def _epochs(n: int) -> list[Epoch]:
    half = Accuracy(correct=1, total=2)
    return [Epoch(number, n, 1 / number, half, None, half, 0.1, 1.0) for number in range(1, n + 1)]


@pytest.mark.parametrize("n", [1, 5])
def test_the_picture_is_a_picture(n: int, tmp_path: Path) -> None:
    draw_curves(tmp_path / "new" / "curves.png", _epochs(n), title="convmixer_frozen.toy")
    with Image.open(tmp_path / "new" / "curves.png") as picture:
        assert min(picture.size) > 400


def test_a_vector_picture_names_what_it_shows(tmp_path: Path) -> None:
    import matplotlib as mpl  # noqa: PLC0415 - needed here alone

    with mpl.rc_context({"svg.fonttype": "none"}):
        draw_curves(tmp_path / "curves.svg", _epochs(3), title="convmixer_frozen.toy")
    text = (tmp_path / "curves.svg").read_text()
    for words in ("convmixer_frozen.toy", "training batches", "a training batch under PGD-5", "cross-entropy", "epoch"):
        assert words in text
    # Nothing was held out, so nothing of the kind is drawn.
    assert "held-out" not in text


@pytest.mark.parametrize("name", ["curves", "curves.txt", "curves.gif"])
def test_another_format_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match=rf"{name} names no picture format: end it with .png, .svg, .pdf"):
        check_picture(Path(name))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match=r"cannot write .*file/curves.png: "):
        draw_curves(tmp_path / "file" / "curves.png", _epochs(2), title="x")
