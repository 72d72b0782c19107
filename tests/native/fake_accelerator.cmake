# `fake_accelerator`: a device for the tests; tests/native/fake_accelerator.cc says what it is for.
add_library(fake_accelerator MODULE EXCLUDE_FROM_ALL tests/native/fake_accelerator.cc tests/native/fake_kernels.cc
                                                     tests/native/fake_memory.cc)
target_include_directories(fake_accelerator PRIVATE ${CMAKE_SOURCE_DIR})
target_compile_options(fake_accelerator PRIVATE ${WARNINGS})
target_link_libraries(fake_accelerator PRIVATE tensorflow_wheel ${TENSORFLOW_DIR}/libtensorflow_cc.so.2)
