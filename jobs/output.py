"""What a person or a script sees: one JSON object on stdout, or a few lines; errors as one line on stderr."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from jobs.failed import lines as failure_lines
from jobs.units import human_bytes
from pipeline.core.names import RANDOM_WEIGHTS

SHOWN_TEXT = 40
"""Characters of a text of metadata that are shown beside a result."""
RANDOM_NOTICE = (
    "the weights are random ({origin}), as asked for: results show the pipeline, not what trained weights find"
)
_JOINERS = "\u200c\u200d"


def emit(data: dict[str, Any], *, as_json: bool, lines: list[str] | None = None) -> None:
    """Print the JSON object, or the lines."""
    console = Console(highlight=False, soft_wrap=True)
    if as_json:
        print(json.dumps(finite(data), ensure_ascii=False, allow_nan=False))
    else:
        for line in lines or []:
            console.print(line, markup=False)


def finite(value: Any) -> Any:
    """Return JSON types with null in place of numbers that are not finite, which JSON does not have."""
    if isinstance(value, Mapping):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def notices(label: str) -> list[str]:
    """Return what must be said about a descriptor wherever its results are shown."""
    origin = label.rpartition("(")[2].rstrip(")")
    return [f"note: {RANDOM_NOTICE.format(origin=origin)}"] if origin.startswith(RANDOM_WEIGHTS) else []


def status_lines(data: dict[str, Any]) -> list[str]:
    """Return a ROOT's status in words."""
    recipe = data["recipe"]
    whiten, encode = recipe["whiten"], recipe.get("encode")
    encoded = f", encoded by {encode['method']} over {encode['words']} words" if encode else ""
    lines = [
        f"snapshot {data['snapshot']} of {data['created_at']}: {data['images']} images from {data['source']}",
        f"  seen {data['seen']}, rejected {data['rejected']}, duplicates {data['duplicates']}, "
        f"tombstones {data['tombstones']}",
        f"  descriptor {data['descriptor']}{encoded}, {recipe['dtype']}, "
        + (f"whitened by {whiten['method']}" if whiten else "not whitened"),
        f"  recipe {recipe['fingerprint'][:12]}, {data['descriptors']['files']} descriptor files, "
        f"{human_bytes(data['descriptors']['bytes'])}",
    ]
    for index in data["indexes"]:
        size = human_bytes(index["bytes"])
        lines.append(f"  {index['kind']}: {index['rows']} rows in {index['shards']} shards, {size}")
        fitness = index["fitness"] or {}
        if fitness.get("now"):
            now, then = fitness["now"], fitness["at_training"]
            pairs = (f"{name.replace('_', ' ')} {now[name]:.3g} ({then.get(name, 0):.3g})" for name in now)
            lines.append(f"    now (at training): {', '.join(pairs)}")
        lines += [
            f"    drifted: {what}; `sightline index --retrain auto` trains anew" for what in fitness.get("drifted", ())
        ]
    lines += [
        f"  {kind} has drifted: {what}; `sightline index --refit` fits it again"
        for kind, fit in data["fits"].items()
        for what in fit["drifted"]
    ]
    lines += [f"  deleted by name: {data['deleted']}"] if data["deleted"] else []
    lines += [f"  tag {name}: snapshot {version}" for name, version in sorted(data["tags"].items())]
    lines += [f"  at work: {work['operation']} by writer {work['writer']}" for work in data["at_work"]]
    failed = {failure["shard_id"] for failure in data["failed_shards"]}
    lines += [f"  set aside: {shard}" for shard in data["set_aside"] if shard not in failed]
    lines += [f"  {line}" for line in failure_lines(data["failed_shards"])]
    lines.append("history")
    for row in data["history"]:
        lines.append(
            f"  {row['snapshot']:>4}  {row['created_at']}  {row['operation']:<8}  {row['images']} images  "
            f"+{row['added']} -{row['removed']}  {row['seconds']:.1f} s  recipe {row['recipe']}"
            + ("  expired" if row["expired"] else "")
        )
    return [*lines, *notices(data["descriptor"])]


def print_hits(data: dict[str, Any]) -> None:
    """Print query results as tables."""
    console = Console(highlight=False, soft_wrap=True)
    for result in data["results"]:
        table = Table(title=f"{result['query']}  ({data['index']}, snapshot {data['snapshot']})", title_justify="left")
        table.add_column("#", justify="right")
        table.add_column("score", justify="right")
        columns = [name for name in ("inliers", "box") if any(name in hit for hit in result["hits"])]
        for name in columns:
            table.add_column(name, justify="right")
        table.add_column("key", overflow="fold")
        metadata = any("metadata" in hit for hit in result["hits"])
        if metadata:
            table.add_column("metadata", overflow="fold")
        for place, hit in enumerate(result["hits"], start=1):
            more = [_told(hit.get(name)) for name in columns]
            about = [_about(hit.get("metadata", {}))] if metadata else []
            table.add_row(str(place), f"{hit['score']:.4f}", *more, _plain(hit["key"]), *about)
        console.print(table)
    for line in notices(data["descriptor"]):
        console.print(line, markup=False)


def _told(value: Any) -> str:
    if value is None:
        return ""
    return ",".join(f"{side:.0f}" for side in value) if isinstance(value, tuple | list) else str(value)


def _about(metadata: Mapping[str, Any]) -> str:
    """Return what is known of an image in a line; long texts are cut."""
    texts = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in metadata.items()}
    short = {name: text if len(text) <= SHOWN_TEXT else f"{text[: SHOWN_TEXT - 1]}…" for name, text in texts.items()}
    return ", ".join(f"{name}={_plain(text)}" for name, text in short.items() if metadata[name] is not None)


def _plain(text: str) -> str:
    # Keys are foreign text: neither console markup nor control characters may act on the terminal.
    return printable(text).replace("[", "\\[")


def printable(text: str) -> str:
    """Return foreign text as it can be shown: what is not printable, or turns the direction of text, as escapes.

    Joiners stay, which emoji and several scripts are written with.
    """
    return "".join(c if c.isprintable() or c in _JOINERS else _escaped(ord(c)) for c in text)


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
