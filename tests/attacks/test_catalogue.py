import pytest

from mixbench.attacks import CATALOGUE, ENGINES, PGD, Attack, AutoAttack, attack_named, attack_of
from mixbench.errors import InvalidInputError, UnknownNameError
from mixbench.records import AttackIdentity
from mixbench.threat_model import Norm, ThreatModel

IMAGE_SIZE = (3, 32, 32)


@pytest.mark.parametrize("name", list(CATALOGUE))
def test_an_attack_is_found_by_its_own_name(name: str) -> None:
    assert attack_named(name).name == name


def test_an_unknown_attack_raises_with_near_matches_and_the_full_list() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown attack 'autoatack': did you mean 'autoattack'\? .*autoattack, fgsm, pgd"
    ) as caught:
        attack_named("autoatack")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", list(CATALOGUE))
@pytest.mark.parametrize("norm", list(Norm))
def test_an_attack_takes_exactly_the_norms_of_the_catalogue(name: str, norm: Norm) -> None:
    spec, threat_model = CATALOGUE[name], ThreatModel.parse(f"{norm.value} 1/2")
    if norm in spec.norms:
        spec.attack.check_fits(threat_model, num_classes=10, image_size=IMAGE_SIZE)
    else:
        with pytest.raises(InvalidInputError, match=f"{name} has no {norm.value} version"):
            spec.attack.check_fits(threat_model, num_classes=10, image_size=IMAGE_SIZE)


@pytest.mark.parametrize("name", list(CATALOGUE))
def test_the_stages_have_different_names_and_some_work_to_do(name: str) -> None:
    attack, threat_model = attack_named(name), ThreatModel.parse("Linf 1/10")
    names = [stage.name for stage in attack.stages]
    assert len(set(names)) == len(names) >= 1
    assert all(stage.passes(threat_model, num_classes=10).work > 0 for stage in attack.stages)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", list(CATALOGUE))
def test_an_attack_is_found_again_by_what_a_record_says_of_it(name: str, engine: str) -> None:
    attack = attack_named(name, engine=engine)
    parameters = dict(attack.parameters(ThreatModel.parse("Linf 1/10"), num_classes=10))
    identity = AttackIdentity(
        name=name, version=attack.version, implementation=attack.implementation, parameters=parameters
    )
    assert attack_of(identity) == attack
    assert attack.engine == identity.engine == engine


@pytest.mark.parametrize(
    ("attack", "text"),
    [
        (
            PGD(),
            "PGD(steps=20, relative_step_size=0.1, restarts=1, name='pgd', version='standard', engine='reference')",
        ),
        (AutoAttack(), "AutoAttack(name='autoattack', version='standard')"),
    ],
    ids=["pgd", "autoattack"],
)
def test_an_attack_is_a_value_that_says_what_it_is(attack: Attack, text: str) -> None:
    assert repr(attack) == text
    assert attack == attack_named(attack.name)
    assert hash(attack) == hash(attack_named(attack.name))
    assert PGD(steps=21) != PGD()
    with pytest.raises(AttributeError):
        attack.name = "other"  # type: ignore[misc] # what this test is about
