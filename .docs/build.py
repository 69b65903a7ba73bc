"""The reference of what is public, from its docstrings, and the guide beside it, as one folder of
HTML.

    python .docs/build.py [FOLDER]      (default: build/docs)

pdoc reads Google's style of docstrings, which these are in, and Markdown, to which a formula such
as |a - v| is a formula; sphinx reads reStructuredText, to which it is a substitution that is not
defined. Every warning, of pdoc or of Python, is an error.
"""

import importlib
import inspect
import re
import shutil
import sys
import warnings
from pathlib import Path

import pdoc
from pdoc.render_helpers import to_html

# Before warnings are errors: those of the libraries it imports are none of ours.
import lirpa_explain  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / ".github" / "CONTRIBUTING.md",
         *sorted((ROOT / "examples" / "guide").glob("*.md"))]
REEXPORTING = ["", "training", "attacks", "attributions", "certificates.metrics",
               "certifying.senses", "graph.rules",
               "interchange", "operators", "reporting", "smoothing"]
"""Modules that are made of what their files define; it is described where it is public."""

FIRST = ["certify", "Certifier", "Certificate"]
"""What a reader of the package's own page looks for."""

DEFINING = ["bounding.methods", "bounding.schedule", "boxes", "relaxations.declaration"]
"""Further modules that extensions use."""

PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ margin: 0 auto; padding: 1.5rem; max-width: 55rem; font: 16px/1.55 system-ui, sans-serif; }}
pre, table {{ display: block; overflow-x: auto; }}
pre {{ padding: .7rem; background: #f5f7f9; font-size: .85rem; }}
td, th {{ padding: .2rem .6rem; border-bottom: 1px solid #d5dadf; text-align: left;
         vertical-align: top; }}
img {{ max-width: 100%; }} nav a {{ margin-right: 1rem; }}
</style></head><body><nav>{links}</nav>{body}</body></html>
"""


def name_of(page: Path) -> str:
    """The file that a page becomes."""
    return "index.html" if page.name == "README.md" else f"{page.stem.lower()}.html"


def linked(html: str, page: Path) -> str:
    """Links between pages as links between their files; what has no page here stays a file's
    name.
    """

    def replace(match: re.Match[str]) -> str:
        path, anchor = match[1], match[2] or ""
        there = (page.parent / path).resolve()
        if there in PAGES:
            return f'href="{name_of(there)}{anchor}"'
        return (f'href="https://{path.removeprefix("https://")}"'
                if path.startswith("https:") else 'class="file"')

    html = re.sub(r'href="([^"#]+)(#[^"]*)?"', replace, html)
    return re.sub(r'src="(?:[^"]*/)?([^"/]+)"', r'src="\1"', html)


def modules() -> list[str]:
    """What pdoc is to describe: the package, and of its modules none but those above, which are
    told what is public.
    """
    names = [f"lirpa_explain.{name}".rstrip(".") for name in REEXPORTING]
    for name in names:
        module = importlib.import_module(name)
        public = [key for key, value in vars(module).items()
                  if not key.startswith("_") and not inspect.ismodule(value)]
        public.sort(key=lambda key: FIRST.index(key) if key in FIRST else len(FIRST))
        module.__all__ = public + [other.rpartition(".")[2]
                                   for other in names if other.rpartition(".")[0] == name]
    shown = "|".join(re.escape(name) for name in [*filter(None, REEXPORTING), *DEFINING])
    return ["lirpa_explain", rf"!lirpa_explain\.(?!({shown})$).*"]


def build(folder: Path) -> None:
    """Write the reference and the pages."""
    pdoc.render.configure(docformat="google", math=False, search=False,
                          footer_text="lirpa_explain: bounds that hold.")
    pdoc.pdoc(*modules(), output_directory=folder / "reference")
    chosen = ("README.md", "certify.md", "supported.md", "soundness.md", "architecture.md")
    links = '<a href="reference/lirpa_explain.html">Reference</a>' + "".join(
        f'<a href="{name_of(page)}">{page.stem.capitalize()}</a>'
        for page in PAGES if page.name in chosen)
    for page in PAGES:
        text = page.read_text()
        title = re.search(r"^# (.*)$", text, re.M)
        html = linked(str(to_html(text)), page)
        (folder / name_of(page)).write_text(PAGE.format(title=title[1] if title else page.stem,
                                                        links=links, body=html))
    for picture in (ROOT / "examples" / "guide").glob("*.png"):
        shutil.copy(picture, folder)


if __name__ == "__main__":
    warnings.simplefilter("error")
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "docs"
    build(out)
    print(f"Written: {out / 'index.html'}")
