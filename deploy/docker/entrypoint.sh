#!/bin/sh
# Run `earshot` with the arguments of the container. The database's URL may contain a password, so it can come from a
# file that EARSHOT_DATABASE_URL_FILE names, as with PostgreSQL's own image.
set -eu
if [ -n "${EARSHOT_DATABASE_URL_FILE:-}" ]; then
    EARSHOT_DATABASE_URL="$(cat "$EARSHOT_DATABASE_URL_FILE")"
    export EARSHOT_DATABASE_URL
    unset EARSHOT_DATABASE_URL_FILE
fi
exec earshot "$@"
