"""A body is read exactly or refused; the ids of a patient and of an order are taken out of it."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.rows import InvalidRow
from driftloop.predictor.body import IDENTIFIERS, InvalidBody, read_body, take_identifier


def test_a_flat_object_is_read() -> None:
    assert read_body(b'{"a": 1, "b": 2.5, "c": "x", "d": null}') == {"a": 1, "b": 2.5, "c": "x", "d": None}


def test_an_empty_object_is_read() -> None:
    assert read_body(b"{}") == {}


@pytest.mark.parametrize("content", ['{"a": "x:y"}', '{"a:b": 1}', '{"a": "\\":\\"", "b": ":::"}', '{"a": {"b": 1}}'])
def test_colons_in_texts_are_no_fields(content: str) -> None:
    assert read_body(content.encode())


@pytest.mark.parametrize(
    "content", ['{"a": 1, "a": 1}', '{"a": "x:y", "a": 2}', '{"a": 1, "\\u0061": 2}', '{"a": "\\u003a", "a": 2}']
)
def test_a_field_given_twice_is_refused_and_named(content: str) -> None:
    with pytest.raises(InvalidRow) as refused:
        read_body(content.encode())
    assert [error.field for error in refused.value.errors] == ["a"]


@given(st.lists(st.tuples(st.text('ab:\\"é', max_size=2), st.text(':,{}"', max_size=3)), max_size=5))
def test_fields_are_refused_exactly_if_two_have_one_name(fields: list[tuple[str, str]]) -> None:
    def quoted(text: str) -> str:
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'

    content = "{" + ", ".join(f"{quoted(name)}: {quoted(value)}" for name, value in fields) + "}"
    if len({name for name, _value in fields}) == len(fields):
        assert read_body(content.encode()) == dict(fields)
    else:
        with pytest.raises(InvalidRow):
            read_body(content.encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        read_body(content)
    except (InvalidBody, InvalidRow):
        return


@pytest.mark.parametrize("name", IDENTIFIERS)
def test_an_identifier_is_taken_out(name: str) -> None:
    fields = {"a": 1, name: "MRN-1"}
    assert (take_identifier(fields, name), fields) == ("MRN-1", {"a": 1})


@pytest.mark.parametrize("name", IDENTIFIERS)
def test_a_refusal_of_an_identifier_does_not_hold_it(name: str) -> None:
    with pytest.raises(InvalidRow) as refused:
        take_identifier({name: "MRN-1" * 100}, name)
    assert "MRN-1" not in repr(refused.value.errors) + str(refused.value)


def test_a_body_full_of_one_name_is_refused_soon() -> None:
    names = b",".join([b'"a":1'] * 100_000)
    begun = time.monotonic()
    with pytest.raises(InvalidRow, match="a is given more than once"):
        read_body(b"{" + names + b"}")
    # Each name compared with each other would take minutes.
    assert time.monotonic() - begun < 30
