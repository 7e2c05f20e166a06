# What `cmake --install` writes: library, headers, tools, and how CMake (find_package) and pkg-config find them.
include(CMakePackageConfigHelpers)

install(FILES include/edgeprune.h include/edgeprune.hpp DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS edgeprune EXPORT edgeprune
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
foreach(plugin_or_tool edgeprune_tensorrt edgeprune-verify edgeprune-run edgeprune-bench)
  if(TARGET ${plugin_or_tool})
    install(TARGETS ${plugin_or_tool}
      LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  endif()
endforeach()

set(PACKAGE ${CMAKE_INSTALL_LIBDIR}/cmake/edgeprune)
install(EXPORT edgeprune NAMESPACE edgeprune:: FILE edgepruneTargets.cmake DESTINATION ${PACKAGE})
configure_package_config_file(cmake/edgepruneConfig.cmake.in edgepruneConfig.cmake INSTALL_DESTINATION ${PACKAGE})
write_basic_package_version_file(edgepruneConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/edgepruneConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/edgepruneConfigVersion.cmake
  DESTINATION ${PACKAGE})

# from the folder of the .pc to the prefix, so that an installation can be moved
file(RELATIVE_PATH UP ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
configure_file(cmake/edgeprune.pc.in edgeprune.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/edgeprune.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
