"""The settings of a choice, checked, and what they make of a pool that was read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from siftlm import validation
from siftlm.embedding.protocol import Embedder
from siftlm.errors import Conflict, InvalidInput, counted, setting
from siftlm.memory.create import check_bad
from siftlm.memory.near_duplicates import COPY_THRESHOLD
from siftlm.memory.reading.records import VectorFile
from siftlm.picking.choose import Candidates
from siftlm.picking.options import MethodOptions, check_method
from siftlm.picking.pools import Pool
from siftlm.picking.quotas import Quota, SourceLimits, SourceQuota
from siftlm.picking.reading import NO_SOURCE, Reading
from siftlm.picking.targets import Targets
from siftlm.picking.work import FORMAT, Embedded
from siftlm.selection import Method
from siftlm.selection.problem import find_method
from siftlm.types import BoolArray, Vectors

DEFAULT_COST = "tokens"
# Reasons why a record cannot be picked, in the order in which they are looked at.
UNUSABLE, COPY, DUPLICATE, NO_NUMBER = "unusable", "copies of a target", "duplicates", "without cost or quality"
NO_OPTION = "without what the method reads"


@dataclass(frozen=True)
class PickSettings:
    """The settings of `siftlm.pick`, checked."""

    n: int | None
    method: Method
    noise: float
    budget: float | None
    cost: str | None
    quota: SourceQuota | None
    quality: str | None
    copied: float | None
    """The share of a record's wording from which it counts as a copy; ``None``: not looked at."""
    duplicates: bool
    bad: str
    seed: int
    options: MethodOptions

    @classmethod
    def of(
        cls,
        n: int | None,
        method: str,
        noise: float,
        *,
        budget: float | None,
        cost: str | None,
        quota: Quota | None,
        quality: str | None,
        copied: float | bool | None,
        duplicates: bool,
        bad: str,
        seed: int,
        options: Mapping[str, Any] | None,
    ) -> PickSettings:
        """The settings, checked one by one and against each other."""
        if n is None and budget is None:
            raise InvalidInput(f"how many? Pass {setting('n')}, or {setting('budget')}")
        if cost is not None and budget is None:
            raise Conflict(f"{setting('cost', cost)} counts against {setting('budget')}, which is not given")
        entry = find_method(method)
        check_method(entry, quality=quality, budget=budget, quota=quota)
        check_bad(bad)
        threshold = None
        if copied is None or copied is True:
            threshold = COPY_THRESHOLD
        elif copied is not False:
            threshold = validation.number("without_copies", copied, above=0, most=1)
        return cls(
            None if n is None else validation.whole_number("n", n, least=1),
            entry,
            validation.number("noise", noise, above=0),
            None if budget is None else validation.number("budget", budget, above=0),
            None if budget is None else validation.text_with_content("cost", cost or DEFAULT_COST),
            None if quota is None else SourceQuota.of(quota),
            None if quality is None else validation.text_with_content("quality", quality),
            threshold,
            validation.flag("duplicates", duplicates),
            bad,
            validation.whole_number("seed", seed, least=0),
            MethodOptions.of(entry, options),
        )

    def reading(
        self, fields: Sequence[str] | None, embedder: Embedder | None, vectors: Vectors | None, targets: Targets
    ) -> Reading:
        """How the pool is read."""
        source = None if self.quota is None else self.quota.field
        originals = None if self.copied is None else targets.originals()
        return Reading(fields, embedder, vectors, self.cost, source, self.quality, originals, self.bad, self.options)

    def job(self, pool: Pool, how: Reading, targets: Targets, vectors: Any) -> dict[str, Any]:
        """What the work folder belongs to: JSON, equal for calls that may share it."""
        # Named only where there are some, so that work of versions without them is still recognized.
        fields = {"options": dict(self.options.fields)} if self.options.fields else {}
        options = self.options.identity(targets.labels)
        embedder = how.embedder.fingerprint if vectors is None and how.embedder is not None else None
        return {
            "format": FORMAT,
            "reading": {
                "pool": pool.identity(),
                "text": None if how.text is None else list(how.text),
                "embedder": embedder,
                "vectors": None if vectors is None else VectorFile(vectors, None).identity(),
                "bad": self.bad,
            },
            "rows": {
                "cost": self.cost,
                "source": how.source,
                "quality": self.quality,
                "originals": targets.digest if how.originals is not None else None,
                **fields,
            },
            "selection": {
                "targets": targets.digest,
                "n": self.n,
                "method": self.method.name,
                "noise": self.noise,
                "budget": self.budget,
                "quota": None if self.quota is None else self.quota.to_dict(),
                "copied": self.copied,
                "duplicates": self.duplicates,
                "seed": self.seed,
                **({"options": options} if options else {}),
            },
        }

    def candidates(self, pool: Embedded, targets: Targets) -> tuple[Candidates, dict[str, int]]:
        """What may be picked of a pool, and how many of its records may not, for each reason."""
        goals = targets.vectors if len(targets) else np.zeros((0, pool.vectors.shape[1]), dtype=np.float32)
        if pool.vectors.shape[1] != goals.shape[1]:
            widths = f"{pool.vectors.shape[1]} and {targets.vectors.shape[1]}"
            raise InvalidInput(f"the vectors of the pool and of the targets have different widths, {widths}")
        options, complete = self.options.resolved(pool.options, pool.numbers, pool.state.records, targets.labels)
        allowed, left_out = self._allowed(pool, complete)
        costs = None if self.budget is None else np.where(allowed, pool.column("cost"), 1.0)
        prior = None if self.quality is None else np.where(allowed, pool.column("quality"), 0.0)
        candidates = Candidates(
            pool.vectors,
            goals,
            allowed,
            self.noise,
            prior,
            costs,
            self.budget,
            None if self.quota is None else lambda: self._limits(pool, candidates),
            options,
            tuple(name for name in self.options.method.target_labels if name in options),
        )
        self._check_enough(pool, candidates, left_out)
        return candidates, left_out

    def _allowed(self, pool: Embedded, complete: BoolArray) -> tuple[BoolArray, dict[str, int]]:
        """(K,) what may be picked, and the counts of what may not; each record counts for its first reason."""
        rows, left_out = pool.rows, {UNUSABLE: pool.state.unusable}
        allowed = np.ones(len(rows), dtype=np.bool_)
        reasons = {NO_NUMBER: np.isnan(rows["quality"]) | np.isnan(rows["cost"])}
        if self.options.fields:
            reasons[NO_OPTION] = ~complete
        if self.copied is not None:
            reasons[COPY] = rows["copied"] >= np.float32(self.copied)
        for reason, out in reasons.items():
            left_out[reason] = int(np.count_nonzero(allowed & out))
            allowed &= ~out
        if not self.duplicates:
            usable = np.flatnonzero(allowed)
            first = np.zeros(len(rows), dtype=np.bool_)
            first[usable[np.unique(rows["digest"][usable], return_index=True)[1]]] = True
            left_out[DUPLICATE] = int(np.count_nonzero(allowed & ~first))
            allowed &= first
        return allowed, left_out

    def _limits(self, pool: Embedded, candidates: Candidates) -> SourceLimits:
        """The quotas, before any pick."""
        if self.quota is None:
            raise RuntimeError("there is no quota")
        labels = pool.rows["label"].astype(np.int64)
        return SourceLimits(self.quota, pool.labels, labels, n=self.n, costs=candidates.costs, budget=candidates.budget)

    def _check_enough(self, pool: Embedded, candidates: Candidates, left_out: dict[str, int]) -> None:
        """Raise where more picks are asked for than may be made."""
        count = int(np.count_nonzero(candidates.allowed))
        why = ", ".join(f"{number:,} {reason}" for reason, number in left_out.items() if number)
        without = f" (left out: {why})" if why else ""
        if not count:
            raise InvalidInput(f"no record of the pool may be picked{without}")
        if self.n is not None and self.n > count:
            raise InvalidInput(
                f"{setting('n', self.n)} is more than the {counted(count, 'record')} that may be picked{without}"
            )
        if candidates.costs is not None and candidates.budget is not None:
            least = float(candidates.costs[candidates.allowed].min())
            if least > candidates.budget:
                raise InvalidInput(f"{setting('budget', self.budget)}: the cheapest record costs {least:g}")
        if candidates.limits is None or self.quota is None:
            return
        if set(pool.labels) == {NO_SOURCE}:
            raise InvalidInput(f"{setting('quota')} names the field {self.quota.field!r}, which no record has")
        unknown = sorted(set(self.quota.some) - set(pool.labels))
        if unknown:
            known = ", ".join(repr(label) for label in sorted(pool.labels)[:10])
            raise InvalidInput(
                f"{setting('quota')} limits {self.quota.field} = {unknown[0]!r}, which no record has; there are {known}"
            )
        most = candidates.limits().available(candidates.allowed)
        if self.n is not None and self.n > most:
            raise InvalidInput(
                f"{setting('n', self.n)} is more than the {counted(most, 'pick')} that {setting('quota')} allows"
            )
