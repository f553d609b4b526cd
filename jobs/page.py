"""Pages: one HTML file with everything inside it, which runs nothing and asks nobody for anything. Values in, text out.

The content security policy in the page allows its own style sheet, by digest, and pictures inside the page; no script,
no frame, no form, no other address, whatever a name in the page may hold.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from jobs.output import printable
from jobs.units import human_bytes
from pipeline.core.storage import split_location

FOLDER = Path(__file__).parent


def render(template: str, **values: object) -> str:
    """Return a page made by a template of this folder; what is no Markup is escaped."""
    style = (FOLDER / "page.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "name": printable,
        "bytes": human_bytes,
        "count": "{:,}".format,
        "moment": _moment,
        "marked": _marked,
    }
    # The style sheet is a file of ours, not of the collection's.
    sheet = Markup(style)  # noqa: S704
    return environment.get_template(template).render(style=sheet, policy=policy(style), **values)


def _moment(created_at: str) -> str:
    """Return the time of a snapshot as people write it."""
    return printable(created_at.replace("T", " ").replace("+00:00", " UTC"))


def _marked(sentence: str) -> Markup:
    """Return a sentence of ours, in which commands stand between backticks."""
    parts = printable(sentence).split("`")
    return Markup("").join(Markup("<code>{}</code>").format(p) if n % 2 else escape(p) for n, p in enumerate(parts))


def policy(style: str) -> str:
    """Return the content security policy of a page with this style sheet."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def write(location: str, page: str) -> int:
    """Write a page to a local path or s3://; return its size in bytes."""
    store, name = split_location(location)
    data = page.encode()
    store.write(name, data)
    return len(data)
