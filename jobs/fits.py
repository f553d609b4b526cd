"""The fits of a run: its codebook and its whitening, made once from a sample, and how those of a snapshot suit it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from jobs.extraction import Extracted, nothing_because
from jobs.outcomes import value_of
from jobs.progress import Reporter
from jobs.reasons import reject_reasons
from pipeline.core.errors import SightlineError
from pipeline.core.names import place, public_url
from pipeline.core.types import Artifact, DescriptorFile, Shard
from pipeline.publish import manifests
from pipeline.publish.catalog import Catalog
from pipeline.publish.lists import Lists
from pipeline.publish.plan import Plan
from pipeline.publish.recipe import Recipe
from pipeline.publish.snapshot import Fitness
from pipeline.run.base import Runner
from pipeline.stages.fit import (
    CodebookTask,
    MomentsTask,
    What,
    complete,
    fit_key,
    fit_whitening,
    fitted,
    run_key,
    sample_shards,
)
from pipeline.stages.fit_drift import FITS, FitDriftTask, fit_items, judged_fits

NAMES: dict[What, str] = {"encode": "codebook", "whiten": "whitening"}
Extract = Callable[[Recipe, list[Shard]], Extracted]
"""Extracts the sample of a fit by a recipe."""


@dataclass(kw_only=True)
class Fits:
    """Makes what a recipe leaves to be fitted. warnings: what is to be said of the samples, in words.

    after: what the fits come after: a killed run's fits are taken up by the next run after the same.
    """

    source: str
    after: str
    root: str
    catalog: Catalog
    runner: Runner
    reporter: Reporter
    extract: Extract
    warnings: list[str] = field(default_factory=list)

    def complete(self, recipe: Recipe, plan: Plan) -> Recipe:
        """Return the recipe with everything fitted: as it is, by an earlier run, or now."""
        recipe = self._fitted(recipe, plan, "encode", self._fit_codebook)
        return self._fitted(recipe, plan, "whiten", self._fit_whitening)

    def _fitted(self, recipe: Recipe, plan: Plan, what: What, fit: Callable[[Recipe, list[Shard]], Recipe]) -> Recipe:
        spec = getattr(recipe, what)
        if spec is None or spec.artifact is not None:
            return recipe
        sample = sample_shards(plan.shards(), spec)
        keys = self._keys(recipe, sample, what)
        known = fitted(self.catalog, recipe, what, keys)
        if known is not None and fitted(self.catalog, recipe, what, keys[1:]) is None:
            self.reporter.say(f"{NAMES[what]}: going on with the one that an earlier run fitted; --refit fits it again")
        return known or fit(recipe, sample)

    def _keys(self, recipe: Recipe, sample: list[Shard], what: What) -> tuple[str, str]:
        run = run_key(recipe, what, source=place(self.source), after=self.after)
        return run, fit_key(recipe, sample, what)

    def _read_keys(
        self, recipe: Recipe, sample: list[Shard], files: list[DescriptorFile], what: What
    ) -> tuple[str, ...]:
        """Return the keys of a fit that was made of some files: of a part of the sample alone when some were unread."""
        read = _read(sample, files)
        return self._keys(recipe, sample, what) if read == sample else (fit_key(recipe, read, what),)

    def _fit_codebook(self, recipe: Recipe, sample: list[Shard]) -> Recipe:
        assert recipe.encode is not None, "only what a recipe has is fitted"
        files = self._sampled(recipe.local, sample, "codebook")
        with self.reporter.phase("codebook", 1, "codebooks") as phase:
            task = CodebookTask(root=self.root, encode=recipe.encode, dim=files[0].dim)
            (outcome,) = self.runner.map(task, [tuple(files)])
            phase.advance()
        keys = self._read_keys(recipe, sample, files, "encode")
        return complete(self.catalog, recipe, "encode", keys, value_of(outcome))

    def _fit_whitening(self, recipe: Recipe, sample: list[Shard]) -> Recipe:
        files = self._sampled(recipe.raw, sample, "whitening")
        with self.reporter.phase("whiten", len(files), "moments") as phase:
            moments: dict[str, Artifact] = {}
            for outcome in self.runner.map(MomentsTask(root=self.root), files):
                moments[outcome.item.id] = value_of(outcome)
                phase.advance()
            recipe, warning = fit_whitening(
                self.catalog,
                recipe,
                self._read_keys(recipe, sample, files, "whiten"),
                [moments[file.id] for file in files],
                images=sum(file.indexed for file in files),
            )
        if warning:
            self.warnings.append(warning)
            self.reporter.say(f"warning: {warning}")
        return recipe

    def _sampled(self, recipe: Recipe, sample: list[Shard], what: str) -> list[DescriptorFile]:
        """Extract the sample of a fit; return its files by shard id."""
        extracted = self.extract(recipe, sample)
        if not manifests.total(extracted.files, "rows"):
            why = nothing_because(extracted, reject_reasons(self.catalog, extracted.files)) or "the source is empty"
            raise SightlineError(f"{public_url(self.source)}: {what} has no sample: {why}")
        return sorted(manifests.descriptor_files(extracted.files), key=lambda file: file.shard_id)


def _read(sample: list[Shard], files: list[DescriptorFile]) -> list[Shard]:
    """Return the sample as it was read: a fit of a part of it is not recorded as that of the whole."""
    ids = {file.shard_id for file in files}
    whole = [shard for shard in sample if shard.id in ids]
    parts = ids.difference(shard.id for shard in whole)
    return sorted([*whole, *(replace(sample[0], id=name) for name in parts)], key=lambda shard: shard.id)


def measure_fits(
    root: str, recipe: Recipe, lists: Lists, before: tuple[Fitness, ...], runner: Runner
) -> tuple[Fitness, ...]:
    """Return how well whitening and codebook suit what the lists hold."""
    outcomes = runner.map(FitDriftTask(root=root, recipe=recipe), fit_items(recipe, lists))
    return judged_fits({outcome.item.kind: value_of(outcome) for outcome in outcomes}, before)


def drifted_indexes(fitness: tuple[Fitness, ...]) -> frozenset[str]:
    """Return the index kinds that training again would mend; fits are mended by --refit alone."""
    return frozenset(fit.kind for fit in fitness if fit.drifted and fit.kind not in FITS)
