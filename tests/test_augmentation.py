"""Adaptive augmentation: as much of it as the critics' overfitting asks for."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from toys import Mixture, PointCritic, ring

from genkit.adversarial import LOSSES
from genkit.engine.augmentation import View
from genkit.engine.players import CriticPlayer
from genkit.errors import ConfigError
from genkit.plugin import Critique, Sample
from genkit.recipe import Recipe


def shaken(sample):
    return sample.with_x(sample.x + 2 * torch.randn_like(sample.x))


class Augmented(Mixture):
    """Points on a ring that are shaken; it notes whether critics (False) or the generator (True) asked for it."""

    asked_by = set()

    def augment(self, sample):
        self.asked_by.add(sample.x.requires_grad)
        return shaken(sample)


augmented_ring = replace(ring, plugin=Augmented)


def view(target=0.6, items=640, augment=shaken, **recipe):
    return View(augment, Recipe(augmentation={"target": target, "items": items}, **recipe))


def followed(view, sign, updates):
    for _ in range(updates):
        view(Sample(torch.zeros(1, 2)))
        view.observe(torch.tensor(sign))
        view.follow()
    return view.strength.item()


def test_the_strength_rises_where_reals_are_told_apart_and_falls_where_not():
    """By a tenth in each update here; the mean sign passes the target in the fourth."""
    adaptive = view()
    assert followed(adaptive, 1.0, 3) == 0
    assert followed(adaptive, 1.0, 4) == pytest.approx(0.4)
    assert followed(adaptive, 1.0, 20) == 1
    assert followed(adaptive, 0.0, 6) == pytest.approx(0.5)  # its first step is still upwards, at 1
    assert followed(adaptive, -1.0, 20) == 0
    assert followed(adaptive, torch.nan, 3) == 0


def test_the_strength_is_the_share_of_samples_that_are_augmented():
    torch.manual_seed(0)
    adaptive, sample = view(), Sample(torch.randn(4000, 2), mask=torch.ones(4000, 3, dtype=bool))
    for strength in (0.0, 0.25, 1.0):
        adaptive.strength.fill_(strength)
        seen = adaptive(sample)
        changed = (seen.x != sample.x).any(1)
        assert changed.float().mean().item() == pytest.approx(strength, abs=0.02)
        assert torch.equal(seen.x[~changed], sample.x[~changed])
        assert torch.equal(seen.mask, sample.mask)


@pytest.mark.parametrize("augment", [None, lambda sample: sample])
def test_nothing_follows_where_nothing_is_augmented(augment):
    assert followed(view(augment=augment), 1.0, 20) == 0


def test_parts_of_a_batch_are_averaged_like_the_batch():
    whole, divided = view(), view(gradient_accumulation=4)
    for signs in torch.rand(10, 4):
        whole.observe(signs.mean())
        for sign in signs:
            divided.observe(sign)
    assert divided.sign.item() == pytest.approx(whole.sign.item(), abs=0.05)
    assert whole.sign.item() > 0.3


class Line(PointCritic):
    """Two heads that say how far to the right a point lies, from a border of the loss's own, or from any other."""

    border = 0.0

    def forward(self, sample):
        return Critique((sample.x[:, 0] + self.border, sample.x[:, :1] + self.border))


@pytest.mark.parametrize(("loss", "border"), [(loss, LOSSES[loss].border) for loss in LOSSES])
def test_the_sign_is_that_of_a_logit_beyond_the_border_of_the_loss(loss, border):
    """Three of four reals lie to the right, and all fakes in the middle."""
    critic, recipe = Line(4), Recipe(loss=loss, batch_size=256, augmentation={})
    critic.border = 7.0 if border is None else border
    player = CriticPlayer("critic", critic, recipe, Augmented(ring), frozenset({"augment"}))
    real, fake = (
        Sample(torch.tensor([[1.0, 0], [2, 0], [3, 0], [-1, 0]])),
        Sample(torch.zeros(4, 2)),
    )
    assert player(real, fake, {}, {}, None)[1]["augmentation"] == 0
    assert player.view.sign == 0.5


def rows(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


PLAIN = {"batch_size": 64, "penalties": {"r1": None, "r2": None}}
RECIPE = {**PLAIN, "augmentation": {"target": 0.1, "items": 1280}}


def test_a_resumed_run_augments_as_one_that_never_stopped(train, checkpoint):
    _, whole = train(augmented_ring, 1280, "whole", recipe=RECIPE)
    for items in (448, 1280):
        _, parts = train(augmented_ring, items, "parts", recipe=RECIPE, resume=True)
    tensors = [load_file(checkpoint(out) / "players.safetensors") for out in (whole, parts)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert 0 < rows(whole)[-1]["critic.augmentation"] < 1  # the mean over the run
    assert tensors[0]["critics.critic.view.strength"] > 0
    assert Augmented.asked_by == {False, True}


def test_without_the_setting_every_sample_is_augmented(train):
    _, out = train(augmented_ring, 128, recipe=PLAIN)
    assert not any("critic.augmentation" in row for row in rows(out))
    sample = Sample(torch.zeros(50, 2))
    assert (View(shaken, Recipe())(sample).x != 0).all()


def test_a_modality_that_cannot_augment_is_told_so(train):
    with pytest.raises(ConfigError, match=r"recipe\.augmentation needs the capability 'augment'"):
        train(ring, 64, recipe=RECIPE)
