"""Units of measurement as laboratories write them: a part of UCUM, and conversion by powers of ten alone.

A unit here is `numerator/denominator`, each one metric term. Two units can be converted where both terms are of the
same kinds: mg/dL and g/L, mmol/L and umol/L. What is a matter of chemistry or of method is none of units and is never
done: mass to substance concentration needs a molar mass, and HbA1c in % (NGSP) and in mmol/mol (IFCC) measure on two
scales, although 1 % is 10 mmol/mol by dimension.
"""

import re
from decimal import Decimal

_PREFIXES = {"": 0, "k": 3, "d": -1, "c": -2, "m": -3, "u": -6, "n": -9, "p": -12, "f": -15}
# UCUM's spelling of a metric atom, and what kind it is of. IU is what laboratories write for [iU].
_METRIC = {
    "g": "gram",
    "mol": "mole",
    "L": "litre",
    "l": "litre",
    "U": "enzyme unit",
    "[iU]": "international unit",
    "[IU]": "international unit",
    "IU": "international unit",
    "kat": "katal",
    "eq": "equivalent",
    "osm": "osmole",
    "m[Hg]": "metre of mercury",
}
_OTHERS = {
    "": ("one", 0),
    "1": ("one", 0),
    "%": ("percent", 0),
    "min": ("minute", 0),
    "h": ("hour", 0),
    "mcg": ("gram", -6),
    "mmHg": ("metre of mercury", -3),
}
_TERMS = {prefix + atom: (kind, power) for atom, kind in _METRIC.items() for prefix, power in _PREFIXES.items()}
_TERMS |= _OTHERS
# UCUM's case-insensitive variant. It has no mega here, so that M is always milli.
_UPPER_CASE_TERMS = {term.upper(): meaning for term, meaning in _TERMS.items()}

_ANNOTATION = re.compile(r"\{[^{}]*\}")
_POWER_OF_TEN = re.compile(r"10[*^]([0-9]{1,2})")
_MICRO_SIGNS = str.maketrans({"\N{MICRO SIGN}": "u", "\N{GREEK SMALL LETTER MU}": "u"})


def convert(value: float, unit: str, to: str) -> float | None:
    """`value`, which is in `unit`, in the unit `to`; None where one is not known or they are of different kinds.

    The result is the float nearest to the decimal number that was meant: 1.1 g/L are 110 mg/dL, and not a bit more.
    """
    found, wanted = _parse(unit), _parse(to)
    if found is None or wanted is None or found[0] != wanted[0]:
        return None
    power = found[1] - wanted[1]
    return float(Decimal(repr(float(value))).scaleb(power)) if power else value


def _parse(unit: str) -> tuple[tuple[str, str], int] | None:
    """The kinds of numerator and denominator, and the power of ten before them; None for what is not known."""
    text = _ANNOTATION.sub("", unit.strip()).translate(_MICRO_SIGNS)
    # A mere annotation ({score}) says nothing of what is counted, and an empty text nothing at all.
    if not text:
        return None
    above, _, below = text.partition("/")
    terms = _UPPER_CASE_TERMS if text.isupper() else _TERMS
    numerator, denominator = _numerator(above, terms), terms.get(below)
    if numerator is None or denominator is None:
        return None
    return (numerator[0], denominator[0]), numerator[1] - denominator[1]


def _numerator(term: str, terms: dict[str, tuple[str, int]]) -> tuple[str, int] | None:
    """A term, or the power of ten of a cell count (10*9/L)."""
    count = _POWER_OF_TEN.fullmatch(term)
    return terms.get(term) if count is None else ("one", int(count[1]))
