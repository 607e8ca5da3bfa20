"""What the site has beside the pages of docs/: a page for each module of `fastgan.compat`, made of its docstring;
CONTRIBUTING.md and CHANGELOG.md; the tables and pictures of bench/results."""

import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
COMPAT = sorted(path.stem for path in (ROOT / "fastgan" / "compat").glob("[a-z]*"))  # files and folders
PAGE = """\
# `fastgan.compat.{name}`

::: fastgan.compat.{name}
    options:
      docstring_style: null
      docstring_options: null
      show_root_heading: false
      show_root_toc_entry: false
      heading_level: 2
"""


def on_config(config):
    for part in config.nav:
        if "Drop-ins" in part:
            part["Drop-ins"] = [*part["Drop-ins"], *({name: f"drop-ins/{name}.md"} for name in COMPAT)]
    return config


def on_files(files, config):
    for name in COMPAT:
        files.append(File.generated(config, f"drop-ins/{name}.md", content=PAGE.format(name=name)))
    for name in ("CONTRIBUTING", "CHANGELOG"):
        text = (ROOT / f"{name}.md").read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, f"{name.lower()}.md", content=text))
    results = ROOT / "bench" / "results"
    for path in sorted(results.rglob("*")):
        if path.suffix in (".md", ".png", ".gif"):
            name = f"results/{path.relative_to(results).as_posix()}"
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links to files outside docs/, as they are right in the repository."""
    up = "../" * page.file.src_uri.count("/")
    markdown = re.sub(r"\]\((?:\.\./)+bench/results/", f"]({up}results/", markdown)
    return re.sub(r"\]\((?:\.\./)+(CONTRIBUTING|CHANGELOG)\.md", lambda m: f"]({up}{m[1].lower()}.md", markdown)
