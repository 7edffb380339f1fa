#!/bin/bash
# A virtual environment with viewgen's dependencies, but without viewgen: its layer changes seldom.
# dependencies.sh SOURCE VENV cpu|cuda [EXTRA...]
set -euo pipefail
source=$1 venv=$2 device=$3
shift 3
case $device in
    # PyPI's torch is the CUDA build; it brings CUDA along, so the base image needs the driver only.
    cuda) index=() ;;
    cpu) index=(--index-url "${TORCH_CPU_INDEX:-https://download.pytorch.org/whl/cpu}") ;;
    *)
        echo "DEVICE is '$device'; expected cpu or cuda" >&2
        exit 2
        ;;
esac
python3 -m venv "$venv"
pip=("$venv/bin/pip" --disable-pip-version-check --no-cache-dir --quiet)
"${pip[@]}" install --constraint "$source/constraints.txt" setuptools
"${pip[@]}" install "${index[@]}" --constraint "$source/constraints.txt" torch torchvision
"$venv/bin/python" "$(dirname "$0")/requirements.py" "$source/pyproject.toml" "$@" > "$source/requirements.txt"
"${pip[@]}" install --constraint "$source/constraints.txt" --requirement "$source/requirements.txt"
find "$venv" -name __pycache__ -type d -prune -exec rm -rf {} +
