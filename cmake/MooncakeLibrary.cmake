# mooncake_library(NAME SRCS ... [TESTS ...] [DEPS ...] [PRIVATE_DEPS ...])
#
# One library per folder. DEPS name the neighbours below it (mooncake::base) and outside libraries; a
# neighbour that is not yet declared is an error, so the arrows between folders cannot form a cycle.
# TESTS become one executable, NAME_test, and one CTest entry.
include_guard()

function(mooncake_check_deps name)
  foreach(dep IN LISTS ARGN)
    if(dep MATCHES "^mooncake::" AND NOT TARGET ${dep})
      message(FATAL_ERROR "${name} depends on ${dep}, which is declared later or not at all")
    endif()
  endforeach()
endfunction()

function(mooncake_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;TESTS;DEPS;PRIVATE_DEPS" ${ARGN})
  mooncake_check_deps(${name} ${ARG_DEPS} ${ARG_PRIVATE_DEPS})
  add_library(mooncake_${name} STATIC ${ARG_SRCS})
  add_library(mooncake::${name} ALIAS mooncake_${name})
  target_link_libraries(mooncake_${name} PUBLIC mooncake_flags ${ARG_DEPS} PRIVATE ${ARG_PRIVATE_DEPS})
  target_precompile_headers(mooncake_${name} REUSE_FROM mooncake_pch)
  if(ARG_TESTS)
    mooncake_test(${name} SRCS ${ARG_TESTS} DEPS mooncake::${name} ${ARG_PRIVATE_DEPS})
  endif()
endfunction()

# mooncake_test(NAME SRCS ... DEPS ...): one executable, NAME_test, and one CTest entry. Libraries get theirs from TESTS;
# a test that needs more than its library does is declared by itself.
function(mooncake_test name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  if(NOT MOONCAKE_TESTS)
    return()
  endif()
  mooncake_check_deps(${name}_test ${ARG_DEPS})
  add_executable(${name}_test ${ARG_SRCS})
  target_link_libraries(${name}_test PRIVATE ${ARG_DEPS} mooncake_test_main GTest::gmock)
  target_precompile_headers(${name}_test REUSE_FROM mooncake_pch)
  set_target_properties(${name}_test PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name}_test)
  set_tests_properties(${name} PROPERTIES TIMEOUT 120)
endfunction()
