#!/usr/bin/env bash
# Whether libedgeprune can be built here. Headers of ONNX Runtime that are missing are fetched into FOLDER, where given.
#
#     ready.sh [FOLDER]
#
# Exit codes: 0 it can, 1 it cannot, and one line says what is missing.
set -euo pipefail

compiler=${CXX:-c++}
missing=()
command -v cmake > /dev/null || missing+=(cmake)
if ! command -v "$compiler" > /dev/null; then
    missing+=("g++ 9 or clang++ 10")
else
    needed=$("$compiler" -std=c++17 -E -P -x c++ - 2> /dev/null << 'END' || echo "a compiler of C++17"
#if !__has_include(<nlohmann/json.hpp>)
nlohmann-json3-dev
#endif
#if !__has_include(<openssl/evp.h>)
libssl-dev
#endif
END
    )
    while read -r one; do [[ ! $one ]] || missing+=("$one"); done <<< "$needed"
fi
if ((${#missing[@]})); then
    printf -v list ', %s' "${missing[@]}"
    echo "edgeprune: the C library needs ${list:2}; apt-get install cmake g++ nlohmann-json3-dev libssl-dev" >&2
    exit 1
fi
[[ ! ${1:-} ]] || bash "$(dirname "$0")/headers.sh" "$1"
