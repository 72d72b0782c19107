# The files that bring the ops into a stock TensorFlow Serving (docs/serving_images.md), in build/.../serving:
#
#   cmake --build BUILD --target nann_serving
#
# libnann_serving.so is preloaded; it opens libnann_serving-2.20.so, the ops for one release of TensorFlow. These take the
# symbols of TensorFlow from the server itself, so they are linked with no library of TensorFlow.
set(NANN_SERVING_ABI 0 CACHE STRING "The standard library's ABI of the server: TensorFlow Serving has the old one, 0")

# Adds a target `name` that makes both files in `folder`, from the object libraries of the ops and of the core.
function(add_preload name objects core folder)
  set(loader ${name}_loader)
  set(ops ${name}_ops)
  add_library(${loader} MODULE EXCLUDE_FROM_ALL custom_ops/preload/preload.cc)
  add_library(${ops} MODULE EXCLUDE_FROM_ALL)
  target_compile_options(${loader} PRIVATE ${WARNINGS} -fno-exceptions -fno-rtti)
  target_link_options(${loader} PRIVATE -Wl,--as-needed)
  target_link_libraries(${ops} PRIVATE ${objects} ${core})
  # What the server does not have is found when the library is opened, not at the first call.
  target_link_options(${ops} PRIVATE -Wl,-z,now)
  set_target_properties(${loader} PROPERTIES OUTPUT_NAME nann_serving)
  set_target_properties(${ops} PROPERTIES OUTPUT_NAME nann_serving-${TENSORFLOW_MINOR} LINKER_LANGUAGE CXX)
  set_target_properties(${loader} ${ops} PROPERTIES PREFIX lib LIBRARY_OUTPUT_DIRECTORY ${folder})
  add_custom_target(${name} DEPENDS ${loader} ${ops})
endfunction()

add_ops_objects(nann_core_serving nann_objects_serving ${NANN_SERVING_ABI})
set_target_properties(nann_core_serving nann_objects_serving PROPERTIES EXCLUDE_FROM_ALL ON)
add_preload(nann_serving nann_objects_serving nann_core_serving ${CMAKE_BINARY_DIR}/serving)
add_custom_command(TARGET nann_serving_ops POST_BUILD VERBATIM COMMAND ${Python3_EXECUTABLE}
                   ${CMAKE_SOURCE_DIR}/custom_ops/preload/check_library.py $<TARGET_FILE:nann_serving_ops>)
