"""The figures of the gallery, which lie outside of the pages' folder, become part of the site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

GALLERY = "paper_figures/gallery"


def on_files(files: Files, config: Any) -> Files:
    """Adds the figures."""
    for path in sorted((Path(config["config_file_path"]).parent / GALLERY).glob("*.png")):
        files.append(File.generated(config, f"gallery/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Points the pages to them."""
    return markdown.replace(f"../{GALLERY}/", "gallery/")
