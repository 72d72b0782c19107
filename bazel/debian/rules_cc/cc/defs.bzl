"""The C++ rules under the names of rules_cc, for Bazel 4.2.3, to which they are native.

Debian's own rules_cc is too new for the Bazel that it ships.
"""

# buildifier: disable=native-cc
cc_binary = native.cc_binary
cc_library = native.cc_library
cc_test = native.cc_test
cc_toolchain = native.cc_toolchain
cc_toolchain_suite = native.cc_toolchain_suite
