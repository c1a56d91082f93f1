#!/bin/sh
# `earshot` with the arguments of the container. The database's URL may hold a password, so that it may come as a file,
# as PostgreSQL's own image takes its password: EARSHOT_DATABASE_URL_FILE names it.
set -eu
if [ -n "${EARSHOT_DATABASE_URL_FILE:-}" ]; then
    EARSHOT_DATABASE_URL="$(cat "$EARSHOT_DATABASE_URL_FILE")"
    export EARSHOT_DATABASE_URL
    unset EARSHOT_DATABASE_URL_FILE
fi
exec earshot "$@"
