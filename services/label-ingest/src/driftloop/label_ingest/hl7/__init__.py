"""HL7 v2 over MLLP: laboratories send ORU^R01, and are told AA when every result of it is committed."""
