"""Pages of modalities: everything declared is on them, as tables that every renderer of Markdown can read."""

import re
from typing import Annotated

import pytest
from pydantic import Field
from typer.testing import CliRunner

from genkit.cli import app
from genkit.discovery import registry
from genkit.discovery.reference import explained, markdown
from genkit.errors import ConfigError
from genkit.plugin import Modality, Preset
from genkit.recipe import Recipe, Settings
from genkit.user_objects import Named

IDS = sorted(registry.project_distributions())


class Options(Settings):
    """What is trained."""

    width: Annotated[int, Field(ge=1)] = 8
    """Of a layer: 4 | 8."""
    critic: Annotated[str | None, Named("plain")] = None
    """Which."""
    place: str
    """Where."""


@pytest.mark.parametrize("id", IDS)
def test_a_page_has_every_option_control_and_preset(id):
    manifest = registry.describe(id)
    page = markdown(manifest)
    for part in ("options", "controls"):
        for name in registry.named_class(manifest, part).model_fields:
            assert f"| `{name}` |" in page
    for name, preset in manifest.presets.items():
        assert f"### `{name}`\n\n{preset.summary}" in page
        for option in preset.options:
            assert f"| `options.{option}` |" in page


@pytest.mark.parametrize("id", IDS)
def test_every_row_of_a_table_has_the_cells_of_its_head(id):
    for table in re.findall(r"(?:^\|.*\n)+", markdown(registry.describe(id)), re.M):
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}) == 1


def test_a_page_tells_types_bounds_and_names_as_they_are_typed():
    presets = {
        "small": Preset(
            "Quick.", options={"place": "here"}, recipe={"generator": {"betas": (0.5, 0.9)}}
        )
    }
    page = markdown(Modality("grains", "Grains", "no:where", options=Options, presets=presets))
    assert r"| `width` | `int` | `8` | Of a layer: 4 \| 8. Must be >= 1. |" in page
    assert r"| `critic` | `'plain' \| module:attribute \| None` | `None` | Which. |" in page
    assert "| `place` | `str` | `required` | Where. |" in page
    assert '| `options.place` | `"here"` |\n| `recipe.generator.betas` | `[0.5, 0.9]` |' in page
    assert "## Controls\n\nNone." in page


@pytest.mark.parametrize("id", IDS)
def test_the_command_prints_the_page(id):
    assert CliRunner().invoke(app, ["plugins", "show", id, "--markdown"]).output == markdown(
        registry.describe(id)
    )


def test_settings_are_explained_from_their_docstrings():
    roots = {"recipe": Recipe}
    lines = list(explained(roots, "recipe.penalties.r1.interval"))
    assert lines[0] == "recipe.penalties.r1.interval: int [default: 1]"
    assert "lazy regularisation" in lines[1]
    text = "\n".join(explained(roots, "recipe.estimator"))
    assert "ScoreFunction: REINFORCE (Williams 1992)" in text
    assert "  rollouts: int [default: 16]" in text
    assert "recipe.critics.wide.weight: " in next(explained(roots, "recipe.critics.wide.weight"))
    for path, hint in {
        "recipe.estimater": "Did you mean 'estimator'",
        "recipe.loss.x": "recipe.loss.x: no such setting",
        "recipes": "Did you mean 'recipe'",
        "recipe.penalties.r1.x.y": "no such setting",
    }.items():
        with pytest.raises(ConfigError, match=hint):
            list(explained(roots, path))


def test_the_command_explains_options_of_a_modality(command):
    done = command("explain", "options.size", "--modality", "image")
    assert done.returncode == 0
    assert "multiples of 4" in done.stdout
    assert "Did you mean 'size'" in command("explain", "options.siz", "--modality", "image").stderr
