"""Presets, files and overrides become one checked configuration, and every naming error has an answer."""

import sys
from pathlib import Path
from typing import Literal

import pytest
import toys
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from genkit import config
from genkit.discovery import registry
from genkit.engine.compatibility import check_networks, required_capabilities
from genkit.errors import ConfigError, PluginError, UnknownModality
from genkit.plugin import Modality, ModalityPlugin, Preset
from genkit.recipe import Pathwise, Schedule, ScoreFunction, Settings, differences

laws = settings(max_examples=60, deadline=None, derandomize=True)


class Inner(Settings):
    depth: int = 2
    width: int = 8


class Options(Settings):
    size: int = 64
    kind: Literal["plain", "fancy"] = "plain"
    inner: Inner = Inner()


class Controls(Settings):
    temperature: float = 1.0
    seconds: float = 3.0


SCORED = {
    "kind": "score_function",
    "credit": "monte_carlo",
    "rollouts": 4,
}
STAGES = ({"kind": "critics", "items": 100}, {"kind": "game"})
thing = Modality(
    id="thing",
    title="A thing",
    plugin="no_such_module:Plugin",
    options=Options,
    controls=Controls,
    data="builtin:thing",
    presets={
        "default": Preset(
            options={"size": 32, "inner": {"depth": 5}},
            recipe={
                "batch_size": 16,
                "generator": {"learning_rate": 1e-3, "betas": (0.0, 0.99)},
                "penalties": {"r1": {"weight": 0.5}},
                "estimator": SCORED,
                "stages": STAGES,
            },
            run={"items": 5000},
        ),
        "timed": Preset(run={"items": None, "minutes": 2}),
        "bare": Preset(),
    },
)


def build(*words, preset=None, modality=thing, layers=()):
    return config.build(modality, preset, settings=[*layers, config.parse_overrides(words)])


# Names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("word", "path", "hint"),
    [
        ("optoins.size=1", "optoins", "options"),
        ("options.sise=1", "options.sise", "size"),
        ("options.inner.dept=1", "options.inner.dept", "depth"),
        ("recipe.batchsize=1", "recipe.batchsize", "batch_size"),
        ("recipe.generator.lerning_rate=1", "recipe.generator.lerning_rate", "learning_rate"),
        ("recipe.critic.wieght=1", "recipe.critic.wieght", "weight"),
        ("recipe.critics.wide.stesp=1", "recipe.critics.wide.stesp", "steps"),
        ("recipe.penalties.r1.intervall=1", "recipe.penalties.r1.intervall", "interval"),
        ("recipe.estimator.rolouts=1", "recipe.estimator.rolouts", "rollouts"),
        (
            "recipe.generator.learning_rate={start: 1, end: 0, items: 5, shap: linear}",
            "recipe.generator.learning_rate.shap",
            "shape",
        ),
        (
            "recipe.generator.constraint={kind: weight_clip, bonud: 1}",
            "recipe.generator.constraint.bonud",
            "bound",
        ),
        ("recipe.stages=[{itmes: 5}]", "recipe.stages.0.itmes", "items"),
        ("recipe.stages.0.generator.stepz=5", "recipe.stages.0.generator.stepz", "steps"),
        ("run.itmes=1", "run.itmes", "items"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_at_any_depth(word, path, hint):
    with pytest.raises(ConfigError) as caught:
        build(word)
    assert f"{path}: no such setting. Did you mean {hint!r}?" in str(caught.value)


def test_every_wrong_key_and_value_is_named_at_once():
    with pytest.raises(ConfigError, match=r"recipe\.loss = 3: .*; recipe\.batchsize: "):
        build("recipe.batchsize=1", "recipe.loss=3")


def test_a_key_like_no_other_is_answered_with_those_that_there_are():
    with pytest.raises(ConfigError, match="Allowed: inner, kind, size"):
        build("options.zzz=1")


def test_unknown_modalities_and_presets_are_answered_with_the_nearest():
    with pytest.raises(UnknownModality, match="Did you mean 'image'"):
        config.build("imgae")
    with pytest.raises(ConfigError, match="Did you mean 'timed'"):
        config.build(thing, "tmied")


def test_an_error_shows_the_value_that_was_found():
    with pytest.raises(ConfigError, match=r"options\.size = 'large': .*valid integer"):
        build("options.size=large")


def test_controls_are_checked_like_options():
    assert config.controls(thing, {"temperature": 0.5}) == Controls(temperature=0.5)
    with pytest.raises(
        ConfigError, match=r"^temprature: no such setting. Did you mean 'temperature'"
    ):
        config.controls(thing, {"temprature": 1})


def test_a_modality_without_options_or_controls_takes_none():
    plain = Modality(id="plain", title="Plain", plugin="no_such_module:Plugin")
    assert config.build(plain).options is None
    assert config.controls(plain, {}) is None
    with pytest.raises(ConfigError, match=r"options\.size: plain has no options"):
        build("options.size=1", modality=plain)
    with pytest.raises(ConfigError, match="temperature: plain has no controls"):
        config.controls(plain, {"temperature": 1})


def test_a_manifest_without_presets_is_an_error_of_its_own():
    with pytest.raises((PluginError, ConfigError)):
        config.build(
            Modality(id="empty", title="Empty", plugin="no_such_module:Plugin", presets={})
        )


class Registered(ModalityPlugin):
    def networks(self):
        raise NotImplementedError


def test_a_registered_modality_may_hold_its_classes_themselves():
    mine = Modality(id="registered", title="Mine", plugin=Registered, options=Options)
    registry.register(mine)
    try:
        assert config.build("registered").modality is mine
    finally:
        registry.unregister("registered")


# Overrides -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["on", "off"])
def test_on_and_off_are_words_where_they_are_choices_and_switches_elsewhere(word):
    words = [f"options.{name}={word}" for name in ("augment", "flip")]
    options = config.build("image", settings=[config.parse_overrides(words)]).options
    assert (options.augment, options.flip) == (word, word == "on")


def test_overrides_are_paths_and_their_values_yaml():
    assert config.parse_overrides(
        ["a.b=1", "a.c=[1, 2]", "a.d.e=true", "f=text", "g=", "h={x: 1.5}", "i=x=y", "a.d.g='1'"]
    ) == {
        "a": {"b": 1, "c": [1, 2], "d": {"e": True, "g": "1"}},
        "f": "text",
        "g": None,
        "h": {"x": 1.5},
        "i": "x=y",
    }


@pytest.mark.parametrize(
    "word", ["size", "=5", "=", "", "options.size=[1", "options.size={a: b: c}", "a.b=@x"]
)
def test_what_is_no_override_is_refused_and_shown(word):
    with pytest.raises(ConfigError) as caught:
        config.parse_overrides([word])
    assert repr(word) in str(caught.value)


def test_a_value_cannot_be_a_branch_as_well():
    with pytest.raises(ConfigError, match="given a value of its own"):
        config.parse_overrides(["a.b=1", "a.b.c=2"])


@pytest.mark.parametrize(
    "word",
    [
        "run=5",
        "run=[items]",
        "run=items",
        "options=5",
        "options=[1]",
        "recipe=5",
        "recipe.stages.0=5",
        "recipe.stages=5",
    ],
)
def test_a_value_where_a_mapping_belongs_is_a_configuration_error(word):
    with pytest.raises(ConfigError):
        build(word)


@pytest.mark.parametrize("word", ["options=5", "options=[1]"])
def test_a_value_for_options_that_there_are_not_is_a_configuration_error(word):
    with pytest.raises(ConfigError):
        build(word, modality=Modality(id="plain", title="Plain", plugin="no_such_module:Plugin"))


segments = st.sampled_from(
    [
        "options",
        "recipe",
        "run",
        "size",
        "stages",
        "0",
        "1",
        "²",
        "estimator",
        "kind",
        "items",
        "x",
        "",
    ]
)
values = st.sampled_from(
    ["5", "x", "[1]", "{}", "{items: 1}", "null", "true", "1e-3", "[", "", "nan", "score_function"]
)


@settings(laws, max_examples=300)
@given(
    st.lists(
        st.builds(
            lambda path, value: f"{'.'.join(path)}={value}", st.lists(segments, max_size=4), values
        ),
        max_size=3,
    )
)
def test_whatever_is_typed_builds_or_is_a_configuration_error(words):
    try:
        built = build(*words)
    except ConfigError:
        return
    assert isinstance(built, config.RunConfig)


@pytest.mark.parametrize("text", ["1e-4", "0.0001", "1.0e-4"])
def test_learning_rates_may_be_written_as_people_do(text):
    assert build(f"recipe.critic.learning_rate={text}").recipe.critic.learning_rate == 1e-4


def test_a_number_may_become_a_schedule():
    schedule = build(
        "recipe.generator.learning_rate={start: 1e-3, end: 0, items: 100}"
    ).recipe.generator.learning_rate
    assert schedule == Schedule(start=1e-3, end=0, items=100)


# Lists -----------------------------------------------------------------------------------------------------------


def test_a_number_in_a_path_addresses_an_element_of_a_list():
    stages = build("recipe.stages.0.items=5").recipe.stages
    assert [(stage.kind, stage.items) for stage in stages] == [("critics", 5), ("game", None)]
    assert build("recipe.generator.betas.1=0.9").recipe.generator.betas == (0.0, 0.9)


def test_an_element_that_there_is_not_is_named():
    with pytest.raises(ConfigError, match="no element 2: the list has 2"):
        build("recipe.stages.2.items=5")


def test_a_digit_that_is_no_decimal_addresses_nothing():
    with pytest.raises(ConfigError):
        build("recipe.stages.²=5")


def test_a_schedule_in_another_unit_replaces_the_old_one():
    items = {"start": 1e-3, "end": 0.0, "items": 100, "delay": 50, "shape": "cosine"}
    shares = {"start": 2e-3, "end": 0.0, "share": 0.5}
    assert config.merge({"learning_rate": items}, {"learning_rate": shares}) == {
        "learning_rate": shares
    }
    assert config.merge({"learning_rate": shares}, {"learning_rate": items}) == {
        "learning_rate": items
    }
    slower = config.merge({"learning_rate": items}, {"learning_rate": {"start": 5e-4}})
    assert slower["learning_rate"] == {**items, "start": 5e-4}


def test_the_elements_of_a_default_can_be_addressed_as_well():
    """`--print-config` shows the stages and betas of every recipe, so their paths must work in every recipe."""
    assert build("recipe.stages.0.kind=critics", preset="bare").recipe.stages[0].kind == "critics"
    assert build("recipe.generator.betas.0=0.1", preset="bare").recipe.generator.betas == (
        0.1,
        0.999,
    )


def test_a_list_is_replaced_whole():
    assert len(build("recipe.stages=[{kind: critics}]").recipe.stages) == 1


# Precedence ------------------------------------------------------------------------------------------------------


def test_a_preset_gives_way_to_a_file_and_a_file_to_an_override(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text(
        "options: {size: 48}\nrecipe: {batch_size: 20, generator: {learning_rate: 0.5}}\n"
    )
    layers = [
        {key: value for key, value in config.read_file(file).items() if key in config.SECTIONS}
    ]
    built = build("recipe.batch_size=24", layers=layers)
    assert built.recipe.batch_size == 24  # preset 16, file 20
    assert built.options.size == 48  # preset 32
    assert built.recipe.generator.learning_rate == 0.5
    assert built.recipe.generator.betas == (0.0, 0.99)  # the preset's, beside what the file changed
    assert built.options.inner == Inner(depth=5, width=8)
    assert build().recipe.batch_size == 16


trees = st.recursive(
    st.integers(0, 5),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
    max_leaves=8,
)
mappings = st.dictionaries(st.sampled_from("abc"), trees, min_size=1, max_size=3)


def leaves(tree, path=()):
    if not isinstance(tree, dict):
        return {path: tree}
    return {
        leaf: value
        for key, inner in tree.items()
        for leaf, value in leaves(inner, (*path, key)).items()
    }


@laws
@given(mappings, mappings)
def test_merging_changes_what_is_named_and_nothing_else(below, above):
    merged, old, new = leaves(config.merge(below, above)), leaves(below), leaves(above)

    def replaced(path):  # by a value of its own, of a branch above it, or by a branch below it
        return any(path[: len(other)] == other or other[: len(path)] == path for other in new)

    assert merged == {**{path: value for path, value in old.items() if not replaced(path)}, **new}


@laws
@given(mappings, mappings)
def test_merging_the_same_again_changes_nothing_and_merging_leaves_its_arguments_alone(a, b):
    copies = [yaml.safe_load(yaml.safe_dump(tree)) for tree in (a, b)]
    assert config.merge(config.merge(a, b), b) == config.merge(a, b)
    assert config.merge(a, {}) == config.merge({}, a) == a
    assert [a, b] == copies


def test_building_leaves_the_presets_alone():
    before = repr(thing)
    build(
        "options.inner.depth=9",
        "recipe.stages.0.items=3",
        "recipe.estimator.kind=pathwise",
        "run.minutes=1",
    )
    assert repr(thing) == before
    assert build().options.inner.depth == 5


def test_another_kind_of_estimator_starts_afresh():
    assert isinstance(build().recipe.estimator, ScoreFunction)
    assert build("recipe.estimator.kind=pathwise").recipe.estimator == Pathwise()
    pinned = build(
        "recipe.estimator.kind=score_function", "recipe.estimator.stride=2"
    ).recipe.estimator
    assert (pinned.credit, pinned.rollouts, pinned.stride) == (
        "monte_carlo",
        4,
        2,
    )  # the same kind keeps the rest
    assert build("recipe.estimator.rollouts=9").recipe.estimator.credit == "monte_carlo"
    with pytest.raises(ConfigError, match="rollouts"):
        build("recipe.estimator={kind: pathwise, rollouts: 2}")


def test_a_key_that_happens_to_be_called_kind_is_a_setting_like_any_other():
    """Only in a union of settings does `kind` say which of them is meant."""
    built = build("options.kind=fancy")
    assert (built.options.kind, built.options.size, built.options.inner.depth) == ("fancy", 32, 5)
    stages = build("recipe.stages.0.kind=game").recipe.stages
    assert (stages[0].kind, stages[0].items) == ("game", 100)


# Length ----------------------------------------------------------------------------------------------------------


def test_items_replace_minutes_and_minutes_items():
    assert (build().run.items, build().run.minutes) == (5000, None)
    assert (build("run.minutes=1.5").run.items, build("run.minutes=1.5").run.minutes) == (None, 1.5)
    timed = build("run.items=7", preset="timed").run
    assert (timed.items, timed.minutes) == (7, None)


def test_the_length_given_last_counts():
    layers = [{"run": {"minutes": 1, "seed": 4}}, {"run": {"items": 9}}]
    run = build(layers=layers).run
    assert (run.items, run.minutes, run.seed) == (9, None, 4)
    run = build(layers=layers[::-1]).run
    assert (run.items, run.minutes, run.seed) == (None, 1, 4)
    assert layers == [{"run": {"minutes": 1, "seed": 4}}, {"run": {"items": 9}}]


@pytest.mark.parametrize(
    "words", [["run.items=5", "run.minutes=5"], ["run.items=null"], ["run={items: , minutes: }"]]
)
def test_both_lengths_or_neither_are_refused(words):
    with pytest.raises(ConfigError, match="give either items or minutes"):
        build(*words)


def test_an_empty_section_says_nothing():
    assert build(layers=[{"options": None, "recipe": {}, "run": None}]) == build()


# Files -----------------------------------------------------------------------------------------------------------


def test_a_file_may_hold_any_of_the_keys_of_a_run(tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text(
        "modality: image\npreset: dcgan\ndata: photos/\nplugin: x 1 (image)\noptions: {size: 32}\nrecipe:\nrun:\n"
    )
    assert config.read_file(file) == {
        "modality": "image",
        "preset": "dcgan",
        "data": "photos/",
        "plugin": "x 1 (image)",
        "options": {"size": 32},
        "recipe": None,
        "run": None,
    }
    file.write_text("# nothing yet\n")
    assert config.read_file(file) == {}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "not a readable configuration file"),
        (b"options: [1\n", "not a readable configuration file"),
        (b"\xff\xfe\x00", "not a readable configuration file"),
        (b"a: !!python/object/apply:os.getcwd []\n", "not a readable configuration file"),
        (b"- options\n- recipe\n", "holds a list, not a mapping"),
        (b"just words\n", "holds a str, not a mapping"),
        (b"recpie: {}\n", "recpie: no such setting. Did you mean 'recipe'?"),
        (b"1: {}\n", "1: no such setting"),
    ],
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path, content, says):
    file = tmp_path / "a.yaml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        config.read_file(file)
    assert str(caught.value).startswith(str(file))
    assert says in str(caught.value)


def test_a_folder_is_no_configuration_file(tmp_path):
    with pytest.raises(ConfigError, match="not a readable configuration file"):
        config.read_file(tmp_path)


# Losses, penalties, rewards --------------------------------------------------------------------------------------


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    (tmp_path / "my_own_losses.py").write_text(
        "import torch\nfrom genkit import adversarial\n"
        "class Box:\n    loss = adversarial.LOSSES['hinge']\n    penalty = adversarial.PENALTIES['r1']\n"
        "    reward = staticmethod(torch.tanh)\n"
        "loss, penalty, reward = Box.loss, Box.penalty, Box.reward\n"
    )
    (tmp_path / "my_broken_losses.py").write_text("raise RuntimeError('half-written')\n")
    (tmp_path / "my_exiting_losses.py").write_text("import sys\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    for name in ("my_own_losses", "my_broken_losses", "my_exiting_losses"):
        sys.modules.pop(name, None)


PLACES = {
    "recipe.loss": "recipe.loss={}",
    "recipe.penalties": "recipe.penalties={{'{}': {{weight: 1}}}}",
    "recipe.estimator.reward": "recipe.estimator.reward={}",
}
places = pytest.mark.parametrize(("path", "word"), PLACES.items(), ids=PLACES)


@places
@pytest.mark.usefixtures("own_module")
def test_ones_own_loss_penalty_or_reward_is_named_by_module_and_attribute(path, word):
    kind = {"loss": "loss", "penalties": "penalty", "reward": "reward"}[path.rpartition(".")[2]]
    for name in (f"my_own_losses:{kind}", f"my_own_losses:Box.{kind}"):
        assert name in str(build(word.format(name)).recipe)


@places
@pytest.mark.parametrize(
    "name",
    [
        "no_such_module:x",
        "my_own_losses:no_such_name",
        "my_broken_losses:x",
        "my_exiting_losses:x",
        ":loss",
    ],
)
@pytest.mark.usefixtures("own_module")
def test_what_cannot_be_imported_is_named_with_the_reason(path, word, name):
    with pytest.raises(ConfigError) as caught:
        build(word.format(name))
    assert str(caught.value).startswith(f"{path} = {name!r}: cannot be imported (")


@pytest.mark.parametrize(
    ("path", "name", "hint"),
    [
        ("recipe.loss", "hing", "hinge"),
        ("recipe.penalties", "wgan-gp", "wgan_gp"),
        ("recipe.estimator.reward", "probabilty", "probability"),
    ],
)
def test_a_misspelt_loss_penalty_or_reward_is_answered_with_the_nearest(path, name, hint):
    with pytest.raises(ConfigError) as caught:
        build(PLACES[path].format(name))
    assert str(caught.value).startswith(path)
    assert f"no such name {name!r}. Did you mean {hint!r}?" in str(caught.value)


def test_a_penalty_that_was_taken_away_stays_away_when_the_configuration_is_read_again():
    """As when a run is resumed, or its config.yaml is used for another one."""
    assert build().recipe.penalties
    changed = build("recipe.penalties.r1=null")
    assert not changed.recipe.penalties
    saved = yaml.safe_load(yaml.safe_dump(changed.plain()))
    again = build(layers=[{key: saved[key] for key in ("options", "recipe", "run")}])
    assert again.recipe == changed.recipe
    assert again.plain() == changed.plain()


# Capabilities ----------------------------------------------------------------------------------------------------

NEEDS = {
    "recipe.stages=[{kind: pretrain, items: 5}, {kind: game}]": {"pretrain_loss"},
    "recipe.estimator.kind=score_function": {"log_prob"},
    "recipe.estimator={kind: score_function, credit: monte_carlo}": {"log_prob", "complete"},
    "recipe.estimator.kind=straight_through": {"relaxed"},
    "recipe.estimator={kind: gumbel_softmax, hard: true}": {"relaxed"},
    "recipe.terms.spread=1": {"terms"},
    "recipe.loss=hinge": set(),
}


@pytest.mark.parametrize(("word", "needs"), NEEDS.items(), ids=NEEDS)
def test_a_game_needs_what_its_recipe_asks_for(word, needs):
    """Classes that have all of it make a game, and each method that is taken from them is named."""
    configuration = build(word, modality=toys.ring)
    assert set(required_capabilities(configuration.recipe)) == needs

    def check(capabilities):
        class Plugin(toys.Mixture):
            if "terms" in capabilities:
                terms = toys.Duet.terms

        plugin = Plugin(configuration.options)
        networks = plugin.networks()
        for name in capabilities - {"terms"}:
            setattr(networks.generator, name, lambda *_: None)
        return check_networks(configuration, plugin, networks)

    assert check(needs) == needs
    for lacking in needs:
        with pytest.raises(ConfigError) as caught:
            check(needs - {lacking})
        assert str(caught.value).startswith("recipe." if "stages" not in word else "a pretrain ")
        assert f"needs the capability {lacking!r}, which local 0 (ring) lacks" in str(caught.value)


# As plain data ---------------------------------------------------------------------------------------------------

KNOWN = {
    "image dcgan": ("image", "dcgan", ["options.size=[32, 48]", "options.conditional=true"]),
    "image small": (
        "image",
        None,
        ["recipe.penalties={r1: {weight: 1}}", "run.minutes=3", "recipe.ema_rampup=null"],
    ),
    "ring": (
        toys.ring,
        None,
        ["recipe.generator.learning_rate={start: 1e-3, end: 0, items: 5, shape: cosine}"],
    ),
    "language": (toys.language, "rollouts", ["recipe.stages=[{kind: pretrain, items: 9}, {}]"]),
    "duet": (toys.duet, None, ["recipe.critics.narrow.constraint={kind: singular_values}"]),
    "thing": (thing, None, []),
}


@pytest.mark.parametrize(("modality", "preset", "words"), KNOWN.values(), ids=KNOWN)
def test_a_configuration_survives_being_written_as_yaml(modality, preset, words):
    built = build(*words, modality=modality, preset=preset)
    plain = yaml.safe_load(yaml.safe_dump(built.plain(), sort_keys=False))
    assert plain == built.plain()
    sections = {key: plain[key] for key in config.SECTIONS}
    assert config.build(modality, plain["preset"], plain["data"], [sections]) == built


def test_plain_data_say_what_was_trained_on():
    assert build().plain()["data"] == "builtin:thing"
    assert config.build(thing, data="photos/").plain()["data"] == "photos/"
    assert config.build(thing, data=[1, 2]).plain()["data"] == "<list>"
    plain = build().plain()
    assert (plain["modality"], plain["preset"], plain["plugin"]) == (
        "thing",
        "default",
        "local 0 (thing)",
    )
    assert (
        config.build("image").plain()["plugin"]
        == f"genkit-gan-image {registry.provider('image').version} (image)"
    )


def test_a_path_is_recorded_as_the_path_that_it_is():
    assert config.build(thing, data=Path("photos")).plain()["data"] == "photos"


def test_differences_are_the_paths_that_changed():
    old, new = (
        build().plain(),
        build("recipe.stages.0.items=5", "options.size=8", "recipe.penalties.r2.weight=1").plain(),
    )
    assert differences(old, new) == {
        "options.size": (32, 8),
        "recipe.penalties.r2.weight": (None, 1.0),
        "recipe.penalties.r2.interval": (None, 1),
        "recipe.stages.0.items": (100, 5),
    }


@laws
@given(mappings, mappings)
def test_differences_are_empty_only_between_equals_and_have_two_sides(a, b):
    there, back = differences(a, b), differences(b, a)
    assert there == {path: (old, new) for path, (new, old) in back.items()}
    assert (not there) == (a == b)
    assert {path for path, (old, new) in there.items() if old is not None} <= {
        ".".join(path) for path in leaves(a)
    }


# Cost ------------------------------------------------------------------------------------------------------------


def test_configuration_never_imports_torch(python):
    code = (
        "import sys\n"
        "from genkit import config\nfrom genkit.discovery import registry\n"
        "for preset in registry.describe('image').presets:\n"
        "    built = config.build('image', preset, settings=[config.parse_overrides(['options.size=32'])])\n"
        "    assert built.plain()['options']['size'] == 32\n"
        "assert len(registry.describe('image').presets) >= 2\n"
        "for word in ('options.size=33', 'recipe.loss=hing', 'run.items=-1'):\n"
        "    try: config.build('image', settings=[config.parse_overrides([word])])\n"
        "    except config.ConfigError: pass\n"
        "    else: raise AssertionError(word)\n"
        "config.controls(built.modality, {})\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    python(code, "-W", "error")


# Values that no one would write ----------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", [[[]], 5, {"a": 1}])
def test_a_preset_that_is_no_name_is_refused(preset):
    with pytest.raises(ConfigError, match="ring has no preset"):
        config.build(toys.ring, preset)


@pytest.mark.parametrize("betas", [[], [{}]])
def test_a_list_that_is_too_short_is_refused(betas):
    with pytest.raises(ConfigError, match=r"^recipe\.generator\.betas"):
        config.build(toys.ring, settings=[{"recipe": {"generator": {"betas": betas}}}])


def test_a_number_that_no_float_holds_is_refused():
    for section, name in (("run", "items"), ("recipe", "batch_size"), ("options", "width")):
        with pytest.raises(
            ConfigError, match=rf"{section}\.{name}: must be a number below 2e\+308"
        ):
            config.build(toys.ring, settings=[{section: {name: 10**5000}}])
