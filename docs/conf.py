"""Sphinx's configuration: Markdown pages, and a reference made from docstrings."""

import pathlib
import re

import nvstate

project = "nvstate"
author = "The nvstate developers"
release = version = nvstate.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_use_ivar = True
default_role = "code"  # docstrings write `x`, as Markdown does

html_theme = "alabaster"
html_title = f"nvstate {release}"
html_theme_options = {"description": "Stateful math libraries for JAX", "page_width": "1080px"}


def _as_written(app, what, name, obj, options, lines):
    """Keep what napoleon would take for markup: a star in a shape, a colon in what is returned."""
    returns = False
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            parts = re.split(r"(`[^`]*`)", line)
            lines[number] = "".join(
                p if p.startswith("`") else p.replace("*", r"\*") for p in parts
            )
        if returns:
            lines[number] = re.sub(r"^(\s*)", r"\1: ", lines[number])  # an empty type before it
        returns = line.strip() == "Returns:"


def _without_empty_list(app, docname, source):
    """Leave the list of benchmarks out while there are none: Sphinx warns of it."""
    if docname == "index" and not any(pathlib.Path(app.srcdir).glob("benchmarks/*.md")):
        source[0] = re.sub(r"```{toctree}\n[^`]*benchmarks/\*\n```\n", "", source[0])


def setup(app):
    """Read docstrings before napoleon does."""
    app.connect("autodoc-process-docstring", _as_written, priority=400)
    app.connect("source-read", _without_empty_list)
