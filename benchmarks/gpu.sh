#!/usr/bin/env bash
# Everything that only a GPU can tell, in one go of 9 minutes, the most valuable first.
#
#     OUT=results bash benchmarks/gpu.sh              (on the machine with the GPU, after gpu_prepare.sh here)
#     OUT=results bash benchmarks/gpu.sh --dry-run    (is all there that it needs? Imports everything, measures nothing)
#     OUT=results DEVICE=cpu bash benchmarks/gpu.sh   (a rehearsal: small steps, and a benchmark of few steps)
#
# Each part has a time of its own, and what it wrote is in OUT when it ends; a part that fails stops no other. summary.txt
# says how each ended, logs.txt what they printed.
set -u
cd "$(dirname "$0")/.."
start=$SECONDS dry=${1:-}
if [ -n "$dry" ] && [ "$dry" != --dry-run ]; then
  echo "gpu.sh: there is no option $dry: it takes --dry-run" >&2
  exit 2
fi
device=${DEVICE:-cuda} out=${OUT:-gpu_results} whole=${SECONDS_IN_ALL:-525}
mkdir -p "$out"
out=$(cd "$out" && pwd)
: >"$out/summary.txt"
: >"$out/logs.txt"

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
# only what is missing: a package that is there is the one that this machine's torch was tried with
missing=$(python3 - <<'PYTHON'
import importlib.metadata
from pathlib import Path

def is_missing(name):
    try:
        return not importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return True


for wheel in sorted(Path(".gpu/wheels").glob("*.whl")):
    # pydantic goes with one release of its core alone
    if is_missing(wheel.name.split("-")[0].removesuffix("_core")):
        print(wheel)
PYTHON
)
if [ -n "$missing" ]; then
  # shellcheck disable=SC2086  # one word a wheel
  python3 -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$site" $missing || exit 1
fi
# results say which version of this package they are from
mkdir -p "$site/dense_teacher-0.dist-info"
sed -n 's/^version = "\(.*\)"/Metadata-Version: 2.1\nName: dense-teacher\nVersion: \1/p' pyproject.toml \
  >"$site/dense_teacher-0.dist-info/METADATA"
export PYTHONPATH="$PWD/src:$site" PYTHONUNBUFFERED=1 DENSETEACHER_RESULTS="$out"
export PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True # steps of different kinds in turns fragment the memory

part() { # part NAME PERCENT COMMAND...: at most this share of the time
  local name=$1 most=$((whole * $2 / 100)) begun=$SECONDS code
  shift 2
  if [ -n "$dry" ]; then
    set -- "$@" "$([ "$name" = tests ] && echo --collect-only || echo --help)"
  fi
  local left=$((whole - SECONDS + start))
  [ "$most" -le "$left" ] || most=$left
  if [ "$most" -lt 10 ]; then
    echo "$name: left out, there was no time" | tee -a "$out/summary.txt"
    return
  fi
  echo "== $name: $*" | tee -a "$out/logs.txt"
  timeout --kill-after=5 "$most" "$@" 2>&1 | tee -a "$out/logs.txt" | tail -n 40
  code=${PIPESTATUS[0]}
  case $code in
    0) echo "$name: done in $((SECONDS - begun)) s" ;;
    124 | 137) echo "$name: stopped after $((SECONDS - begun)) s" ;;
    *) echo "$name: failed with $code after $((SECONDS - begun)) s" ;;
  esac | tee -a "$out/summary.txt"
}

part versions 6 python3 -c 'import torch, torchvision, timm; print(torch.__version__, torchvision.__version__, timm.__version__,
torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU")'
part tests 17 python3 -m pytest -n 0 -rs tests/training/test_student_teacher.py tests/training/test_pretended_cuda.py
rounds=5
[ "$device" = cuda ] || rounds=1
# FCOS and RetinaNet, torchvision beside them, the strong views, the loader
part step 42 python3 benchmarks/step.py --device "$device" --rounds "$rounds"
part tricks 19 python3 benchmarks/tricks.py --device "$device" --rounds 3 --skip-compile
if [ -f benchmarks/real.py ] && [ -d .gpu/data/masks ] && [ -f .gpu/weights/backbone.safetensors ]; then
  few=()
  [ "$device" = cuda ] || few=(--set schedule.max_steps=4 --row Supervised)
  for seeds in 1 "1 2" "1 2 3"; do # results are written at a call's end, and a call goes on from what is there
    # shellcheck disable=SC2086  # one word a seed
    part "masks, seeds $seeds" 100 python3 benchmarks/real.py masks --seeds $seeds --jobs 1 --data .gpu/data \
      --weights .gpu/weights/backbone.safetensors --output "$site/runs" --set "runtime.device=$device" ${few[@]+"${few[@]}"}
  done
else
  echo "masks: left out, there is no benchmarks/real.py, .gpu/data/masks or .gpu/weights" | tee -a "$out/summary.txt"
fi
cat "$out/summary.txt"
