import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from mixbench.models import load_model
from mixbench.models.identity import function_hash
from mixbench.models.loading import PixelModel

CODE = """
from torch import nn

def scale(images):
    return images * 1.0

class Net(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.width = width
        self.activation = scale
        self.linear = nn.Linear(2, 2)
        nn.init.ones_(self.linear.weight)
        nn.init.ones_(self.linear.bias)

    def extra_repr(self):
        return str(self.activation)

    def forward(self, images):
        return self.activation(self.linear(images)) * self.width

def make():
    return Net(3)
"""
PROBE = "from mixbench.models import load_model; print(load_model('net:make').identity.sha256)"


def _hash_here(code: str, folder: Path) -> str:
    folder.mkdir()
    (folder / "net.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.delitem(sys.modules, "net", raising=False)
        digest = load_model("net:make").identity.sha256
        del sys.modules["net"]
    return digest


def _hash_elsewhere(folder: Path) -> str:
    path = [str(folder), *(entry for entry in sys.path if entry)]
    script = f"import sys; sys.path[:0] = {path!r}; {PROBE}"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_changed_code_with_equal_weights_is_another_model(tmp_path: Path) -> None:
    changes = [CODE, CODE.replace("* 1.0", "* 2.0"), CODE.replace("Net(3)", "Net(4)")]
    hashes = [_hash_here(code, tmp_path / str(index)) for index, code in enumerate(changes)]
    assert len(set(hashes)) == 3


def test_the_hash_of_the_same_code_is_the_same_in_another_process(tmp_path: Path) -> None:
    assert _hash_here(CODE, tmp_path / "net") == _hash_elsewhere(tmp_path / "net")


class _Shift(nn.Module):
    def __init__(self, shift: float) -> None:
        super().__init__()
        self.register_buffer("shift", torch.tensor(shift), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)


@pytest.mark.parametrize("image_size", [None, (1, 2, 2)])
def test_a_buffer_that_is_not_saved_counts(image_size: tuple[int, int, int] | None) -> None:
    hashes = [function_hash(_Shift(shift), image_size=image_size, code=()) for shift in (0.0, 0.0, 1.0)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_normalisation_counts() -> None:
    normalisations = [((0.5,), (0.5,)), ((0.25,), (0.5,)), ((0.5,), (0.25,))]
    models = [PixelModel(nn.Flatten(), mean=mean, std=std) for mean, std in normalisations]
    assert len({function_hash(model, image_size=(1, 2, 2), code=()) for model in models}) == 3


def test_what_a_model_of_known_size_computes_counts_and_not_only_its_weights() -> None:
    models = [nn.Sequential(nn.Flatten(), nn.Softplus(beta)) for beta in (1.0, 1.0, 2.0)]
    hashes = [function_hash(model, image_size=(1, 2, 2), code=()) for model in models]
    assert hashes[0] == hashes[1] != hashes[2]


class _Noisy(nn.Module):
    """The same function as Flatten, but for rounding noise as another CPU would have."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) * (1 + 1e-14)


def test_rounding_noise_does_not_count() -> None:
    hashes = {function_hash(model, image_size=(3, 32, 32), code=()) for model in (nn.Flatten(), _Noisy())}
    assert len(hashes) == 1


class _CastsToSingle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images.flatten(1).float())


def test_a_model_that_casts_inside_has_a_hash_too_and_is_left_alone() -> None:
    model = _CastsToSingle()
    assert len(function_hash(model, image_size=(1, 2, 2), code=())) == 64
    assert model.linear.weight.dtype == torch.float32


def test_a_network_of_timm_is_left_alone() -> None:
    model = timm.create_model("mobilenetv3_small_050").eval()
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = model(images)
        function_hash(model, image_size=(3, 64, 64), code=())
        assert torch.equal(model(images), before)
