# The bundles that releases stored, through the tools: under sanitizers and in the emulator, where Python is not. In a clone,
# and where EDGEPRUNE_ONNXRUNTIME named a library when this was configured.
file(GLOB STORED ${PROJECT_SOURCE_DIR}/../../tests/golden/bundle-*)
if(NOT DEFINED ENV{EDGEPRUNE_ONNXRUNTIME} OR NOT EDGEPRUNE_TOOLS)
  return()
endif()

set(ENVIRONMENT EDGEPRUNE_ONNXRUNTIME=$ENV{EDGEPRUNE_ONNXRUNTIME} WATCHED_ONNXRUNTIME=$ENV{EDGEPRUNE_ONNXRUNTIME})
file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/photo.ppm "P6\n2 2\n255\nabcdefghijkl")
foreach(bundle ${STORED})
  get_filename_component(name ${bundle} NAME)
  add_test(NAME verify_${name} COMMAND edgeprune-verify ${bundle} --device cpu)
  add_test(NAME run_${name} COMMAND edgeprune-run ${bundle} photo.ppm --device cpu --output ${name}.safetensors)
  add_test(NAME bench_${name} COMMAND edgeprune-bench ${bundle} --rounds 2)
  add_test(NAME steady_${name} COMMAND test_steady ${bundle} $<TARGET_FILE:watched_onnxruntime> 20)
  set_tests_properties(verify_${name} run_${name} bench_${name} steady_${name} PROPERTIES ENVIRONMENT "${ENVIRONMENT}")
  # AddressSanitizer keeps what was freed, 256 MB of it, which looks like a leak to a test that weighs the process.
  set_property(TEST steady_${name} APPEND PROPERTY ENVIRONMENT ASAN_OPTIONS=quarantine_size_mb=1)
  if(EDGEPRUNE_EXAMPLES)
    add_test(NAME camera_${name} COMMAND edgeprune-camera ${bundle} photo.ppm --every)
    set_tests_properties(camera_${name} PROPERTIES ENVIRONMENT "${ENVIRONMENT}")
  endif()
endforeach()
