"""The FHIR R4 door: Observations, DiagnosticReports and Bundles in JSON, each result a reported outcome."""

from driftloop.label_ingest.reports import MAX_ITEMS

ROOT = "/fhir"
MEDIA_TYPE = "application/fhir+json"
FHIR_VERSION = "4.0.1"
# A Bundle has the patients and orders of its results beside them.
MAX_ENTRIES = 3 * MAX_ITEMS
