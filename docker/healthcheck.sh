#!/bin/sh
# Says in one line whether real recommendations are answered in time; exits with 0 or 1. Triton's own health
# stays good when a node has died. Several are asked at once, so that instances of a node share them: one that is
# dead is met by most checks; what one misses, the next ones find.
set -eu
unipinrec-client health \
    --url "127.0.0.1:${UNIPINREC_GRPC_PORT:-8001}" \
    --timeout "${UNIPINREC_HEALTH_TIMEOUT_S:-5}" \
    --requests 4 || exit 1
