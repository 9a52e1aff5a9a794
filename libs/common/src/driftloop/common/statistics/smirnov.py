"""The exact p of the two-sample Kolmogorov–Smirnov test, several features at a time, by counting lattice paths.

Where both samples come from one population, every order of their n + m rows is equally likely. An order is a path from
(0, 0) to (m, n), a step right for a reference row and a step up for a window row; D >= d says that it leaves the band
|x/m − y/n| < d. The paths to the points (x, s − x) of one antidiagonal come from those of the antidiagonal before, by
one addition of neighbours; outside the band they are set to what they must be. Half the way is enough: the way back is
the same, turned round. All features walk in one vector, because a step costs the same for one as for ten.
"""

import math
from collections.abc import Callable, Iterable, Iterator, MutableSequence, Sequence
from functools import cache
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

# With more rows on a side SciPy takes the asymptotic distribution, and so do we.
MOST_EXACT = 10_000
# Counts are scaled down before they have grown by more powers of two.
_CHUNK_BITS = 250
# How many powers of two the counts that matter may lie below the largest.
_MOST_BITS = 900
# Below, p would be so small a difference that it has no digits: the paths that leave are counted instead of those that
# stay, which takes longer. For as few rows as `_FEW` that cannot be told before.
_RARE = 1e-9
_FEW = 20
# So many features walk together: the vector stays in the processor's nearest cache.
_BATCH = 16
# From here to -1 a code says which of the four additions comes next.
_TURNS = -4


class Deviation(NamedTuple):
    """D between `n` rows and `m`, in steps of 1 / lcm(n, m): a whole number."""

    n: int
    m: int
    steps: int

    @property
    def statistic(self) -> float:
        """D itself."""
        return self.steps / math.lcm(self.n, self.m) if self.steps else 0.0


def p_values(deviations: Sequence[Deviation]) -> list[float]:
    """The two-sided p of each, as `scipy.stats.ks_2samp` has it, to 1e-9 and better; 1 where D is 0."""
    found: dict[Deviation, float] = {}
    batches: dict[int, list[Deviation]] = {}
    for one in dict.fromkeys(deviations):
        p = _by_formula(one)
        if p is None:
            batches.setdefault(_tilt(one), []).append(one)
        else:
            found[one] = p
    for tilt, batch in batches.items():
        for start in range(0, len(batch), _BATCH):
            some = batch[start : start + _BATCH]
            found.update(zip(some, _by_paths(some, tilt), strict=True))
    return [found[one] for one in deviations]


def _by_formula(one: Deviation) -> float | None:
    """p where there is a formula, None where paths must be counted."""
    n, m, steps = one
    if steps == 0:
        return 1.0
    if max(n, m) > MOST_EXACT:
        return _asymptotic(one)
    if n != m:
        return None
    p = _of_equal_sizes(n, steps)
    # Rounding may carry it beyond 1: SciPy then falls back, too.
    return p if p <= 1 else _asymptotic(one)


def _asymptotic(one: Deviation) -> float:
    p = float(stats.kstwo.sf(one.statistic, np.round(one.n * one.m / (one.n + one.m))))
    return min(1.0, max(0.0, p))


def _of_equal_sizes(n: int, steps: int) -> float:
    """2 · Σ (−1)ᵏ⁻¹ C(2n, n − k · steps) / C(2n, n) over k >= 1, by Horner's rule: no large terms are subtracted."""
    p = 0.0
    for start in range(n // steps * steps, -1, -steps):
        term = 1.0
        for place in range(start, start + steps):
            term = (n - place) * term / (n + place + 1)
        p = term * (1.0 - p)
    return 2 * p


def _tilt(one: Deviation) -> int:
    """How much a step right must count, as a power of two, lest the paths that matter are too few of all: mostly 0."""
    n, m = sorted(one[:2])
    share = n / (n + m)
    entropy = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
    return 0 if (n + m) * (1 - entropy) <= _MOST_BITS else round(math.log2(m / n))


# --- paths


class _Bands(NamedTuple):
    """Several bands [f] and, by band and step [f, s], the least and the greatest x inside.

    In a vector of `size` counts x has the place `row[f]` + x − `base[s]`. `rare` bands count the paths that have left,
    the others those that stay. A step right counts 2^`tilt` times, and every `chunk` steps all is scaled down
    by 2^`bits`.
    """

    n: Integers
    m: Integers
    rare: NDArray[np.bool_]
    low: Integers
    high: Integers
    base: Integers
    row: Integers
    size: int
    tilt: int
    chunk: int
    bits: int


def _by_paths(deviations: Sequence[Deviation], tilt: int) -> list[float]:
    bands = _bands(deviations, tilt)
    half = (bands.n + bands.m) // 2
    rest = bands.n + bands.m - half
    states = _walk(bands, {*half.tolist(), *rest.tolist()})
    return _meet(bands, half, rest, states)


def _bands(deviations: Sequence[Deviation], tilt: int) -> _Bands:
    n, m = np.array([sorted(one[:2]) for one in deviations], dtype=np.int64).T
    steps = np.array([one.steps for one in deviations], dtype=np.float64)
    divisor = np.gcd(n, m)
    rise, reach = (m // divisor)[:, None], ((n + m) // divisor)[:, None].astype(np.float64)
    centre = rise * np.arange(int((n + m + 1).max()) // 2 + 2, dtype=np.float64)
    # The quotients are far from whole numbers, or exactly whole: floats round them right.
    low = np.floor((centre - steps[:, None]) / reach).astype(np.int64) + 1
    high = np.ceil((centre + steps[:, None]) / reach).astype(np.int64) - 1
    base = low.min(axis=0) - 1
    # A row begins one point below the least that is ever inside, and ends one above the greatest.
    begin = (low - base).min(axis=1) - 1
    end = np.cumsum((high - base).max(axis=1) + 2 - begin)
    d = steps / (m // divisor * n)
    # Smirnov (1939).
    rare = (2 * np.exp(-2 * d * d * n * m / (n + m)) < _RARE) | (n < _FEW)
    growth = math.log2(1 + 2**tilt)
    chunk = int(_CHUNK_BITS / growth)
    bits = round(chunk * growth)
    return _Bands(n, m, rare, low, high, base, np.append(0, end[:-1]) - begin, int(end[-1]), tilt, chunk, bits)


def _walk(bands: _Bands, wanted: set[int]) -> dict[int, Floats]:
    """The counts after each of the `wanted` numbers of steps."""
    marks = sorted({*wanted, *range(bands.chunk, max(wanted), bands.chunk)})
    codes, ends, values = _instructions(bands, marks)
    # Two vectors take turns: what the one has, the other gets the sums of its neighbours, one place on or not.
    both = np.zeros(_length(bands))
    even, odd = np.split(both[:_TURNS], 2)
    even[(bands.row - bands.base[0])[~bands.rare]] = 1.0
    turns = [(one[:-1], one[1:], to) for one, other in ((even, odd), (odd, even)) for to in (other[1:], other[:-1])]
    cells, add = cast(MutableSequence[float], both.data), _adder(bands)
    states, start = {}, 0
    for step in marks:
        for code in codes[start : ends[step]]:
            if code >= 0:
                cells[code] = 0.0
            elif code >= _TURNS:
                add(*turns[code])
            else:
                cells[code] = next(values)
        start = ends[step]
        if step % bands.chunk == 0:
            both *= 2.0**-bands.bits
        if step in wanted:
            states[step] = (odd if step % 2 else even).copy()
    return states


def _length(bands: _Bands) -> int:
    """Two vectors, and as many places more as there are turns, so that no place from the end looks like a turn."""
    return 2 * (bands.size + 1) - _TURNS


def _adder(bands: _Bands) -> Callable[[Floats, Floats, Floats], object]:
    """What adds the counts of the left and the right neighbour into a third vector."""
    if bands.tilt == 0:
        return np.add
    weight, weighted = 2.0**bands.tilt, np.empty(bands.size)
    return lambda left, right, to: np.add(np.multiply(left, weight, weighted), right, to)


def _instructions(bands: _Bands, marks: Iterable[int]) -> tuple[list[int], dict[int, int], Iterator[float]]:
    """What to do, as codes in order, how many of them each number of steps in `marks` takes, and the values.

    A code is a place to set to 0, a place from the end to set to the next value, or from -4 to -1 the turn to take.
    What is set are the points beside a band from which points inside come.
    """
    low, high, count = bands.low, bands.high, len(bands.n)
    steps = low.shape[1] - 1
    odd = np.arange(steps) % 2
    codes = np.empty((2 * count + 1, steps), dtype=np.int64)
    places = bands.row[:, None] + (odd * (bands.size + 1) - bands.base[:-1])
    np.add(places + 1, high[:, :-1], out=codes[:count])
    np.add(places - 1, low[:, :-1], out=codes[count:-1])
    codes[-1] = _TURNS + 2 * odd + np.diff(bands.base)
    done = np.ones(codes.shape, dtype=np.bool_)
    np.greater(high[:, 1:], high[:, :-1], out=done[:count])
    np.equal(low[:, 1:], low[:, :-1], out=done[count:-1])
    values = np.zeros(0)
    if bands.rare.any():
        rare = np.concatenate((bands.rare, bands.rare))
        when, which = np.nonzero(done[:-1][rare].T)
        beside = np.concatenate((high[bands.rare] + 1, low[bands.rare] - 1))
        values = _paths(bands, when, beside[which, when])
        codes[:-1][rare] -= _length(bands)
    ends = {step: int(np.count_nonzero(done[:, :step])) for step in marks}
    return codes.T[done.T].tolist(), ends, iter(values.tolist())


def _meet(bands: _Bands, half: Integers, rest: Integers, states: dict[int, Floats]) -> list[float]:
    """Each p: the paths to the middle antidiagonal, and from there on as if they came from the other end."""
    n, m, band = bands.n, bands.m, np.arange(len(bands.n))
    first = np.maximum(bands.low[band, half], m - bands.high[band, rest])
    last = np.minimum(bands.high[band, half], m - bands.low[band, rest])
    # Where the vectors have these points: backwards for the way back.
    forth, back = bands.row - bands.base[half], bands.row + m - bands.base[rest]
    logs = _log_factorials()
    bits = logs[n + m] - logs[n] - logs[m] + (bands.tilt * m - bands.bits * (half // bands.chunk + rest // bands.chunk))
    share = np.exp2(-bits.astype(np.float64))
    places = (forth + first, forth + last + 1, back - last, back - first + 1)
    found = []
    for one, (start, end, start_back, end_back) in enumerate(np.column_stack(places).tolist()):
        there, here = states[int(half[one])][start:end], states[int(rest[one])][start_back:end_back][::-1]
        if bands.rare[one]:
            paths = _leaving(bands, one, int(half[one]), int(first[one]), there, here)
            found.append(min(1.0, paths * float(share[one])))
        else:
            found.append(max(0.0, 1.0 - float(np.dot(there, here)) * float(share[one])))
    return found


def _leaving(bands: _Bands, band: int, step: int, first: int, there: Floats, here: Floats) -> float:
    """The paths that leave the band before the middle, after it, or both; these inside, from x = `first` on."""
    n, m = int(bands.n[band]), int(bands.m[band])
    x = np.arange(max(0, step - n), min(m, step) + 1)
    every, every_back = _paths(bands, step, x), _paths(bands, n + m - step, m - x)
    left, left_back = every.copy(), every_back.copy()
    # The band may be wider than the points that there are.
    skip, start = max(0, int(x[0]) - first), max(0, first - int(x[0]))
    size = min(len(there) - skip, len(x) - start)
    left[start : start + size], left_back[start : start + size] = there[skip : skip + size], here[skip : skip + size]
    return float(np.dot(left, every_back) + np.dot(every - left, left_back))


def _paths(bands: _Bands, step: Integers | int, x: Integers) -> Floats:
    """The number of all paths to (x, step − x), tilted and scaled as the counts after as many steps are."""
    valid = (x >= 0) & (x <= step)
    right = np.where(valid, x, 0)
    logs = _rounded_log_factorials()
    bits = logs[step] - logs[right] - logs[step - right] + bands.tilt * right - bands.bits * (step // bands.chunk)
    return np.where(valid, np.exp2(bits), 0.0)


@cache
def _log_factorials() -> NDArray[np.longdouble]:
    """log2 of 0!, 1!, …, in extended precision where the machine has it."""
    whole = np.arange(1, 2 * MOST_EXACT + 1, dtype=np.longdouble)
    return np.concatenate(([0], np.cumsum(np.log2(whole))), dtype=np.longdouble)


@cache
def _rounded_log_factorials() -> Floats:
    return _log_factorials().astype(np.float64)
