"""Puts the figures of the studies beside the pages: ``experiments/NAME/FIGURE.png`` is
``assets/studies/NAME/FIGURE.png`` on the site, so that there is one copy of each.
"""

from __future__ import annotations

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

STUDIES = Path(__file__).parents[2] / "experiments"


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add every figure of a study."""
    for path in sorted(STUDIES.glob("*/*.png")):
        place = f"assets/studies/{path.relative_to(STUDIES).as_posix()}"
        files.append(File.generated(config, place, abs_src_path=str(path)))
    return files
