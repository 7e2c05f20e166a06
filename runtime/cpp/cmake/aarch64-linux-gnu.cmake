# For arm64 boards, by Debian's cross compiler (g++-aarch64-linux-gnu):
#
#   cmake -S runtime/cpp -B build -DCMAKE_TOOLCHAIN_FILE=$PWD/runtime/cpp/cmake/aarch64-linux-gnu.cmake -DEDGEPRUNE_SYSROOT=FOLDER
#
# EDGEPRUNE_SYSROOT: a folder with libcrypto and its headers for arm64, as packages.sh unpacks libssl-dev and libssl3.
# nlohmann-json and ONNX Runtime's headers are of no architecture, and are found as for this machine.
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
foreach(language C CXX)
  set(CMAKE_${language}_FLAGS_INIT "-isystem ${EDGEPRUNE_SYSROOT}/usr/include/aarch64-linux-gnu")
endforeach()
set(CMAKE_LIBRARY_ARCHITECTURE aarch64-linux-gnu)
list(APPEND CMAKE_TRY_COMPILE_PLATFORM_VARIABLES EDGEPRUNE_SYSROOT)

list(APPEND CMAKE_FIND_ROOT_PATH ${EDGEPRUNE_SYSROOT} /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE BOTH)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE BOTH)
