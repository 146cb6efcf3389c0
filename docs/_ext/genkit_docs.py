"""Sphinx extension: pages that are generated from the code, and checks that the pages are complete.

    .. settings:: genkit.recipe.Recipe      the fields of a settings class: types, bounds, defaults, meanings
    .. commands::                           `--help` of every command
    % modality ID                           alone on a page: the page of a modality, from its manifest and its settings
    .. template:: src/package/plugin.py     a file as `genkit plugins new waves` writes it, or a part of it
    docstrings                              genkit's plain style, escaped for reStructuredText
    architecture                            a module of genkit/ that docs/architecture.md does not name is a warning
    modalities                              a modality of the project without a page is a warning

conf.py enables it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective

from genkit.discovery import reference, registry

MODALITY = re.compile(r"% modality (\w+)\n")
"""The whole source of a page that is generated from a manifest."""

VARIABLES = ("attribute", "data", "property")
"""Kinds of documented objects whose docstrings napoleon would split at a colon, as `type: description`."""

COLON = "\ue000"
"""Replaces a colon while napoleon runs."""

CALL = re.compile(r"\n(?=[ ]+`\w+\(.*`: )")
"""The line break before a line such as "`method(argument)`: meaning", which becomes a paragraph."""


class SettingsDirective(SphinxDirective):
    """A settings class as a class description with one attribute per field."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = self.arguments[0]
        module, _, name = path.rpartition(".")
        cls = getattr(import_module(module), name)
        base = cls.__bases__[0]
        lines = [
            f".. py:class:: {path}",
            "",
            *indented(as_rst(inspect.cleandoc(cls.__doc__ or ""))),
            "",
        ]
        if base.__name__ not in ("Settings", "BaseModel"):
            lines += [
                f"   Has all settings of :py:class:`~{base.__module__}.{base.__name__}` and:",
                "",
            ]
        for field_name, field in cls.model_fields.items():
            if field_name not in cls.__annotations__:
                continue
            type_name = reference.spell_type(field.annotation, field.metadata)
            description = [*as_rst(reference.meaning(field)), "", reference.bounds(field)]
            lines += [f"   .. py:attribute:: {path}.{field_name}", f"      :type: {type_name}"]
            lines += [
                f"      :value: {reference.default(field)}",
                "",
                *indented(description, 6),
                "",
            ]
        return parsed(self, lines)


class CommandsDirective(SphinxDirective):
    """A section with the help text of each command and its subcommands."""

    def run(self) -> list[nodes.Node]:
        from typer.main import get_command

        import genkit.cli

        for file in Path(genkit.cli.__file__).parent.glob("*.py"):
            self.env.note_dependency(str(file))
        return [self._section(words) for words in self._paths((), get_command(genkit.cli.app))]

    def _paths(self, words: tuple[str, ...], command: Any) -> Iterator[tuple[str, ...]]:
        """A command and its subcommands, each as the words after `genkit`."""
        yield words
        for name, subcommand in getattr(command, "commands", {}).items():
            yield from self._paths((*words, name), subcommand)

    def _section(self, words: tuple[str, ...]) -> nodes.section:
        from typer.testing import CliRunner

        import genkit.cli

        result = CliRunner().invoke(
            genkit.cli.app,
            [*words, "--help"],
            prog_name="genkit",
            env={"COLUMNS": "88", "NO_COLOR": "1"},
        )
        if result.exit_code:
            raise self.error(f"genkit {' '.join(words)} --help failed: {result.output}")
        title = " ".join(("genkit", *words))
        section = nodes.section(
            "", nodes.title(title, title), nodes.literal_block(result.output, result.output)
        )
        section[-1]["language"] = "text"
        section["names"] = [nodes.fully_normalize_name(title)]
        self.state.document.note_implicit_target(section, section)
        return section


class TemplateDirective(SphinxDirective):
    """A file of the package that `plugins new` writes: from the line that begins with `from`, up to that with `to`.

    The content of the directive is that text, for those who read the page as Markdown; any other is an error.
    """

    required_arguments, has_content = 1, True
    option_spec: ClassVar = {"from": directives.unchanged, "to": directives.unchanged}

    def run(self) -> list[nodes.Node]:
        from genkit.discovery import scaffold

        path, id = self.arguments[0], "waves"
        self.env.note_dependency(
            str(Path(scaffold.__file__).with_name("templates") / "modality" / (path + ".txt"))
        )
        text = "\n" + scaffold.package_files(id)[path.replace("package", scaffold.package_of(id))]
        for mark in map("\n{}".format, map(self._mark, self.options)):
            if mark not in text:
                raise self.error(f"no line of {path} begins with {mark.strip()!r}")
        start = text.index("\n" + self._mark("from")) if "from" in self.options else 0
        end = text.index("\n" + self._mark("to"), start + 1) if "to" in self.options else None
        code = text[start:end].strip("\n")
        shown = "\n".join(self.content).strip("\n")
        if shown and shown != code:
            raise self.error(f"the page shows another {path} than the one that is written:\n{code}")
        return [
            nodes.literal_block(code, code, language="toml" if path.endswith(".toml") else "python")
        ]

    def _mark(self, name: str) -> str:
        return self.options[name].strip('"')


def parsed(directive: SphinxDirective, lines: list[str]) -> list[nodes.Node]:
    """The nodes of some reStructuredText."""
    container = nodes.Element()
    directive.state.nested_parse(StringList(lines, "settings"), directive.content_offset, container)
    return container.children


# Docstrings ------------------------------------------------------------------------------------------------------


def as_rst(text: str, literal_blocks: bool = False) -> list[str]:
    """A docstring with stars, bars and backslashes escaped; with `literal_blocks`, indented blocks become code."""
    lines: list[str] = []
    for block in re.split(r"\n[ \t]*\n", text):
        if literal_blocks and block.lstrip("\n").startswith("    "):
            lines += ["::", "", *block.strip("\n").splitlines(), ""]
            continue
        pieces = block.split("`")
        pieces[::2] = [re.sub(r"([*|\\])", r"\\\1", piece) for piece in pieces[::2]]
        lines += [CALL.sub("\n\n", "`".join(pieces)), ""]
    return "\n".join(lines).splitlines()


def indented(lines: list[str], by: int = 3) -> list[str]:
    """Lines with `by` more spaces in front; empty ones stay empty."""
    return [" " * by + line if line else "" for line in lines]


def escape_docstring(
    app: Any, kind: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    """Escape a docstring before napoleon reads it."""
    lines[:] = as_rst("\n".join(lines), literal_blocks=kind == "module")
    if kind in VARIABLES:
        lines[:] = [line.replace(":", COLON) for line in lines]


def restore_colons(
    app: Any, kind: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    """Undo the replacement of colons after napoleon has run."""
    lines[:] = [line.replace(COLON, ":") for line in lines]


def process_signature(
    app: Any,
    kind: str,
    name: str,
    value: Any,
    options: Any,
    signature: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Signatures in a form that Sphinx can parse, and so can break into lines."""
    if signature == "(*args, **kwargs)":  # of a protocol
        return "", returns
    return signature and signature.replace("<factory>", "..."), returns


# Architecture ----------------------------------------------------------------------------------------------------


def check_architecture(app: Any) -> None:
    """Warn of each module of genkit that docs/architecture.md does not name.

    Modules at the top are named with their ending (`plugin.py`), packages with a slash (`engine/`), and the modules of
    a package by their stem, where the page has a table of them ("module of `engine/`").
    """
    package = Path(app.srcdir).parent / "genkit"
    text = (Path(app.srcdir) / "architecture.md").read_text(encoding="utf-8")
    names = [path.name for path in package.glob("*.py") if path.name != "__main__.py"]
    for folder in (path.parent for path in package.glob("*/__init__.py")):
        names.append(f"{folder.name}/")
        if f"module of `{folder.name}/`" in text:
            modules = (path.stem for path in folder.glob("*.py") if path.stem != "__init__")
            names += [f"`{module}`" for module in modules]
    for name in sorted(names):
        if name not in text:
            logging.getLogger(__name__).warning("docs/architecture.md does not name %s", name)


# Modalities ------------------------------------------------------------------------------------------------------


def write_modality(app: Any, name: str, source: list[str]) -> None:
    """Replace a page that only names a modality by the page that is generated from its manifest."""
    if match := MODALITY.fullmatch(source[0]):
        manifest = registry.describe(match[1])
        classes = (registry.named_class(manifest, part) for part in ("options", "controls"))
        modules = (import_module(cls.__module__) for cls in classes if cls is not None)
        for module in (reference, *modules):
            app.env.note_dependency(module.__file__)
        source[0] = reference.markdown(manifest)


def check_modalities(app: Any) -> None:
    """Warn of each modality of the project that has no page."""
    for id in registry.project_distributions():
        if not (Path(app.srcdir) / "reference" / "modalities" / f"{id}.md").exists():
            logging.getLogger(__name__).warning(
                "docs/reference/modalities/ has no page %s.md (%% modality %s)", id, id
            )


def setup(app: Any) -> dict[str, Any]:
    app.add_directive("settings", SettingsDirective)
    app.add_directive("commands", CommandsDirective)
    app.add_directive("template", TemplateDirective)
    app.connect("autodoc-process-docstring", escape_docstring, priority=400)
    app.connect("autodoc-process-docstring", restore_colons, priority=600)
    app.connect("autodoc-process-signature", process_signature)
    app.connect("builder-inited", check_architecture)
    app.connect("builder-inited", check_modalities)
    app.connect("source-read", write_modality)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
