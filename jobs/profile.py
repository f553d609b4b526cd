"""Where the time of an indexing run went, and what limits it, in words that somebody can act on."""

from __future__ import annotations

from typing import Any

from jobs.index import IndexReport

BUSY = 0.85
"""A network at work for this share of the workers' time is what limits them."""

ADVICE = {
    "forward": "the network limits extraction: more workers or GPUs, --precision bf16, a smaller --resize or backbone",
    "decode": "decoding limits extraction: more CPU cores per worker, fewer workers per machine, or smaller originals",
    "store": "the store limits extraction: workers nearer to it, larger files (tar instead of single images), or more "
    "workers, which read side by side",
    "write": "writing descriptors limits extraction: larger shards, or a ROOT nearer to the workers",
    "nothing": "nothing was extracted",
}


def profile(report: IndexReport) -> dict[str, Any]:
    """Return shares of the phases, shares of the workers' time, and what limits extraction.

    Shares of workers add up to more than 1 where several threads work, or stages overlap: of one worker's second,
    `forward` is the part with a pass under way, `store` and `write` the parts spent waiting for the one and in the
    other, `decode` the number of threads at it.
    """
    total = sum(report.seconds.values())
    phases = {name: round(seconds / total, 4) for name, seconds in report.seconds.items()} if total else {}
    busy = report.stats.get("busy_seconds", 0.0)
    if not busy or not report.stats.get("images"):
        return {"seconds": round(total, 3), "phases": phases, "extract": {}, "limit": "nothing"}
    shares = {
        name: round(report.stats.get(f"{of}_seconds", 0.0) / busy, 4)
        for name, of in (("forward", "device"), ("decode", "decode"), ("store", "read"), ("write", "write"))
    }
    limit = "forward"
    if shares["forward"] < BUSY:
        # Decoding is spread over threads: what of it is not hidden behind the network is at most the rest of the time.
        hidden = {"decode": min(shares["decode"], 1 - shares["forward"]), "store": shares["store"]}
        limit = max({**hidden, "write": shares["write"]}.items(), key=lambda item: item[1])[0]
    return {
        "seconds": round(total, 3),
        "phases": phases,
        "extract": {**shares, "images_per_second_per_worker": round(report.stats["images"] / busy, 2)},
        "limit": limit,
    }


def lines(told: dict[str, Any]) -> list[str]:
    """Return a profile in words."""
    phases = sorted(told["phases"].items(), key=lambda item: -item[1])
    spent = ", ".join(f"{name} {100 * share:.0f} %" for name, share in phases if share >= 0.005)
    found = [f"profile: {told['seconds']:.1f} s: {spent}"]
    if told["extract"]:
        shares = told["extract"]
        found.append(
            f"  of a worker's time: forward passes {100 * shares['forward']:.0f} %, waiting for the store "
            f"{100 * shares['store']:.0f} %, writing {100 * shares['write']:.0f} %; {shares['decode']:.2f} threads "
            f"decoding; {shares['images_per_second_per_worker']:.1f} images/s per worker"
        )
    return [*found, f"  {ADVICE[told['limit']]}"]
