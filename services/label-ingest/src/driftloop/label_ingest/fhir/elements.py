"""The elements of FHIR R4 that this door reads, by FHIR's names; all others are passed over.

Codes are read as plain texts and looked up later: a decoder's error would quote what stands there.
"""

from typing import Annotated, Any, TypeVar

import msgspec

T = TypeVar("T")
# More than anybody has, and few enough to be looked through again for each result.
Few = Annotated[tuple[T, ...], msgspec.Meta(max_length=100)]


class Element(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A value of a FHIR type."""


class Coding(Element, frozen=True, kw_only=True):
    """One code of one system."""

    system: str | None = None
    code: str | None = None


class CodeableConcept(Element, frozen=True, kw_only=True):
    """The same said in several code systems."""

    coding: Few[Coding] = ()


class Identifier(Element, frozen=True, kw_only=True):
    """A name from somebody's own books."""

    use: str | None = None
    type: CodeableConcept | None = None
    system: str | None = None
    value: str | None = None


class Reference(Element, frozen=True, kw_only=True):
    """Names another resource by its address, or by one of its identifiers."""

    reference: str | None = None
    identifier: Identifier | None = None
    display: str | None = None


class Meta(Element, frozen=True, kw_only=True):
    """What a server says of a resource."""

    version_id: str | None = None
    source: str | None = None


class Quantity(Element, frozen=True, kw_only=True):
    """A number with its unit; `comparator` stands before one that is only a bound."""

    value: float | None = None
    comparator: str | None = None
    unit: str | None = None
    system: str | None = None
    code: str | None = None


class Period(Element, frozen=True, kw_only=True):
    """A time with its end, if it has one."""

    end: str | None = None


class Resource(Element, frozen=True, kw_only=True):
    """What every resource has. `contained` ones are decoded when it is known which they are."""

    resource_type: str
    id: str | None = None
    meta: Meta | None = None
    contained: tuple[msgspec.Raw, ...] = ()


class Named(Resource, frozen=True, kw_only=True):
    """A resource that is read for its identifiers only: a Patient, a ServiceRequest."""

    identifier: Few[Identifier] = ()


class Specimen(Resource, frozen=True, kw_only=True):
    """What was taken from a patient; the laboratory knows it by its accession number."""

    accession_identifier: Identifier | None = None


class Report(Resource, frozen=True, kw_only=True):
    """What an Observation and a DiagnosticReport have in common: when, of whom, for which order."""

    identifier: Few[Identifier] = ()
    based_on: Few[Reference] = ()
    status: str | None = None
    subject: Reference | None = None
    effective_date_time: str | None = None
    effective_instant: str | None = None
    effective_period: Period | None = None
    issued: str | None = None


class Component(Element, frozen=True, kw_only=True):
    """A part of a result: a code, and at most one value."""

    code: CodeableConcept | None = None
    value_quantity: Quantity | None = None
    value_boolean: bool | None = None
    value_codeable_concept: Any = None
    value_string: Any = None
    value_integer: Any = None
    value_range: Any = None
    value_ratio: Any = None
    value_sampled_data: Any = None
    value_time: Any = None
    value_date_time: Any = None
    value_period: Any = None
    data_absent_reason: Any = None


class Observation(Report, frozen=True, kw_only=True):
    """One result: what it is of, and at most one value, or components that have one each."""

    specimen: Reference | None = None
    component: Few[Component] = ()
    # As in Component: a struct has one base.
    code: CodeableConcept | None = None
    value_quantity: Quantity | None = None
    value_boolean: bool | None = None
    value_codeable_concept: Any = None
    value_string: Any = None
    value_integer: Any = None
    value_range: Any = None
    value_ratio: Any = None
    value_sampled_data: Any = None
    value_time: Any = None
    value_date_time: Any = None
    value_period: Any = None
    data_absent_reason: Any = None


class DiagnosticReport(Report, frozen=True, kw_only=True):
    """Several results of one examination."""

    specimen: Few[Reference] = ()
    result: tuple[Reference, ...] = ()


class EntryRequest(Element, frozen=True, kw_only=True):
    """What is to be done with an entry's resource."""

    method: str
    url: str
    if_none_exist: str | None = None


class Entry(Element, frozen=True, kw_only=True):
    """One resource of a Bundle, and what is to be done with it."""

    full_url: str | None = None
    resource: msgspec.Raw = msgspec.Raw()
    request: EntryRequest | None = None


class Bundle(Resource, frozen=True, kw_only=True):
    """Several resources in one request. Each entry is decoded by itself: a bad one must not cost the others."""

    type: str
    entry: tuple[msgspec.Raw, ...] = ()
