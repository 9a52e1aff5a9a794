"""Whether a row is like those that a version was proven on: what lies outside is said, and answered all the same."""

from collections.abc import Mapping

from driftloop.common.profile import NumericReference, ReferenceProfile
from driftloop.common.rows import Value


class KnownRanges:
    """The reference profile of a version, compiled: what its rows had in each feature."""

    def __init__(self, profile: ReferenceProfile) -> None:
        self._numbers: list[tuple[str, float, float, bool]] = []
        self._categories: list[tuple[str, frozenset[Value]]] = []
        for feature in profile.features:
            lacked = feature.missing > 0
            if isinstance(feature, NumericReference):
                # Of a feature that no row had, every value is unknown.
                low, high = (feature.values[0], feature.values[-1]) if feature.values else (1.0, 0.0)
                self._numbers.append((feature.name, low, high, lacked))
            else:
                seen = [name for name, count in zip(feature.categories, feature.counts, strict=True) if count]
                self._categories.append((feature.name, frozenset([*seen, *([None] if lacked else [])])))

    def outside(self, row: Mapping[str, object]) -> tuple[str, ...]:
        """The features in which a canonical row is unlike every row of the reference.

        A number beyond the lowest or the highest, a category that none had, or a missing value where none was missing.
        """
        found = []
        for name, low, high, lacked in self._numbers:
            value = row[name]
            if value is None:
                if not lacked:
                    found.append(name)
            elif not low <= value <= high:  # type: ignore[operator]
                found.append(name)
        found += [name for name, seen in self._categories if row[name] not in seen]
        return tuple(found)
