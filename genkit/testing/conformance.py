"""Whether a modality fulfils the plugin contract: a class to inherit, a function to call, and `genkit plugins check`.

    class TestMine(ModalityConformance):
        modality = "mine"

`CHECKS` lists all checks. A check is skipped only if the modality lacks the capability, options, controls, importable
name or models that it tests. A check that is expected to fail needs a reason, and passing it is a failure; so are too
few checks. Knows no modality, and imports pytest only in the class's tests.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from genkit.errors import ConfigError, did_you_mean, first_line
from genkit.plugin import Modality
from genkit.testing import answers, checks, comparisons, optional
from genkit.testing.findings import expect
from genkit.testing.subject import MODELS, NAME, Subject, quiet_machine


class Check(NamedTuple):
    """One check.

    Args:
        ask: takes a subject; raises if it finds a fault.
        need: what the subject must have for the check to apply: an optional capability, options, controls, an
            importable name or models that ship; empty: the check always applies.
    """

    ask: Callable[[Subject], None]
    need: str = ""

    @property
    def name(self) -> str:
        """The name of the check, as users write it."""
        return self.ask.__name__

    @property
    def sentence(self) -> str:
        """What the check requires, in one sentence."""
        return " ".join((self.ask.__doc__ or "").split())


CHECKS = (
    Check(checks.manifest_is_plain_data),
    Check(checks.import_takes_no_torch, NAME),
    Check(checks.names_resolve),
    Check(checks.presets_are_configurations),
    Check(checks.capabilities_suffice),
    Check(checks.options_round_trip, "options"),
    Check(checks.controls_round_trip, "controls"),
    Check(answers.controls_have_effect, "controls"),
    Check(checks.data_are_samples),
    Check(checks.facts_round_trip),
    Check(checks.networks_follow_from_facts),
    Check(checks.fakes_are_like_reals),
    Check(checks.critics_judge_each_row),
    Check(checks.training_is_finite_and_moves_all),
    Check(checks.gradients_stay_separate),
    Check(checks.resume_equals_uninterrupted),
    Check(checks.drawing_changes_nothing),
    Check(checks.same_identity_same_sample),
    Check(checks.rows_stand_alone),
    Check(answers.conditions_matter),
    Check(checks.saved_is_loaded),
    Check(checks.files_are_what_they_say),
    Check(checks.fresh_process_rebuilds),
    Check(checks.files_stay_in_the_run),
    Check(optional.condition_answers, "condition"),
    Check(optional.initialise_is_repeatable, "initialise"),
    Check(optional.terms_are_scalars, "terms"),
    Check(optional.augment_keeps_shape, "augment"),
    Check(optional.preview_writes_each_ending, "preview"),
    Check(optional.pretrain_loss_learns, "pretrain_loss"),
    Check(optional.log_prob_is_one, "log_prob"),
    Check(optional.first_steps_follow_log_prob, "log_prob"),
    Check(answers.distributions_are_those_of_log_prob, "distributions"),
    Check(optional.complete_keeps_prefixes, "complete"),
    Check(optional.relaxed_agrees, "relaxed"),
    Check(optional.unroll_is_one_sample, "unroll"),
    Check(optional.writer_writes_what_encode_writes, "writer"),
    Check(comparisons.references_are_like_samples, "references"),
    Check(comparisons.corruptions_are_faults, "corruptions"),
    Check(comparisons.feature_networks_are_functions, "feature_networks"),
    Check(comparisons.measures_are_numbers, "measures"),
    Check(optional.shipped_models_open, MODELS),
    Check(optional.shipped_models_draw, MODELS),
    Check(optional.steps_are_one_sample, "stepwise"),
    Check(optional.export_facts_are_plain, "export_facts"),
    Check(answers.infer_finds_noise, "infer"),
)
"""All checks, in the order in which they run."""

MINIMUM = sum(not check.need for check in CHECKS)
"""The number of checks that apply to every modality."""


@dataclass(frozen=True)
class Result:
    """The result of one check.

    Args:
        name: of the check.
        status: passed, failed, skipped, or expected (an expected failure).
        reason: for every status but passed.
        seconds: duration of the check.
        error: the exception that the check raised, if any.
    """

    name: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    error: BaseException | None = None


@dataclass(frozen=True)
class Report:
    """The results of all checks.

    Args:
        modality, preset: that were checked.
        results: in the order of `CHECKS`.
        minimum: the number of checks that must apply.
    """

    modality: str
    preset: str
    results: tuple[Result, ...]
    minimum: int

    def count(self, *statuses: str) -> int:
        """How many checks have one of these statuses."""
        return sum(result.status in statuses for result in self.results)

    @property
    def applied(self) -> int:
        """How many checks passed or failed: neither skipped nor expected to fail."""
        return self.count("passed", "failed")

    @property
    def ok(self) -> bool:
        """Whether no check failed, and at least `minimum` checks applied."""
        return not self.count("failed") and self.applied >= self.minimum

    def to_json(self) -> dict[str, Any]:
        """The report as JSON data."""
        results = [
            {key: value for key, value in asdict(one).items() if key != "error"}
            for one in self.results
        ]
        header = {
            "modality": self.modality,
            "preset": self.preset,
            "ok": self.ok,
            "applied": self.applied,
        }
        return {"schema": 1, **header, "minimum": self.minimum, "results": results}

    def __str__(self) -> str:
        width = max((len(result.name) for result in self.results), default=0)
        lines = [
            f"{one.name:<{width}}  {one.status:<8}  {one.seconds:5.1f} s  {one.reason}".rstrip()
            for one in self.results
        ]
        skipped = dict.fromkeys(
            result.reason for result in self.results if result.status == "skipped"
        )
        summary = f"applied {self.applied}, failed {self.count('failed')}, skipped {self.count('skipped')}"
        if skipped:
            summary += f" ({', '.join(skipped)})"
        if self.count("expected"):
            summary += f", expected to fail {self.count('expected')}"
        if self.applied < self.minimum and not self.count("failed"):
            summary += f"; too few: at least {self.minimum} checks must apply"
        return "\n".join([*lines, summary])


def check_modality(
    modality: str | Modality,
    preset: str | None = None,
    data: Any = None,
    *,
    options: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    expected_failures: Mapping[str, str] | None = None,
    minimum: int | None = None,
    only: Collection[str] = (),
) -> Report:
    """Run all checks that apply to a modality.

    Args:
        modality: an id, `module:attribute`, or a manifest.
        preset: the name of a preset; None: the modality's first.
        data: as for `genkit.train`; None: the modality's default. A few items are enough.
        options, recipe: settings that override the preset's; choose small networks, the games have only a few rounds.
        expected_failures: name of a check -> why it cannot pass.
        minimum: the number of checks that must apply; None: those of every modality without the expected failures, or
            0 with `only`.
        only: names of the checks to run; empty: all.

    Raises:
        UserError: if there is no such modality, preset, check, data or setting.
    """
    reasons = dict(expected_failures or {})
    known_names([*reasons, *only])
    selection = [check for check in CHECKS if not only or check.name in only]
    with tempfile.TemporaryDirectory(prefix="genkit-check-") as folder:
        subject = Subject(modality, Path(folder).resolve(), preset, data, options, recipe)
        results = [ask(check, subject, reasons.get(check.name)) for check in selection]
    floor = (0 if only else MINIMUM - len(reasons)) if minimum is None else minimum
    return Report(subject.modality.id, subject.preset, tuple(without_repeats(results)), floor)


def without_repeats(results: Iterable[Result]) -> Iterator[Result]:
    """Results in which a failure with the same reason as an earlier one is skipped: one fault is reported once."""
    first_of: dict[str, str] = {}
    for result in results:
        first = (
            first_of.setdefault(result.reason, result.name)
            if result.status == "failed"
            else result.name
        )
        yield (
            result
            if first == result.name
            else replace(result, status="skipped", reason=f"for the same reason as {first}")
        )


def ask(check: Check, subject: Subject, expected_reason: str | None = None) -> Result:
    """Run one check.

    Args:
        check: to run.
        subject: the modality under test.
        expected_reason: why the check cannot pass; None: it is expected to pass.
    """
    start = time.perf_counter()

    def result(status: str, reason: str = "", error: BaseException | None = None) -> Result:
        return Result(check.name, status, reason, round(time.perf_counter() - start, 3), error)

    try:
        if check.need and check.need not in subject.parts:
            return result("skipped", f"no {check.need}")
        with quiet_machine(check.name):
            check.ask(subject)
    except (Exception, SystemExit) as error:  # anything that a plugin raises is a failure
        if expected_reason is not None:
            return result("expected", expected_reason, error)
        is_message = isinstance(error, AssertionError) and str(error)
        return result("failed", str(error) if is_message else first_line(error), error)
    if expected_reason is not None:
        reason = f"it passes, but was expected to fail ({expected_reason}): take it out of expected_failures"
        return result("failed", reason)
    return result("passed")


def known_names(names: Collection[str]) -> None:
    """Check that all of these are names of checks.

    Raises:
        ConfigError: if one is not; it suggests the nearest name.
    """
    check_names = [check.name for check in CHECKS]
    for name in names:
        if name not in check_names:
            raise ConfigError(f"there is no check {name!r}.{did_you_mean(name, check_names)}")


class ModalityConformance:
    """The checks as pytest tests: a subclass that names its modality has one test for each check."""

    modality: ClassVar[str | Modality]
    """An id, `module:attribute`, or a manifest."""
    preset: ClassVar[str | None] = None
    """The name of a preset; None: the modality's first."""
    data: ClassVar[Any] = None
    """As for `genkit.train`; None: the modality's default."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Options that override the preset's, to make its networks small."""
    recipe: ClassVar[Mapping[str, Any]] = {}
    """Recipe settings that override the preset's."""
    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Name of a check -> why it cannot pass. If the check passes nevertheless, its test fails."""
    minimum: ClassVar[int] = MINIMUM
    """The number of checks that must apply, not counting expected failures."""

    _open: ClassVar[ExitStack]
    _subject: ClassVar[Subject | None]

    def source(self, tmp_path: Path) -> Any:
        """The data; override it to create them, in the folder `tmp_path`."""
        return self.data

    @classmethod
    def setup_class(cls) -> None:
        """For pytest: prepare a temporary folder for everything that the class's tests write."""
        cls._open, cls._subject = ExitStack(), None

    @classmethod
    def teardown_class(cls) -> None:
        """For pytest: delete the temporary folder."""
        cls._subject = None
        cls._open.close()

    def subject(self) -> Subject:
        """The modality under test; one subject is shared by all tests of the class."""
        cls = type(self)
        if cls._subject is None:
            root = Path(
                cls._open.enter_context(tempfile.TemporaryDirectory(prefix="genkit-check-"))
            ).resolve()
            for name in ("data", "runs"):
                (root / name).mkdir()
            data = self.source(root / "data")
            cls._subject = Subject(
                self.modality, root / "runs", self.preset, data, self.options, self.recipe
            )
        return cls._subject

    def test_enough_checks_apply(self) -> None:
        """At least `minimum` checks apply, and all expected failures are names of checks."""
        known_names(self.expected_failures)
        parts = self.subject().parts
        apply = [check.name for check in CHECKS if not check.need or check.need in parts]
        count = len(set(apply) - set(self.expected_failures))
        expect(
            count >= self.minimum,
            f"only {count} checks apply; at least {self.minimum} must (minimum)",
        )


def _as_test(check: Check) -> Callable[[ModalityConformance], None]:
    """A check as a test method for pytest."""

    def test(self: ModalityConformance) -> None:
        import pytest

        result = ask(check, self.subject(), self.expected_failures.get(check.name))
        if result.status == "skipped":
            pytest.skip(result.reason)
        if result.status == "expected":
            pytest.xfail(result.reason)
        if result.status == "failed":
            raise AssertionError(f"{check.name}: {result.reason}") from result.error

    test.__name__, test.__doc__ = f"test_{check.name}", check.sentence
    return test


for _check in CHECKS:
    setattr(ModalityConformance, f"test_{_check.name}", _as_test(_check))
