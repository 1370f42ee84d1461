"""Pages that are made from files which live elsewhere: data cards, benchmarks, the model card, the changelog."""

import re
from pathlib import Path

from charts import drawn
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
BUNDLED = ("sample_scenes", "sample_series", "sample_points")


def slug(title: str) -> str:
    """Name of a page."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def benchmarks() -> dict[str, str]:
    """A page per part of the benchmarks' record, by its path; the first is their overview."""
    head, *parts = re.split(r"^## ", (ROOT / "benchmarks/README.md").read_text(), flags=re.MULTILINE)
    pages = {f"benchmarks/{slug(part.splitlines()[0])}.md": f"# {part}" for part in parts}
    titles = [part.splitlines()[0] for part in parts]
    listed = "\n".join(f"* [{title}]({slug(title)}.md)" for title in titles)
    return {"benchmarks/index.md": f"{head}\n{listed}\n"} | pages


def cards() -> dict[str, str]:
    """A page per data card, what comes with geossl first."""
    names = [path.stem for path in sorted((ROOT / "data_cards").glob("*.md"))]
    ordered = [*BUNDLED, *(name for name in names if name not in BUNDLED)]
    texts = {name: (ROOT / f"data_cards/{name}.md").read_text() for name in ordered}
    titles = {name: re.search(r"^# (.+)$", text, flags=re.MULTILINE) for name, text in texts.items()}
    listed = "\n".join(f"* [{title[1] if title else name}]({name}.md)" for name, title in titles.items())
    intro = (
        "What comes with geossl and what it reads by name. Every card says source, licence, bands, splits, pitfalls."
    )
    return {"data/index.md": f"# Data\n\n{intro}\n\n{listed}\n"} | {
        f"data/{name}.md": text for name, text in texts.items()
    }


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Fill the parts of the navigation that are made here."""
    for entry in config["nav"]:
        for title, made in (("Benchmarks", benchmarks()), ("Data", cards())):
            if title in entry:
                entry[title] = list(made)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    pages = benchmarks() | cards()
    pages["changelog.md"] = (ROOT / "CHANGELOG.md").read_text()
    pages["encoders/croma-tiny.md"] = (ROOT / "geossl/models/weights/croma_tiny.md").read_text()
    for path, text in list(pages.items()):
        if path.startswith("benchmarks/"):
            pages[path], pictures = drawn(text, "charts")
            pages |= {f"benchmarks/{name}": picture for name, picture in pictures.items()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_post_page(output: str, **_: object) -> str:
    """Name the search, which the theme leaves without a name for screen readers."""
    return output.replace(
        'data-md-component="search" role="dialog"', 'data-md-component="search" role="dialog" aria-label="Search"'
    )
