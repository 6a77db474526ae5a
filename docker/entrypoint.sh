#!/bin/sh
# Serves the bundle of UNIPINREC_BUNDLE; arguments are passed on to `unipinrec serve`. The launcher takes this
# shell's place, so that the SIGTERM of a stop reaches it.
set -eu
exec python -m commands.serve \
    --address "${UNIPINREC_ADDRESS:-0.0.0.0}" \
    --http-port "${UNIPINREC_HTTP_PORT:-8000}" \
    --grpc-port "${UNIPINREC_GRPC_PORT:-8001}" \
    --metrics-port "${UNIPINREC_METRICS_PORT:-8002}" \
    --health-port "${UNIPINREC_HEALTH_PORT:-8003}" \
    --log "${UNIPINREC_LOG:-/tmp/server.log}" \
    "$@"
