"""Events and envelopes survive the way through bytes; what is no event is refused without telling its values."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from driftloop.common.envelope import (
    OUR_HEADERS,
    Envelope,
    Outgoing,
    UndecodableMessage,
    decode_all,
    decode_envelope,
    decode_event,
    encode_event,
)
from driftloop.common.events import (
    EVENT_TYPES,
    ArtifactRef,
    Bin,
    Canary,
    DriftDetected,
    DriftedFeature,
    Event,
    Evidence,
    LabelRetracted,
    ModelStatus,
    ModelUpdated,
    OutcomeReported,
    PredictionLabeled,
    PredictionMade,
    ServedVersion,
    ShadowScore,
    SubjectErased,
    json_schema,
    type_name,
)
from driftloop.common.topics import OUTCOMES, PREDICTIONS

offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
instants = st.datetimes(datetime(2, 1, 1), datetime(9998, 12, 31), timezones=st.one_of(st.just(UTC), offsets))
names = st.text("abzAZ09._:/-", min_size=1, max_size=30)
ids = st.text("abzAZ09._:-", min_size=1, max_size=30)
versions = st.integers(1, 2**31 - 1)
shares = st.floats(0, 1)
finite = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=50)
values = st.one_of(st.none(), finite, st.integers(-(2**63), 2**63 - 1), text)
features = st.dictionaries(text, values, max_size=5)
severities = st.sampled_from(["GOOD", "WARNING", "CRITICAL"])
variants = st.sampled_from(["champion", "canary"])
shadows = st.lists(
    st.builds(ShadowScore, model_version=versions, score=shares, prediction=st.booleans()), max_size=8
).map(tuple)
labels = st.integers(0, 1)
artifacts = st.builds(
    ArtifactRef, uri=text, sha256=st.text("0f", min_size=64, max_size=64), signature=text, key_id=text
)

events: st.SearchStrategy[Event] = st.one_of(
    st.builds(
        PredictionMade,
        prediction_id=ids, model_name=names, model_version=versions, revision=versions, predicted_at=instants,
        features=features, score=shares, prediction=st.booleans(), variant=variants, subject=st.none() | text,
        shadows=shadows, repeatable_until=st.none() | instants, order=st.none() | text,
    ),
    st.builds(
        OutcomeReported,
        prediction_id=st.none() | ids, label=st.none() | labels, result_id=st.none() | text, result_version=versions,
        observed_at=st.none() | instants, order_id=st.none() | st.text(min_size=1, max_size=9),
        value=st.none() | finite, reported_at=st.none() | instants, source=st.none() | text,
    ),
    st.builds(
        PredictionLabeled,
        prediction_id=ids, model_name=names, model_version=versions, predicted_at=instants, features=features,
        score=shares, prediction=st.booleans(), variant=variants, label=labels, previous_label=st.none() | labels,
        label_revision=versions, labeled_at=instants, subject=st.none() | text, shadows=shadows,
        policy_version=st.none() | versions, delay_seconds=st.none() | finite,
    ),
    st.builds(
        LabelRetracted,
        prediction_id=ids, model_name=names, model_version=versions, predicted_at=instants, score=shares,
        prediction=st.booleans(), variant=variants, previous_label=labels, label_revision=versions,
        retracted_at=instants, subject=st.none() | text,
    ),
    st.builds(
        SubjectErased, subject=st.text(min_size=1, max_size=9), erased_at=instants, predictions=st.integers(0, 9)
    ),
    st.builds(
        DriftDetected,
        model_name=names, model_version=versions, change=st.sampled_from(["opened", "cleared"]), severity=severities,
        verdict=severities, window_start=instants, window_end=instants, detected_at=instants,
        features=st.lists(
            st.builds(
                DriftedFeature, name=text, severity=severities, raw_severity=severities, statistic=finite, p=finite,
                psi=finite, n=st.integers(0, 2**40), psi_critical=st.none() | finite, at=st.none() | finite,
                bins=st.lists(
                    st.builds(Bin, bound=finite | text, reference=st.integers(0, 9), window=st.integers(0, 9)),
                    max_size=3,
                ).map(tuple),
            ),
            max_size=3,
        ).map(tuple),
        changed_since=st.none() | instants, reason=text, attribution=text, explanation=text, proven=st.booleans(),
        signals=st.lists(st.builds(Evidence, name=text, severity=severities, numbers=features), max_size=2).map(tuple),
        retraining_blocked=st.booleans(), closes=st.none() | text, window=st.none() | versions,
    ),
    st.builds(
        ModelUpdated,
        model_name=names, revision=versions, decided_at=instants, champion=versions,
        canary=st.none() | st.builds(Canary, version=versions, weight=shares), shadow=st.none() | versions,
        versions=st.lists(st.builds(ServedVersion, version=versions, artifact=artifacts), max_size=3).map(tuple),
        reason=text,
    ),
    st.builds(
        ModelStatus,
        model_name=names, replica=names, revision=st.integers(0, 99), model_version=st.integers(0, 99), since=instants,
        reported_at=instants, error=st.none() | text, refused_revision=st.none() | st.integers(0, 99),
    ),
)  # fmt: skip


def refusal(kind: str, value: bytes | None) -> UndecodableMessage | None:
    """Why a value is no event of this type, or None if it is one. Anything else that is raised fails the test."""
    try:
        assert isinstance(decode_event(kind, value), EVENT_TYPES[kind])
    except UndecodableMessage as refused:
        return refused
    return None


@given(events)
def test_an_event_comes_back_as_it_was(event: Event) -> None:
    assert decode_event(type_name(type(event)), encode_event(event)) == event


def test_every_event_type_is_tried_and_named() -> None:
    assert set(EVENT_TYPES) == {
        "driftloop.PredictionMade", "driftloop.OutcomeReported", "driftloop.PredictionLabeled",
        "driftloop.LabelRetracted", "driftloop.SubjectErased",
        "driftloop.DriftDetected", "driftloop.ModelUpdated", "driftloop.ModelStatus",
    }  # fmt: skip


@given(events, st.dictionaries(st.text("xyz", min_size=1, max_size=5), st.none() | st.booleans() | text, max_size=3))
def test_fields_that_a_consumer_does_not_know_are_accepted(event: Event, more: dict[str, object]) -> None:
    document = msgspec.json.decode(encode_event(event) or b"")
    assert decode_event(type_name(type(event)), msgspec.json.encode(document | more)) == event


@given(events)
def test_every_event_has_a_published_schema_with_its_fields(event: Event) -> None:
    schema = json_schema(type(event))
    properties = schema["$defs"][type(event).__name__]["properties"]
    assert set(properties) == set(type(event).__struct_fields__)


@given(st.sampled_from(sorted(EVENT_TYPES)), st.binary(max_size=200))
def test_bytes_are_an_event_or_undecodable_and_nothing_else(kind: str, value: bytes) -> None:
    refused = refusal(kind, value)
    assert refused is None or refused.stage in ("value", "schema")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)


@given(events, st.data())
def test_a_field_with_another_value_is_an_event_or_undecodable_and_nothing_else(
    event: Event, data: st.DataObject
) -> None:
    document = msgspec.json.decode(encode_event(event) or b"")
    document[data.draw(st.sampled_from(sorted(document)))] = data.draw(json_values)
    refused = refusal(type_name(type(event)), msgspec.json.encode(document))
    assert refused is None or refused.stage == "schema"


MARK = "Mrs Example' - at `$.born`"


@given(events, st.data())
def test_a_refusal_tells_the_field_and_never_the_value(event: Event, data: st.DataObject) -> None:
    document = msgspec.json.decode(encode_event(event) or b"")
    field = data.draw(st.sampled_from(sorted(document)))
    document[field] = data.draw(st.sampled_from([MARK, [MARK], {MARK: MARK}, {"a": {MARK: [MARK]}}]))
    refused = refusal(type_name(type(event)), msgspec.json.encode(document))
    if refused is not None:
        assert "Example" not in refused.reason
        assert "born" not in refused.reason
        assert f"$.{field}" in refused.reason


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_that_not_every_time_zone_can_say_is_refused(time: str) -> None:
    value = f'{{"prediction_id": "p", "label": 1, "observed_at": "{time}"}}'.encode()
    with pytest.raises(UndecodableMessage, match=r"\$\.observed_at"):
        decode_event("driftloop.OutcomeReported", value)


def test_a_number_with_more_digits_than_arrays_can_hold_is_refused() -> None:
    document = msgspec.json.decode(encode_event(example()) or b"") | {"features": {"x": 7}}
    value = msgspec.json.encode(document).replace(b"7}", b"7" * 400 + b"}")
    with pytest.raises(UndecodableMessage, match=r"\$\.features"):
        decode_event("driftloop.PredictionMade", value)


def example() -> PredictionMade:
    return PredictionMade(
        prediction_id="p", model_name="m", model_version=1, revision=1, predicted_at=datetime(2026, 1, 1, tzinfo=UTC),
        features={}, score=0.5, prediction=True,
    )  # fmt: skip


# --- envelopes

headers_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=500)


envelopes = st.builds(
    Envelope,
    id=headers_text,
    source=headers_text.filter(bool),
    type=st.just("driftloop.PredictionMade"),
    time=instants,
    sequence=st.none() | st.integers(0, 10**18 - 1),
    traceparent=st.none() | st.just("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
)


@given(envelopes)
def test_an_envelope_comes_back_as_it_was(envelope: Envelope) -> None:
    assert decode_envelope(dict(envelope.headers()), PREDICTIONS.events) == envelope


@given(st.dictionaries(st.sampled_from([
    "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_sequence", "content-type", "traceparent", "ce_x",
]), st.binary(max_size=40) | st.text(max_size=40).map(lambda text: text.encode(errors="surrogatepass"))))  # fmt: skip
def test_headers_are_an_envelope_or_undecodable_and_nothing_else(headers: dict[str, bytes]) -> None:
    with suppress(UndecodableMessage):
        assert decode_envelope(headers, PREDICTIONS.events).time.utcoffset() == timedelta(0)


def test_the_headers_are_those_of_cloudevents() -> None:
    time = datetime(2026, 3, 1, 13, tzinfo=timezone(timedelta(hours=1)))
    outgoing = Outgoing("predictions", "key", example(), "an id", time)
    assert dict(outgoing.headers("a source", 7)) == {
        "ce_specversion": b"1.0", "ce_id": b"an id", "ce_source": b"a source", "ce_type": b"driftloop.PredictionMade",
        "ce_time": b"2026-03-01T12:00:00Z", "content-type": b"application/json", "ce_sequence": b"7",
    }  # fmt: skip


def test_our_headers_are_those_that_are_written() -> None:
    envelope = Envelope("i", "s", "t", datetime(2026, 3, 1, tzinfo=UTC), 7, "00-" + "1" * 32 + "-" + "2" * 16 + "-01")
    assert tuple(name for name, _ in envelope.headers()) == OUR_HEADERS


def test_a_bare_record_is_the_topics_first_event() -> None:
    envelope = decode_envelope({}, OUTCOMES.events)
    assert (envelope.type, envelope.id, envelope.source, envelope.sequence) == (
        "driftloop.OutcomeReported", "", "", None,
    )  # fmt: skip


def test_a_number_without_a_source_does_not_count() -> None:
    assert decode_envelope({"ce_sequence": b"7"}, OUTCOMES.events).sequence is None


def test_a_trace_context_that_is_none_is_left_out() -> None:
    assert decode_envelope({"traceparent": b"00-\0"}, OUTCOMES.events).traceparent is None


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"ce_type": b"driftloop.PredictionMade"}, "ce_type is not one of"),
        ({"ce_type": b"\xff"}, "not UTF-8"),
        ({"ce_specversion": b"0.3"}, "ce_specversion is not 1.0"),
        ({"ce_time": b"2026-03-01T12:00:00"}, "no offset"),
        ({"ce_time": b"yesterday"}, "RFC 3339"),
        ({"ce_time": b"0001-01-01T00:00:00+14:00"}, "no neighbours"),
        ({"ce_source": b"s", "ce_sequence": b"-1"}, "ce_sequence"),
        ({"ce_source": b"s", "ce_sequence": b"1_000"}, "ce_sequence"),
        ({"ce_source": b"s", "ce_sequence": b"9" * 5_000}, "ce_sequence"),
        ({"ce_source": b"s", "ce_sequence": "٣".encode()}, "ce_sequence"),
        ({"ce_source": b"s" * 501}, "ce_source is longer"),
        ({"ce_id": b"a\0b"}, "ce_id"),
    ],
)
def test_headers_that_cannot_be_meant_are_refused(headers: dict[str, bytes], reason: str) -> None:
    with pytest.raises(UndecodableMessage, match=reason):
        decode_envelope(headers, OUTCOMES.events)


def test_a_tombstone_has_no_value() -> None:
    assert encode_event(None) is None
    with pytest.raises(UndecodableMessage, match="empty"):
        decode_event("driftloop.PredictionMade", None)


# --- many at once

Raw = tuple[dict[str, bytes], bytes | None]


def raw(event: Event, envelope: Envelope) -> Raw:
    """A record's headers and value, as one of our producers writes them."""
    envelope = msgspec.structs.replace(envelope, type=type_name(type(event)), time=envelope.time.astimezone(UTC))
    return dict(envelope.headers()), encode_event(event)


def one_by_one(records: list[Raw], accepted: Sequence[type[Event]]) -> list[tuple[Envelope, Event]]:
    found = [decode_envelope(headers, accepted) for headers, _ in records]
    return [(one, decode_event(one.type, value)) for one, (_, value) in zip(found, records, strict=True)]


def at_once(records: list[Raw], accepted: Sequence[type[Event]]) -> list[tuple[Envelope, Event]] | None:
    if any(tuple(headers) != OUR_HEADERS[: len(headers)] for headers, _ in records):
        return None
    found = decode_all([tuple(headers.values()) for headers, _ in records], [value for _, value in records], accepted)
    return None if found is None else list(zip(*found, strict=True))


numbered = st.builds(msgspec.structs.replace, envelopes, sequence=st.integers(0, 10**18 - 1))
traces = st.sampled_from([None, "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "no trace"])


@given(st.lists(st.tuples(events, numbered), min_size=1, max_size=5), traces)
def test_what_our_producers_write_is_read_at_once_as_one_by_one(
    found: list[tuple[Event, Envelope]], trace: str | None
) -> None:
    records = [raw(event, msgspec.structs.replace(envelope, traceparent=trace)) for event, envelope in found]
    accepted = list(EVENT_TYPES.values())
    assert at_once(records, accepted) == one_by_one(records, accepted)


header_names = st.sampled_from(["ce_x", *OUR_HEADERS])
spoiled_values = st.sampled_from(
    [
        b"", b"\xff", b"0", b"-1", b" 7", "٣".encode(), b"9" * 19, b"s" * 501, b"a\0b", b"0.3",
        b"2026-03-01T12:00:00", b"2026-03-01T12:00:00+01:00", b"0001-01-01T00:00:00Z", b"9999-12-31T00:00:00Z",
        b"driftloop.PredictionLabeled",
    ]
)  # fmt: skip
spoiled_events = st.sampled_from(
    [
        None, b"", b"no JSON", b"\xff", b"{}", b"[" * 100_000,
        (encode_event(example()) or b"").replace(b"2026", b"0001"),
        (encode_event(example()) or b"").replace(b"2026", b"9999"),
    ]
)  # fmt: skip


@given(st.lists(numbered, min_size=1, max_size=5), st.integers(0, 4), st.data())
def test_whatever_one_record_holds_it_is_read_as_by_itself_or_there_is_doubt(
    found: list[Envelope], index: int, data: st.DataObject
) -> None:
    records = [raw(example(), envelope) for envelope in found]
    headers, value = records[index % len(records)]
    if data.draw(st.booleans()):
        headers[data.draw(header_names)] = data.draw(spoiled_values)
    elif data.draw(st.booleans()):
        headers.pop(data.draw(header_names), None)
    else:
        value = data.draw(spoiled_events)
    records[index % len(records)] = headers, value
    try:
        expected = one_by_one(records, PREDICTIONS.events)
    except UndecodableMessage:
        assert at_once(records, PREDICTIONS.events) is None
    else:
        assert at_once(records, PREDICTIONS.events) in (None, expected)
