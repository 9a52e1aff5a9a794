"""What clients send that they should not: each body for the diabetes contract, and what its refusal must name."""

import json

ROW = {"Pregnancies": 2, "Glucose": 130.5, "BloodPressure": 70, "BMI": 33.1, "Age": 40}


def body(**changes: object) -> bytes:
    """A valid body with some fields changed."""
    return json.dumps(ROW | changes).encode()


# Name → (body, the field that is refused or None for the whole body, a part of the reason).
BAD_BODIES: dict[str, tuple[bytes, str | None, str]] = {
    "a text for a number": (body(Glucose="130"), "Glucose", "must be a number"),
    "a truth value for a number": (body(Pregnancies=True), "Pregnancies", "must be a whole number"),
    "half a year": (body(Age=40.5), "Age", "must be a whole number"),
    "a list for a number": (body(BMI=[33.1]), "BMI", "must be a number"),
    "an object for a number": (body(BMI={"value": 33.1}), "BMI", "must be a number"),
    "null where null is not allowed": (body(Age=None), "Age", "must not be null"),
    "below the range": (body(Glucose=9.9), "Glucose", "between 10 and 1000 mg/dL, or 0 for missing"),
    "above the range": (body(Age=121), "Age", "between 1 and 120 years"),
    "negative": (body(BMI=-1), "BMI", "between 5 and 100"),
    "a huge whole number": (body(Glucose=10**30), "Glucose", "between 10 and 1000"),
    "an unknown field": (body(Insulin=80), "Insulin", "is not a feature of this model"),
    "a field in other letters": (body(age=40), "age", "is not a feature of this model"),
    "a field that is missing": (json.dumps({k: v for k, v in ROW.items() if k != "BMI"}).encode(), "BMI", "is missing"),
    "a field given twice": (body()[:-1] + b', "Age": 41}', "Age", "more than once"),
    "NaN": (body(Glucose=float("nan")), None, "NaN"),
    "Infinity": (body(Glucose=float("inf")), None, "Infinity"),
    "a number beyond all floats": (body().replace(b"130.5", b"1e999"), None, "out of range"),
    "a number of 5,000 digits": (body().replace(b"130.5", b"9" * 5000), None, "out of range"),
    "nothing": (b"", None, "empty"),
    "white space": (b" \n\t ", None, "empty"),
    "null": (b"null", None, "Expected `object`, got `null`"),
    "a list": (b"[" + body() + b"]", None, "Expected `object`, got `array`"),
    "a text": (b'"Glucose"', None, "Expected `object`, got `str`"),
    "half an object": (body()[:-5], None, "JSON"),
    "two objects": (body() + body(), None, "trailing characters"),
    "single quotes": (body().replace(b'"', b"'"), None, "JSON"),
    "a comment": (b"/* hello */" + body(), None, "JSON"),
    "a form": (b"Glucose=130.5&Age=40", None, "JSON"),
    "UTF-16": (body().decode().encode("utf-16"), None, "JSON"),
    "a byte-order mark": (b"\xef\xbb\xbf" + body(), None, "JSON"),
    "Latin-1": ('{"Größe": 1}'.encode("latin-1"), None, "UTF-8"),
    "a lone surrogate": (b'{"\\ud800": 1}', None, "JSON"),
    "an open bracket, often": (b"[" * 60_000, None, "object"),
    "an object in an object, often": (b'{"a":' * 10_000, None, "nested too deeply"),
    "zeros": (b"\0" * 100, None, "JSON"),
}
