# ONNXRUNTIME_INCLUDE: the folder of onnxruntime_c_api.h. The library is not linked, so only the headers are looked for:
# by the path that was given (or the folder that headers.sh filled), in ONNX Runtime's own CMake package, in the system.
find_path(ONNXRUNTIME_INCLUDE onnxruntime_c_api.h
  PATHS ${EDGEPRUNE_ONNXRUNTIME_INCLUDE} NO_DEFAULT_PATH NO_CMAKE_FIND_ROOT_PATH
  PATH_SUFFIXES include onnxruntime include/onnxruntime usr/include/onnxruntime include/onnxruntime/core/session)
if(NOT ONNXRUNTIME_INCLUDE)
  find_package(onnxruntime CONFIG QUIET)
  if(TARGET onnxruntime::onnxruntime)
    get_target_property(ONNXRUNTIME_PACKAGE onnxruntime::onnxruntime INTERFACE_INCLUDE_DIRECTORIES)
  endif()
  find_path(ONNXRUNTIME_INCLUDE onnxruntime_c_api.h
    HINTS ${ONNXRUNTIME_PACKAGE}
    PATH_SUFFIXES onnxruntime onnxruntime/core/session)
endif()
if(ONNXRUNTIME_INCLUDE)
  file(STRINGS ${ONNXRUNTIME_INCLUDE}/onnxruntime_c_api.h ORT_API_LINE REGEX "^#define ORT_API_VERSION [0-9]+")
  string(REGEX MATCH "[0-9]+" ORT_API "${ORT_API_LINE}")
endif()
if(NOT ONNXRUNTIME_INCLUDE OR ORT_API LESS 19)
  if(ONNXRUNTIME_INCLUDE)
    set(FOUND "that of 1.${ORT_API} lies in ${ONNXRUNTIME_INCLUDE}")
  else()
    set(FOUND "none was found")
  endif()
  unset(ONNXRUNTIME_INCLUDE CACHE)
  message(FATAL_ERROR "edgeprune needs onnxruntime_c_api.h of ONNX Runtime 1.19 or later, and ${FOUND}: install "
    "libonnxruntime-dev, or run ${CMAKE_CURRENT_LIST_DIR}/headers.sh FOLDER, "
    "and give -DEDGEPRUNE_ONNXRUNTIME_INCLUDE=FOLDER")
endif()
