#!/usr/bin/env bash
# Makes a virtual environment with everything that serving needs. Usage: [PYTHON=python3.11] tools/install.sh VENV
# EXTRAS=torch,dev: what else is installed (default: torch). EVERY_S=5: seconds between lines of progress.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:?usage: tools/install.sh VENV}
python=${PYTHON:-python3}
extras=${EXTRAS:-torch}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "jedlik needs Python 3.11 or newer, and $python is $("$python" --version 2>&1 || echo not there)." >&2
    echo "Install one and say which: make install PYTHON=python3.11" >&2
    exit 1
fi
if [ ! -x "$venv/bin/python" ] && ! "$python" -m venv "$venv"; then
    rm -rf "$venv"
    echo "$python cannot make virtual environments: install its venv package (Debian, Ubuntu: python3-venv)." >&2
    exit 1
fi

# Runs pip quietly, and says every few seconds how long it has been at it and how large the environment has become:
# what is being downloaded is kept in it meanwhile.
pip_install() {
    said=0
    downloads=$(mktemp -d "$(realpath "$venv")/downloads.XXXXXX")
    TMPDIR=$downloads "$venv/bin/python" -m pip --disable-pip-version-check install --quiet --progress-bar off "$@" &
    pip=$!
    trap 'kill "$pip" 2>/dev/null || true; rm -rf "$downloads"' EXIT
    while kill -0 "$pip" 2>/dev/null; do
        sleep 0.2
        if ((SECONDS - said >= ${EVERY_S:-5})); then
            said=$SECONDS
            size=$(du -sm "$venv" 2>/dev/null | cut -f1) || true
            echo "  installing: $SECONDS s, $size MB in $venv"
        fi
    done
    wait "$pip"
    rm -rf "$downloads"
    trap - EXIT
}

if [ "$extras" = torch ]; then
    if [ -e /proc/driver/nvidia ] || command -v nvidia-smi >/dev/null; then
        echo "NVIDIA GPU found. To be downloaded: PyTorch with CUDA, about 3 GB, and about 100 MB of other packages."
    else
        echo "No NVIDIA GPU found. To be downloaded: torch==2.13.0, about 200 MB where pip's index has CPU builds (the"
        echo "default index may bring CUDA libraries of about 3 GB with it), and about 100 MB of other packages."
        # Exactly this spelling: an index with CPU builds answers any other with CUDA's.
        pip_install "torch==2.13.0"
    fi
fi
pip_install -e ".[$extras]"
if [ "$extras" = torch ]; then
    echo "Installed in $venv after $SECONDS s. The demo model (89 MB) is fetched at the first start."
fi
