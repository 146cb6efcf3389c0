"""Does a modality keep the contract? One class to inherit, one function to call, one command: `genkit plugins check`.

    class TestMine(ModalityConformance):
        modality = "mine"

`CHECKS` is the list of what is asked. A check is skipped only where the manifest and the preset do not declare what it
needs; what is expected to fail needs a reason, and fails if it passes; too few checks are a failure. Knows no modality,
and needs no test runner but in the class's own methods.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from genkit.errors import ConfigError, did_you_mean, first_line
from genkit.plugin import Modality
from genkit.testing import checks, optional
from genkit.testing.findings import expect
from genkit.testing.subject import NAME, Subject, quiet_machine


class Check(NamedTuple):
    """One check.

    Args:
        ask: of a subject; raises where it finds a fault.
        need: what must be there for it to apply: an optional capability, options, controls; empty: it always does.
    """

    ask: Callable[[Subject], None]
    need: str = ""

    @property
    def name(self) -> str:
        """What the user calls it."""
        return self.ask.__name__

    @property
    def sentence(self) -> str:
        """What it asks."""
        return " ".join((self.ask.__doc__ or "").split())


CHECKS = (
    Check(checks.manifest_is_plain_data),
    Check(checks.import_takes_no_torch, NAME),
    Check(checks.names_resolve),
    Check(checks.presets_are_configurations),
    Check(checks.capabilities_suffice),
    Check(checks.options_round_trip, "options"),
    Check(checks.controls_round_trip, "controls"),
    Check(checks.data_are_samples),
    Check(checks.facts_round_trip),
    Check(checks.networks_follow_from_facts),
    Check(checks.fakes_are_like_reals),
    Check(checks.critics_judge_each_row),
    Check(checks.training_is_finite_and_moves_all),
    Check(checks.gradients_stay_at_home),
    Check(checks.resume_equals_uninterrupted),
    Check(checks.looking_does_not_touch),
    Check(checks.same_identity_same_sample),
    Check(checks.rows_stand_alone),
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
    Check(optional.complete_keeps_prefixes, "complete"),
    Check(optional.relaxed_agrees, "relaxed"),
    Check(optional.unroll_is_one_sample, "unroll"),
    Check(optional.writer_writes_what_encode_writes, "writer"),
)
"""In the order in which they are asked."""


MINIMUM = sum(not check.need for check in CHECKS)
"""So many checks apply to every modality."""


@dataclass(frozen=True)
class Result:
    """What came of one check.

    Args:
        name: of the check.
        status: passed, failed, skipped, or expected (it failed, as was expected).
        reason: of everything but a pass.
        seconds: that it took.
        error: what was raised.
    """

    name: str
    status: str
    reason: str = ""
    seconds: float = 0.0
    error: BaseException | None = None


@dataclass(frozen=True)
class Report:
    """What came of all checks.

    Args:
        modality, preset: what was checked.
        results: in the order of `CHECKS`.
        minimum: so many checks must apply.
    """

    modality: str
    preset: str
    results: tuple[Result, ...]
    minimum: int

    def count(self, *statuses: str) -> int:
        """How many checks ended so."""
        return sum(result.status in statuses for result in self.results)

    @property
    def applied(self) -> int:
        """How many checks passed or failed."""
        return self.count("passed", "failed")

    @property
    def ok(self) -> bool:
        """Whether no check failed, and enough applied."""
        return not self.count("failed") and self.applied >= self.minimum

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        results = [
            {key: value for key, value in asdict(one).items() if key != "error"}
            for one in self.results
        ]
        told = {
            "modality": self.modality,
            "preset": self.preset,
            "ok": self.ok,
            "applied": self.applied,
        }
        return {"schema": 1, **told, "minimum": self.minimum, "results": results}

    def __str__(self) -> str:
        width = max((len(result.name) for result in self.results), default=0)
        lines = [
            f"{one.name:<{width}}  {one.status:<8}  {one.seconds:5.1f} s  {one.reason}".rstrip()
            for one in self.results
        ]
        skipped = dict.fromkeys(
            result.reason for result in self.results if result.status == "skipped"
        )
        last = f"applied {self.applied}, failed {self.count('failed')}, skipped {self.count('skipped')}"
        last += f" ({', '.join(skipped)})" if skipped else ""
        last += f", expected to fail {expected}" if (expected := self.count("expected")) else ""
        if self.applied < self.minimum:
            last += f"; too few: at least {self.minimum} checks must apply"
        return "\n".join([*lines, last])


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
    """Ask a modality everything that applies to it.

    Args:
        modality: an id, `module:attribute`, or a manifest.
        preset: None: the first.
        data: as for `genkit.train`; None: the modality's default. A few items are enough.
        options, recipe: over those of the preset, so that its networks are small: the games are of a few rounds.
        expected_failures: check -> why it cannot pass.
        minimum: so many checks must apply; None: those that apply to every modality, or `only` these.
        only: names of checks; empty: all.

    Raises:
        UserError: if there is no such modality, preset, check, data or setting.
    """
    expected = dict(expected_failures or {})
    known_names([*expected, *only])
    chosen = [check for check in CHECKS if not only or check.name in only]
    with tempfile.TemporaryDirectory(prefix="genkit-check-") as folder:
        subject = Subject(modality, Path(folder).resolve(), preset, data, options, recipe)
        results = tuple(ask(check, subject, expected.get(check.name)) for check in chosen)
    floor = (0 if only else MINIMUM - len(expected)) if minimum is None else minimum
    return Report(subject.modality.id, subject.preset, results, floor)


def ask(check: Check, subject: Subject, expected: str | None = None) -> Result:
    """Ask one thing.

    Args:
        expected: why it cannot pass, where that is so.
    """
    began = time.perf_counter()

    def ended(status: str, reason: str = "", error: BaseException | None = None) -> Result:
        return Result(check.name, status, reason, round(time.perf_counter() - began, 3), error)

    try:
        if check.need and check.need not in subject.parts:
            return ended("skipped", f"no {check.need}")
        with quiet_machine(check.name):
            check.ask(subject)
    except (
        Exception,
        SystemExit,
    ) as error:  # whatever a stranger's plugin raises is what is wrong with it
        if expected is not None:
            return ended("expected", expected, error)
        return ended(
            "failed",
            str(error) if isinstance(error, AssertionError) and str(error) else first_line(error),
            error,
        )
    if expected is not None:
        return ended(
            "failed",
            f"it passes, but was expected to fail ({expected}): take it out of expected_failures",
        )
    return ended("passed")


def known_names(names: Collection[str]) -> None:
    """Nothing, if all are names of checks.

    Raises:
        ConfigError: names the nearest right one.
    """
    known = [check.name for check in CHECKS]
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no check {name!r}.{did_you_mean(name, known)}")


class ModalityConformance:
    """The checks as tests, for pytest: inherit, say which modality, and each check is a test of its own."""

    modality: ClassVar[str | Modality]
    """An id, `module:attribute`, or a manifest."""
    preset: ClassVar[str | None] = None
    """None: the first."""
    data: ClassVar[Any] = None
    """As for `genkit.train`; None: the modality's default."""
    options: ClassVar[Mapping[str, Any]] = {}
    """Over those of the preset, so that its networks are small."""
    recipe: ClassVar[Mapping[str, Any]] = {}
    """The same, of the game."""
    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Check -> why it cannot pass. It fails if it passes."""
    minimum: ClassVar[int] = MINIMUM
    """So many checks must apply, those that are expected to fail not among them."""

    _open: ClassVar[ExitStack]
    _subject: ClassVar[Subject | None]

    def source(self, tmp_path: Path) -> Any:
        """The data; override it to make them on the fly, in the folder that is given."""
        return self.data

    @classmethod
    def setup_class(cls) -> None:
        """For pytest: all that is written goes to a folder of the class's own."""
        cls._open, cls._subject = ExitStack(), None

    @classmethod
    def teardown_class(cls) -> None:
        """For pytest: the folder goes with the class."""
        cls._subject = None
        cls._open.close()

    def subject(self) -> Subject:
        """What is asked; one for all tests of the class."""
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
        """As many checks apply as are wanted, and those that are expected to fail exist."""
        known_names(self.expected_failures)
        parts = self.subject().parts
        apply = [check.name for check in CHECKS if not check.need or check.need in parts]
        count = len(set(apply) - set(self.expected_failures))
        expect(
            count >= self.minimum,
            f"only {count} checks apply; at least {self.minimum} are wanted (minimum)",
        )


def _as_test(check: Check) -> Callable[[ModalityConformance], None]:
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
