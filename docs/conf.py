"""How the site is built: `make docs`. Tutorials and guides are notebooks that run meanwhile, without network."""

import atexit
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "genkit"
author = "the genkit authors"
project_copyright = author
release = re.search(r'__version__ = "(.+)"', (HERE.parent / "genkit" / "__init__.py").read_text())[
    1
]
version = release

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "genkit_docs",
]
exclude_patterns = ["_build", "_ext"]

# Pages that run ---------------------------------------------------------------------------------------------------

nb_execution_mode = (
    "force"  # a cache is keyed by the page's own cells and would miss changes of genkit
)
nb_execution_in_temp = True  # runs/ and whatever else the cells write never land in the repository
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
# The kernels inherit what stands here. `genkit` in shell cells is the one beside the Python that builds the site.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
# Two threads on two cores that others use as well can be ten times slower than one: they wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A profile of their own: no start-up files of whoever builds, no remarks about sockets on a build's standard error, and
# a %%bash that fails at the first command that fails and prints once, in order (IPython's prints pieces of 100 bytes).
profile = Path(tempfile.mkdtemp(prefix="genkit-docs-")) / "profile_default"
(profile / "startup").mkdir(parents=True)
(profile / "ipython_kernel_config.py").write_text("c.IPKernelApp.log_level = 'ERROR'\n")
shutil.copy(HERE / "_ext" / "shell_cells.py", profile / "startup")
os.environ["IPYTHONDIR"] = str(profile.parent)
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
# transformers would draw bars into pages, and its tqdm complain that it has no widgets to draw them with.
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"
atexit.register(shutil.rmtree, profile.parent, ignore_errors=True)

# Text -------------------------------------------------------------------------------------------------------------

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
default_role = "code"  # docstrings write `name`
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100
napoleon_numpy_docstring = False
napoleon_use_param = False  # `items, total_items: ...` is one entry
autodoc_inherit_docstrings = False
copybutton_exclude = ".linenos, .gp, .go"

# Looks ------------------------------------------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = f"genkit {release}"
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 7,
    "navbar_align": "left",
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
}
