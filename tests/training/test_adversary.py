import pytest
import torch
from torch import nn

from mixbench.datasets import Examples
from mixbench.models import ARCHITECTURES, ModelSpec
from mixbench.threat_model import Norm
from mixbench.training.adversary import adversarial_batch


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _linear(weights: torch.Tensor) -> nn.Module:
    layer = nn.Linear(weights.shape[1], weights.shape[0])
    layer.weight.data, layer.bias.data = weights, torch.zeros(weights.shape[0])
    return nn.Sequential(nn.Flatten(), layer)


@pytest.mark.parametrize("eps", [0.1, 0.5])
def test_against_a_linear_network_linf_reaches_the_closed_form_optimum(eps: float) -> None:
    """With two classes the loss rises along -sign(w_y - w_other) everywhere, so the worst image is a corner."""
    weights = torch.randn(2, 12, generator=_generator(1))
    images = torch.rand(30, 1, 3, 4, generator=_generator(2))
    labels, start = torch.arange(30) % 2, torch.rand(30, 1, 3, 4, generator=_generator())
    adversarial = adversarial_batch(
        _linear(weights), images, labels, start, norm=Norm.LINF, eps=eps, step_size=eps / 2, steps=5
    )
    away = torch.sign(weights[1 - labels] - weights[labels]).reshape(images.shape)
    assert torch.allclose(adversarial, (images + eps * away).clamp(0, 1), atol=1e-6)


def test_against_a_linear_network_l2_reaches_the_closed_form_optimum() -> None:
    """Away from the box, the worst image lies eps along -(w_y - w_other)."""
    weights = torch.randn(2, 12, generator=_generator(1))
    images = torch.rand(30, 1, 3, 4, generator=_generator(2)) * 0.2 + 0.4
    labels, start = torch.arange(30) % 2, torch.randn(30, 1, 3, 4, generator=_generator())
    adversarial = adversarial_batch(
        _linear(weights), images, labels, start, norm=Norm.L2, eps=0.3, step_size=0.15, steps=40
    )
    away = weights[1 - labels] - weights[labels]
    optimum = images + 0.3 * (away / away.norm(dim=1, keepdim=True)).reshape(images.shape)
    assert torch.allclose(adversarial, optimum, atol=2e-3)


@pytest.mark.parametrize("norm", [Norm.LINF, Norm.L2])
@pytest.mark.parametrize("steps", [0, 1, 4])
def test_the_search_stays_in_ball_and_box_and_raises_the_loss(train_digits: Examples, steps: int, norm: Norm) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ModelSpec.for_dataset(ARCHITECTURES["convmixer_frozen"], "digits", filter_seed=0).build()
    images = torch.from_numpy(train_digits.images).float() / 255
    labels = torch.from_numpy(train_digits.labels)
    sample = torch.rand if norm is Norm.LINF else torch.randn
    start = sample(images.shape, generator=_generator())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    learning = [parameter.requires_grad for parameter in model.parameters()]
    eps = 0.1 if norm is Norm.LINF else 0.5
    adversarial = adversarial_batch(
        model.train(), images, labels, start, norm=norm, eps=eps, step_size=eps / 2, steps=steps
    )
    perturbation = (adversarial - images).flatten(1)
    size = perturbation.abs().amax(1) if norm is Norm.LINF else perturbation.norm(dim=1)
    assert size.max() <= eps + 1e-6
    assert adversarial.min() >= 0
    assert adversarial.max() <= 1
    assert not adversarial.requires_grad
    # Batch statistics, gradients and what learns stay as they were, and so does the mode.
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert [parameter.requires_grad for parameter in model.parameters()] == learning
    loss = nn.CrossEntropyLoss()
    with torch.no_grad():
        losses = [float(loss(model.eval()(batch), labels)) for batch in (images, adversarial)]
    if steps:
        assert losses[1] > losses[0]


def test_a_failing_network_leaves_what_learns_as_it_was() -> None:
    model = _linear(torch.zeros(2, 12)).train()
    with pytest.raises(RuntimeError):
        adversarial_batch(
            model,
            torch.rand(2, 1, 5, 5),
            torch.tensor([0, 1]),
            torch.rand(2, 1, 5, 5),
            norm=Norm.LINF,
            eps=0.1,
            step_size=0.1,
            steps=1,
        )
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_linf_start_fills_the_ball() -> None:
    images, start = torch.full((50, 1, 4, 4), 0.5), torch.rand(50, 1, 4, 4, generator=_generator())
    moved = (
        adversarial_batch(
            _linear(torch.zeros(2, 16)),
            images,
            torch.zeros(50).long(),
            start,
            norm=Norm.LINF,
            eps=0.25,
            step_size=1.0,
            steps=0,
        )
        - images
    )
    assert moved.min() < -0.24
    assert moved.max() > 0.24
    assert moved.abs().mean() == pytest.approx(0.125, abs=0.01)
