"""What is public stays as it was promised: names, signatures, settings and commands, against tests/public_api.txt.

    python tests/test_stability.py --write      renew it, after a change that was meant

docs/stability.md says what such a change costs: see it, and say the change in CHANGELOG.md.
"""

import difflib
import inspect
import re
import sys
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import ForwardRef

from pydantic import BaseModel
from typer.main import get_command

from genkit.discovery import reference

FILE = Path(__file__).parent / "public_api.txt"
PUBLIC = {
    "genkit": None,  # None: all that is defined there and has no underscore
    "genkit.plugin": None,
    "genkit.recipe": None,
    "genkit.config": ("RunSettings",),
    "genkit.user_objects": ("Named", "admit", "network"),
    "genkit.adversarial": None,
    "genkit.errors": None,
    "genkit.kit.blocks": None,
    "genkit.kit.compat": None,
    "genkit.kit.distances": None,
    "genkit.kit.terms": None,
    "genkit.kit.encoders": None,
    "genkit.kit.features": None,
    "genkit.kit.files": None,
    "genkit.kit.items": None,
    "genkit.kit.program": None,
    "genkit.kit.sources": None,
    "genkit.kit.streams": None,
    "genkit.kit.tables": None,
    "genkit.testing": None,
    "genkit.serving": (
        "create_app",
        "ServeSettings",
        "RemoteSamples",
        "RequestRefused",
        "ServerError",
    ),
    "genkit.engine.run_folder": ("SCHEMA",),
    "genkit.evaluation.results": ("Row",),
    "genkit.evaluation.scores": ("Figure",),
    "genkit.sampling.model_folder": ("SCHEMA",),
}


class Spelt:
    """Stands for an annotation in a signature, as it is written in the source."""

    def __init__(self, annotation):
        if isinstance(annotation, ForwardRef):
            annotation = annotation.__forward_arg__
        self.text = (
            annotation if isinstance(annotation, str) else inspect.formatannotation(annotation)
        )

    def __repr__(self):
        return self.text


def public_api():
    """Everything public, one line each, sorted within its module or class."""
    lines = []
    for name, chosen in PUBLIC.items():
        module = import_module(name)
        names = (
            chosen
            or getattr(module, "__all__", None)
            or [key for key in vars(module) if is_of(module, key)]
        )
        lines += [
            f"[{name}]",
            *(line for key in sorted(names) for line in told(key, getattr(module, key))),
            "",
        ]
    from genkit.cli import app

    return [*lines, "[commands]", *command_lines("genkit", get_command(app))]


def is_of(module, key):
    """Whether a module defines a public name, and does not only import it."""
    value = inspect.unwrap(vars(module)[key])
    if key.startswith("_") or isinstance(value, ModuleType):
        return False
    home = getattr(value, "__module__", None)
    defined = re.search(
        rf"^{key}\b.*[:=]", inspect.getsource(module), re.M
    )  # constants and aliases have no home
    return (
        home.startswith(module.__name__)
        if isinstance(value, type | FunctionType)
        else bool(defined)
    )


def told(name, value):
    """The lines of one public name."""
    if inspect.isfunction(inspect.unwrap(value)):
        return [f"{name}{signature(value)}"]
    if not isinstance(value, type):
        fixed = name not in ("__version__", "THREADS")  # the latter depends on the machine
        return [f"{name} = {constant(value)}" if fixed else name]
    bases = ", ".join(base.__name__ for base in value.__bases__ if base is not object)
    lines = [f"class {name}({bases})" if bases else f"class {name}"]
    if issubclass(value, BaseModel):
        fields = value.model_fields.items()
        lines += [
            f"  {key}: {reference.spell_type(field.annotation, field.metadata)} = {reference.default(field)} "
            f"{reference.bounds(field)}".rstrip()
            for key, field in sorted(fields)
        ]
    elif {"__init__", "__new__", "__dataclass_fields__"} & vars(value).keys():
        lines.append(f"  {signature(value)}")
    for key, member in sorted(vars(value).items()):
        if isinstance(member, classmethod | staticmethod):
            member = member.__func__
        if not key.startswith("_") and inspect.isfunction(member):
            lines.append(f"  {key}{signature(member)}")
        elif not key.startswith("_") and isinstance(member, property):
            lines.append(f"  {key}: property")
    return lines


def signature(thing):
    """As it is written, but for line breaks."""
    found = inspect.signature(thing)
    spelt = [
        one if one.annotation is one.empty else one.replace(annotation=Spelt(one.annotation))
        for one in found.parameters.values()
    ]
    arrow = (
        ""
        if found.return_annotation in (found.empty, None)
        else f" -> {Spelt(found.return_annotation)}"
    )
    return f"{inspect.Signature(spelt)}{arrow}"


def constant(value):
    """A value that reads the same in every process."""
    if isinstance(value, frozenset):
        return f"frozenset({sorted(value)})"
    if isinstance(value, dict):
        return f"{{{', '.join(sorted(map(str, value)))}}}"
    return repr(value) if isinstance(value, str | int | float | tuple) else "..."


def command_lines(words, command):
    """A command with its arguments and options, and those below it."""
    said, inner = [], getattr(command, "commands", {})
    for one in command.params:  # what typer calls their types is its own business, and changes
        is_argument, many = (
            one.param_type_name == "argument",
            one.nargs == -1 or getattr(one, "multiple", False),
        )
        name = one.name.upper() if is_argument else "/".join([*one.opts, *one.secondary_opts])
        value = "" if is_argument or getattr(one, "is_flag", False) else f" {one.name.upper()}"
        whole = f"{name}{value}{'...' if many else ''}"
        said.append(whole if one.required else f"[{whole}]")
    below = [
        line for name in sorted(inner) for line in command_lines(f"{words} {name}", inner[name])
    ]
    return [words, *(f"  {one}" for one in said), *below]


def test_the_public_api_is_what_was_promised():
    promised, found = FILE.read_text().splitlines(), public_api()
    changes = "\n".join(
        difflib.unified_diff(promised, found, "promised", "found", lineterm="", n=1)
    )
    assert promised == found, (
        f"the public API has changed:\n{changes}\n\nA line with - was promised: docs/stability.md says what taking it "
        "away costs. If it is meant: python tests/test_stability.py --write, and a line in CHANGELOG.md"
    )


def test_every_name_of_the_reference_is_promised():
    listed = set()
    for page in (Path(__file__).parent.parent / "docs" / "reference").glob("*.md"):
        for path in re.findall(
            r"(?:settings|autoclass|autofunction|autodata|autoexception):: (\S+)", page.read_text()
        ):
            listed.add(path.rpartition(".")[::2])
    promised = set(re.findall(r"^(?:class )?(\w+)", FILE.read_text(), re.M))
    beside = {
        "Reranker",
        "LatentPoint",
        "save",
        "Found",
        "Export",
        "Parity",
    }  # given by what is public, under another name or from another room
    assert {name for _, name in listed} - promised <= beside


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        FILE.write_text("\n".join(public_api()) + "\n")
    else:
        sys.exit(__doc__)
