#!/usr/bin/env bash
# The night's work for the models that are named: every one is looked at, whatever becomes of the others.
# The file that DRIFTLOOP_OPERATOR_KEY_FILE names has an API key of scope admin, and belongs to cron's user alone.
set -uo pipefail
: "${DRIFTLOOP_MONITOR_URL:?}" "${DRIFTLOOP_TRAINER_URL:?}" "${DRIFTLOOP_OPERATOR_KEY_FILE:?}"
[ $# -gt 0 ] || { echo "usage: $0 MODEL ..." >&2; exit 2; }
status=0
for model in "$@"; do
    python3 "$(dirname "$0")/driftloop_nightly.py" --model "$model" --key-file "$DRIFTLOOP_OPERATOR_KEY_FILE" \
        --seconds "${DRIFTLOOP_SECONDS:-3600}" || status=1
done
exit $status
