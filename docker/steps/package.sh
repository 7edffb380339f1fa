#!/bin/bash
# viewgen itself into an environment that has its dependencies: package.sh SOURCE VENV
set -euo pipefail
source=$1 venv=$2
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT
"$venv/bin/pip" wheel --disable-pip-version-check --quiet --no-deps --no-build-isolation --wheel-dir "$build" "$source"
"$venv/bin/pip" install --disable-pip-version-check --quiet --no-deps --no-cache-dir "$build"/viewgen-*.whl
"$venv/bin/viewgen" --version
