# `nann_host`: the program that stands for TensorFlow Serving in the tests, and the files that are preloaded into it. It is
# built on the wheel, so the ops have the ABI of the wheel: those that nann_ops consists of.
# The stand-in has TensorFlow in shared libraries, which are initialised before what is preloaded. Serving has it in the
# executable, which is initialised last: with `initfirst` the same order holds here.
set(HOST ${CMAKE_BINARY_DIR}/serving_host)
add_preload(nann_host nann_objects nann_core ${HOST})
target_link_options(nann_host_loader PRIVATE -Wl,-z,initfirst)
add_executable(serving_host EXCLUDE_FROM_ALL tests/native/serving_host.cc)
target_compile_options(serving_host PRIVATE ${WARNINGS})
set_target_properties(serving_host PROPERTIES OUTPUT_NAME tensorflow_model_server RUNTIME_OUTPUT_DIRECTORY ${HOST})
target_link_libraries(serving_host PRIVATE tensorflow_wheel ${TENSORFLOW_DIR}/libtensorflow_cc.so.2)
add_dependencies(nann_host serving_host)
