"""User objects: named like what is built in, checked at the start, never imported because a model folder says so."""

import re
import sys

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from toys import ring

import genkit
from genkit import user_objects
from genkit.adversarial import (
    LOSSES,
    PENALTIES,
    AdversarialLoss,
    Penalty,
    hinge_generator,
    squared_gradient_norm,
)
from genkit.config import build
from genkit.errors import ConfigError, ModelError
from genkit.recipe import Recipe

soft = AdversarialLoss(LOSSES["hinge"].critic, lambda fake, real: -fake)
steep = Penalty(squared_gradient_norm, "between")
NETWORKS = """
from torch import nn
from genkit.plugin import Critique, Noise, Sample

class Critic(nn.Module):
    def __init__(self, options, channels, classes):
        super().__init__()
        self.body = nn.Linear(channels * options.shape[0] * options.shape[1], 1)
    def forward(self, sample):
        return Critique((self.body(sample.x.flatten(1))[:, 0],))

class Generator(nn.Module):
    def __init__(self, options, channels, classes):
        super().__init__()
        self.noise = {"z": Noise((2,))}
        self.shape = (channels, *options.shape)
        self.body = nn.Linear(2, channels * options.shape[0] * options.shape[1])
    def forward(self, noise, condition=None, controls=None):
        return Sample(self.body(noise["z"]).tanh().view(-1, *self.shape))

class Silent(Critic):
    def forward(self, sample):
        return sample.x

class Patches(Critic):
    def forward(self, sample):
        return Critique((sample.x * self.body.bias,))
"""


def forget(monkeypatch):
    """As in a new process, where nobody has named anything yet."""
    monkeypatch.setattr(user_objects, "_networks", set())
    sys.modules.pop("my_networks", None)


@pytest.fixture
def networks(tmp_path, monkeypatch):
    (tmp_path / "my_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    forget(monkeypatch)
    yield
    sys.modules.pop("my_networks", None)


def trained(out, **options):
    pictures = torch.arange(32 * 16 * 16).view(32, 16, 16).mul(7).remainder(251).byte().numpy()
    small = {"size": 16, "features": 4, "critic_norm": "none", "augment": "off"}
    return genkit.train(
        "image", pictures, out=out, items=32, batch_size=16, threads=1, options={**small, **options},
        run={"plan": "fp32", "samples": 4},
    )  # fmt: skip


# What is tried ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_every_built_in_loss_passes_the_trial(name):
    assert user_objects.loss_fault(LOSSES[name]) == ""


@pytest.mark.parametrize("name", PENALTIES)
def test_every_built_in_penalty_passes_the_trial(name):
    assert user_objects.penalty_fault(PENALTIES[name]) == ""


@pytest.mark.parametrize("name", ["probability", "signed_probability", "logit"])
def test_every_built_in_reward_passes_the_trial(name):
    assert user_objects.reward_fault(user_objects.reward_named(name)) == ""


def hinge(**parts):
    return LOSSES["hinge"]._replace(**parts)


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (object(), "is a object; a genkit.adversarial.AdversarialLoss was expected"),
        (
            hinge(critic=lambda real, fake: (real.mean(), fake.mean())),
            r"at the reals has the shape \[\]; \[4\]",
        ),
        (
            hinge(critic=lambda real, fake: (real, fake.flatten())),
            r"at the fakes has the shape \[12\]; \[4, 3\]",
        ),
        (hinge(critic=lambda real, fake: real), "gives a Tensor, not"),
        (hinge(generator=lambda fake, real: 1.0), "generator's loss is a float"),
        (hinge(generator=lambda fake, real: fake.log()), "generator's loss is not finite"),
        (hinge(generator=lambda fake, real: fake.detach()), "no gradient"),
    ],
)
def test_a_loss_that_is_none_is_told_what_is_wanted(loss, said):
    assert re.search(said, user_objects.loss_fault(loss))


@pytest.mark.parametrize(
    ("penalty", "said"),
    [
        (len, "a genkit.adversarial.Penalty was expected"),
        (steep._replace(at="everywhere"), "must be 'real', 'fake' or 'between'"),
        (steep._replace(step=0.0), "must be above 0"),
        (steep._replace(value=lambda points, logits: logits.mean()), "one for each sample"),
        (
            steep._replace(value=lambda points, logits: points.square().sum(1).detach()),
            "no gradient",
        ),
    ],
)
def test_a_penalty_that_is_none_is_told_what_is_wanted(penalty, said):
    assert said in user_objects.penalty_fault(penalty)


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ("logit", "a function"),
        (torch.mean, "one for each logit"),
        (lambda logits: logits / 0, "not finite"),
    ],
)
def test_a_reward_that_is_none_is_told_what_is_wanted(reward, said):
    assert said in user_objects.reward_fault(reward)


def test_what_raises_at_the_trial_is_the_users_mistake(monkeypatch):
    monkeypatch.setitem(globals(), "raising", hinge(generator=lambda fake, real: fake.view(7)))
    monkeypatch.setitem(sys.modules, "this_test", sys.modules[__name__])
    with pytest.raises(
        ConfigError,
        match=r"recipe.loss = 'this_test:raising': fails when it is tried on small tensors",
    ):
        build(ring, settings=[{"recipe": {"loss": "this_test:raising"}}])


# Objects ---------------------------------------------------------------------------------------------------------


def test_an_object_is_recorded_as_the_name_under_which_its_module_has_it():
    recipe = build(
        ring, settings=[{"recipe": {"loss": soft, "penalties": {steep: {"weight": 1}}}}]
    ).recipe
    assert recipe.loss == f"{__name__}:soft"
    assert f"{__name__}:steep" in recipe.penalties
    assert user_objects.resolve(recipe.loss) is soft


def test_an_object_without_a_name_of_its_own_is_refused_in_one_sentence():
    with pytest.raises(
        ConfigError, match="no module has under a name of its own: write it at the top of a module"
    ):
        build(
            ring,
            settings=[
                {
                    "recipe": {
                        "loss": hinge(generator=lambda fake, real: hinge_generator(fake, real))
                    }
                }
            ],
        )
    with pytest.raises(ValidationError, match="no module has"):
        Recipe(loss=lambda: None)
    with pytest.raises(ValidationError, match="no such name 1"):
        Recipe(loss=1)


# Networks, and folders that name them ----------------------------------------------------------------------------


@pytest.mark.usefixtures("networks")
def test_a_network_must_be_the_class_of_one():
    for name in ("os:system", "torch:tensor", "torch.nn:functional"):
        with pytest.raises(
            ConfigError, match=r"options.critic = .* a class of torch.nn.Module was expected"
        ):
            build("image", settings=[{"options": {"critic": name}}])


@pytest.mark.parametrize(
    ("critic", "said"),
    [
        (
            "Silent",
            "^options.critic = 'my_networks:Silent': it returned a Tensor; a genkit.plugin.Critique",
        ),
        ("Patches", r"logits \[8, 1, 16, 16\] for 8 samples"),
    ],
)
@pytest.mark.usefixtures("networks")
def test_a_critic_that_breaks_the_contract_says_so_before_the_game(tmp_path, critic, said):
    with pytest.raises(ConfigError, match=said):
        trained(tmp_path / "run", critic=f"my_networks:{critic}")


@pytest.mark.usefixtures("networks")
def test_a_class_that_takes_other_arguments_is_named_with_them(tmp_path):
    with pytest.raises(
        ConfigError, match=r"'torch.nn:Linear': cannot be built with \(Options, int, int\)"
    ):
        trained(tmp_path / "run", critic="torch.nn:Linear", generator="torch.nn:Linear")


@pytest.mark.usefixtures("networks")
def test_a_model_with_ones_own_critic_generates_without_its_code(tmp_path, monkeypatch):
    model = trained(tmp_path / "run", critic="my_networks:Critic")
    before = model.generate(2, best_of=2).x
    forget(monkeypatch)
    opened = genkit.load(tmp_path / "run")
    assert torch.equal(opened.generate(2).x, model.generate(2).x)
    with pytest.raises(
        ModelError, match=r"options.critic is 'my_networks:Critic'.*--user-object module:attribute"
    ):
        opened.generate(2, best_of=2)
    assert "my_networks" not in sys.modules
    trusted = genkit.load(tmp_path / "run", user_objects=["my_networks:Critic"])
    assert torch.equal(trusted.generate(2, best_of=2).x, before)


@pytest.mark.usefixtures("networks")
def test_no_model_folder_makes_a_process_import_its_generator(tmp_path, monkeypatch):
    model = trained(tmp_path / "run", generator="my_networks:Generator")
    forget(monkeypatch)
    for call in (
        genkit.load,
        lambda path: genkit.train("image", init=path, out=tmp_path / "tuned"),
    ):
        with pytest.raises(ModelError, match="my_networks:Generator"):
            call(tmp_path / "run")
        assert "my_networks" not in sys.modules
    opened = genkit.load(tmp_path / "run", user_objects=["my_networks:Generator"])
    assert torch.equal(opened.generate(2).x, model.generate(2).x)


@pytest.mark.usefixtures("networks")
def test_what_a_program_has_imported_is_not_what_its_user_named():
    import my_networks  # noqa: F401  as any library of the process may have done

    absent = user_objects.network("options.critic", "my_networks:Critic")
    assert isinstance(absent, nn.Identity)
    with pytest.raises(ModelError, match="if you trust it"):
        user_objects.not_placeholder(absent, "here")
