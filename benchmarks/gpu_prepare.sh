#!/usr/bin/env bash
# Collects in .gpu/ what benchmarks/gpu.sh needs on a machine without internet: wheels, images and weights.
#
#     bash benchmarks/gpu_prepare.sh [--python 3.12] [--data ../shared/data/masks] [--weights FILE.safetensors]
#
# Run it where pip can download; it prints the command for the machine with the GPU. That must be x86-64 Linux and have
# torch, torchvision and the large packages (SciPy, scikit-learn, matplotlib, huggingface-hub).
set -euo pipefail
cd "$(dirname "$0")/.."
python_version=3.12 data=../shared/data/masks weights=""
while [ $# -gt 0 ]; do
  case "$1" in
    --python) python_version=$2 ;;
    --data) data=$2 ;;
    --weights) weights=$2 ;;
    *) echo "gpu_prepare.sh: there is no option $1: it takes --python, --data and --weights" >&2 && exit 2 ;;
  esac
  shift 2
done
most_mib=60 # a lent machine is sent 64 MiB at most, this repository included

platforms=()
for glibc in 2_28 2_27 2_24 2_17; do platforms+=(--platform "manylinux_${glibc}_x86_64"); done
platforms+=(--platform manylinux2014_x86_64 --platform manylinux1_x86_64)
download() { # without dependencies: torch's would come along, gigabytes that the other machine has
  python3 -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version "$python_version" \
    "${platforms[@]}" --dest .gpu/wheels "$@"
}

rm -rf .gpu
mkdir -p .gpu/wheels
# gpu.sh installs those of them that are missing there
download annotated-doc annotated-types click execnet iniconfig jinja2 lightning-fabric lightning-utilities markdown-it-py \
  markupsafe mdurl packaging pluggy pycocotools pydantic pygments pytest pytest-timeout pytest-xdist pyyaml rich safetensors \
  shellingham timm typer typing-extensions typing-inspection
# pydantic goes with one release of its core alone
core=$(python3 - <<'PYTHON'
import re, zipfile
from pathlib import Path

(wheel,) = Path(".gpu/wheels").glob("pydantic-*.whl")
with zipfile.ZipFile(wheel) as opened:
    (name,) = (name for name in opened.namelist() if name.endswith(".dist-info/METADATA"))
    print(re.search(r"^Requires-Dist: (pydantic-core==[\w.]+)", opened.read(name).decode(), re.M)[1])
PYTHON
)
download "$core"

if [ -d "$data" ]; then
  mkdir -p .gpu/data && cp -r "$data" .gpu/data/masks
else
  echo "gpu_prepare.sh: there is no folder $data: the benchmark on photographs will be left out" >&2
fi
if [ -n "$weights" ]; then
  mkdir -p .gpu/weights && cp "$weights" .gpu/weights/backbone.safetensors
else
  echo "gpu_prepare.sh: without --weights the benchmark on photographs will be left out" >&2
fi

mib=$(du -sm .gpu | cut -f1)
[ "$mib" -le "$most_mib" ] || { echo "gpu_prepare.sh: .gpu has $mib MiB, more than the $most_mib that can be sent: give smaller data" >&2 && exit 1; }
echo "$mib MiB in .gpu. On the machine with the GPU, with .gpu beside this repository's files and OUT a folder for results:"
echo "  OUT=\$OUT bash benchmarks/gpu.sh"
