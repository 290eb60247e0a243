#!/usr/bin/env bash
# Makes a virtual environment with everything that serving needs. Usage: [PYTHON=python3.11] tools/install.sh VENV
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${1:?usage: tools/install.sh VENV}
python=${PYTHON:-python3}

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
pip=("$venv/bin/python" -m pip --disable-pip-version-check)

if [ -e /proc/driver/nvidia ] || command -v nvidia-smi >/dev/null; then
    echo "NVIDIA GPU found. To be downloaded: PyTorch with CUDA, about 3 GB, and about 100 MB of other packages."
else
    echo "No NVIDIA GPU found. To be downloaded: torch==2.13.0, about 200 MB where pip's index has CPU builds (the"
    echo "default index may bring CUDA libraries of about 3 GB with it), and about 100 MB of other packages."
    # Exactly this spelling: an index with CPU builds answers any other with CUDA's.
    "${pip[@]}" install --quiet --progress-bar off "torch==2.13.0"
fi
"${pip[@]}" install --quiet --progress-bar off -e '.[torch]'
echo "Installed in $venv. The demo model (89 MB) is fetched at the first start."
