"""The FHIR R4 door: Observations, DiagnosticReports and Bundles in JSON, each result a reported outcome."""

ROOT = "/fhir"
MEDIA_TYPE = "application/fhir+json"
FHIR_VERSION = "4.0.1"
# In one request; they are taken in one transaction.
MAX_RESULTS = 1000
# A Bundle has the patients and orders of its results beside them.
MAX_ENTRIES = 3 * MAX_RESULTS
