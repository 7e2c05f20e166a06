#!/usr/bin/env bash
# The headers of ONNX Runtime, where the machine has none: libonnxruntime-dev of a later release, unpacked into FOLDER.
#
#     headers.sh FOLDER && cmake -S runtime/cpp -B build -DEDGEPRUNE_ONNXRUNTIME_INCLUDE=FOLDER
#
# The library itself is opened at run time, and may be newer than the headers. Exit codes: those of packages.sh.
set -euo pipefail
[[ $# == 1 && $1 && ! -f $1 ]] || { echo "edgeprune: headers.sh takes one folder to make; headers.sh headers" >&2; exit 2; }

header=include/onnxruntime/onnxruntime_c_api.h
for root in /usr /usr/local "$1/usr"; do
    [[ ! -e $root/$header ]] || exit 0
done
bash "$(dirname "$0")/packages.sh" "$1" later "$(dpkg --print-architecture 2> /dev/null || uname -m)" \
    libonnxruntime-dev
