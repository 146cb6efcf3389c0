"""Rules of the code base that a machine can check, as functions of a source tree: each gives what breaks it.

`tests/test_structure.py` runs them over this repository, and over copies in which each rule was broken on purpose.
"""

import ast
import re
from pathlib import Path

PLUGIN_NAMES = ("genkit_audio", "genkit_image", "genkit_text", "genkit_video")

PUBLIC = (
    "genkit",
    "genkit.plugin",
    "genkit.recipe",
    "genkit.user_objects",
    "genkit.adversarial",
    "genkit.errors",
)
"""What plugins and examples may import, beside `genkit.kit` and all below it; their tests also `genkit.testing`."""

MODALITIES = re.compile(
    r"image|video|audio|dcgan|seqgan|wavegan|picture|pixel|token", re.IGNORECASE
)
ALLOWED = {"compat.py": {"audio"}}
"""Names of libraries: torchaudio."""
ALLOWED |= {
    name: {"token"}
    for name in ("app.py", "settings.py", "web.py", "server.py", "serve.py", "clients.py")
}
"""What tells a server who asks (RFC 6750)."""
ALLOWED |= {"compatible.py": {"token"}}
"""A field of the OpenAI API."""

DROPPED = {
    "law": "distribution",
    "smoothing": "alpha",
    "accumulate": "gradient_accumulation",
    "jury": "reranker",
    "mays": "optional",
    "sheet": "preview",
    "sheets": "preview_formats",
    "sink": "writer",
    "walk": "interpolation",
    "stand_in": "relaxation",
    "twins": "near_duplicates",
    "meet": "barrier",
    "agreed": "broadcast",
    "leads": "is_main_process",
    "verdict": "score",
    "verdicts": "scores",
    "turn": "update",
    "turns": "updates",
}
"""Names that were given up, and what is written instead; see docs/words.md."""

DROPPED_PROSE = {
    *(
        "jury",
        "verdict",
        "verdicts",
        "stand-in",
        "stand-ins",
        "mays",
        "by heart",
        "twins",
        "sheet of samples",
    ),
    *(
        "genkit.own",
        "--own",
        "recipe.accumulate",
        "recipe.generator.smoothing",
        "recipe.critic.smoothing",
    ),
}

_WORDS = """
above across after again ahead alone already among apart around asked aside before began begun
behind below beside between beyond built called changed chosen counted decoded described did done
drawn ended expected found given had has heard held here how inside installed joined judged kept
known learned left listed loaded logged lost made meanwhile merged moved named needed never now
noted once opened outside packed padded put reached ready received refused said saved scaled seen
settled shown stacked started swapped taken there together told trained turned twice typed wanted
was what when where which who why within without
"""
BARE = frozenset(_WORDS.split())
"""Participles, adverbs and question words that say nothing of what a variable holds."""


def imports(tree):
    """(module, line) of every import in a syntax tree, with `from a import b` as a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def identifiers(tree):
    """(name, line) of all that is named in a syntax tree: definitions, arguments, keywords, variables, imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg, node.value.lineno
        elif isinstance(node, ast.Name):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute):
            yield node.attr, node.lineno
        elif isinstance(node, ast.alias):
            yield node.name, node.lineno
            if node.asname:
                yield node.asname, node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module, node.lineno
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name, node.lineno


def stored(tree):
    """(name, line) of every variable, attribute and parameter."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.ExceptHandler) and node.name:
            yield node.name, node.lineno


def literals(tree):
    """(text, line) of every string that is no docstring: what the code does, not what it explains."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.value, node.lineno


def modules(folder):
    """(path, syntax tree) of every module below a folder."""
    for path in sorted(Path(folder).rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def named_modalities(package):
    """Where the core names a medium: in a definition, an argument, a keyword, a variable, an import or a string."""
    for path, tree in modules(package):
        for text, line in (*identifiers(tree), *literals(tree)):
            for match in MODALITIES.findall(text):
                if match.lower() not in ALLOWED.get(path.name, ()):
                    yield f"{path.name}:{line}: {text!r} names a medium"


def imports_of_plugins(package):
    """Where the core imports one of the project's own plugins."""
    for path, tree in modules(package):
        for name, line in imports(tree):
            if name.partition(".")[0] in PLUGIN_NAMES:
                yield f"{path.name}:{line}: imports {name}"


def imports_of_the_public_api(package):
    """Where a module of the core imports the package `genkit` itself, which resolves its names lazily for users."""
    package = Path(package)
    children = {path.stem for path in package.iterdir()}
    for path, tree in modules(package):
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found = [alias.name for alias in node.names if alias.name == "genkit"]
            elif isinstance(node, ast.ImportFrom) and node.module == "genkit" and not node.level:
                found = [
                    f"genkit.{alias.name}" for alias in node.names if alias.name not in children
                ]
            else:
                continue
            yield from (f"{path.name}:{node.lineno}: imports {name}" for name in found)


def imports_of_private_modules(folder, testing=False):
    """Where a plugin or an example imports what `docs/stability.md` does not call public."""
    roots = (*PUBLIC, *(("genkit.testing",) if testing else ()))
    for path, tree in modules(folder):
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module]
                if node.module == "genkit":
                    names = [f"genkit.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                if name.partition(".")[0] == "genkit" and not is_public(name, roots):
                    yield f"{path.name}:{node.lineno}: imports {name}"


def is_public(name, roots):
    """Whether a module, or a name of the package `genkit` itself, may be imported by a plugin."""
    import genkit

    if name in roots or name == "genkit.kit" or name.startswith("genkit.kit."):
        return True
    return name.removeprefix("genkit.") in genkit.__all__


def dropped_names(folder):
    """Where a name is used that was given up."""
    for path, tree in modules(folder):
        for text, line in identifiers(tree):
            if text in DROPPED and not is_foreign(tree, text, line):
                yield f"{path.name}:{line}: {text} was given up: {DROPPED[text]}"


def is_foreign(tree, name, line):
    """Whether a name is another library's: `os.walk`, `ast.walk`, `itertools.accumulate`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == name and node.lineno == line:
            return isinstance(node.value, ast.Name) and node.value.id in ("os", "ast", "itertools")
    return False


def bare_names(folder):
    """Where a variable is called by a participle, an adverb or a question word."""
    for path, tree in modules(folder):
        for text, line in stored(tree):
            if text.strip("_").lower() in BARE:
                yield f"{path.name}:{line}: {text} does not say what it holds"


def dropped_prose(text):
    """Words and settings that were given up, in a page or a docstring."""
    lower = text.lower()
    return sorted(
        word for word in DROPPED_PROSE if re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", lower)
    )
