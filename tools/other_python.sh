#!/usr/bin/env bash
# Makes an environment with another Python in which the simulator runs, for tests/scenarios/test_other_pythons.py:
#     bash tools/other_python.sh [FOLDER]
# FOLDER is .venv/other unless it is named. The newest of python3.12 and later is taken that is on PATH or that pyenv has. Without
# any the script says so and ends well: the test is skipped then. Libraries are of the versions that .venv has.
set -euo pipefail
folder=${1:-.venv/other}
shopt -s nullglob
found=""
for minor in 12 13 14 15; do
    for python in "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3."$minor".*/bin/python3 $(command -v python3."$minor" || true); do
        if "$python" -c "import venv" 2>/dev/null; then found=$python; fi
    done
done
if [ -z "$found" ]; then
    echo "no Python from 3.12 on is on PATH or in pyenv: that simulations are the same on another version is not tested"
    exit 0
fi
echo "another Python: $found"
"$found" -m venv --clear "$folder"
.venv/bin/pip freeze --exclude-editable --disable-pip-version-check >"$folder/versions.txt"
"$folder/bin/pip" install --quiet --disable-pip-version-check --constraint "$folder/versions.txt" \
    msgspec numpy xxhash typer rich pyyaml
