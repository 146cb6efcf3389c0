"""Configuration of the site, for `make docs`. Tutorials and guides are notebooks, executed without network."""

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

# Executed pages ---------------------------------------------------------------------------------------------------

# A cache is keyed by the cells of the page and would miss changes of genkit.
nb_execution_mode = "force"
nb_execution_in_temp = (
    True  # so that runs/ and other files of the cells are not written into the repository
)
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
# Kernels inherit this environment. `genkit` in shell cells is the program beside the Python that builds the site.
os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
# On two cores shared with other programs, two threads can be ten times slower than one: they wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A separate profile: no start-up files of the user, no warnings about sockets on standard error, and a %%bash that
# stops at the first command that fails and prints all output in order (IPython's prints pieces of 100 bytes).
profile = Path(tempfile.mkdtemp(prefix="genkit-docs-")) / "profile_default"
(profile / "startup").mkdir(parents=True)
(profile / "ipython_kernel_config.py").write_text("c.IPKernelApp.log_level = 'ERROR'\n")
shutil.copy(HERE / "_ext" / "shell_cells.py", profile / "startup")
os.environ["IPYTHONDIR"] = str(profile.parent)
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
# Without these, transformers prints progress bars into pages, and its tqdm warns that it has no widgets.
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
