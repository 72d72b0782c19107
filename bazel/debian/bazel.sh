#!/usr/bin/env bash
# Debian's bazel-bootstrap 4.2.3 without network: bazel/debian/bazel.sh test //...
# The repositories that Bazel would download come from Debian's packages, and from beside this script.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
command=${1:?a command of Bazel is needed, such as: test //...}
shift
exec bazel "$command" \
  --override_repository=rules_cc="$here/rules_cc" \
  --override_repository=remote_coverage_tools="$here/remote_coverage_tools" \
  --override_repository=rules_java=/usr/share/bazel/rules/java \
  --override_repository=rules_proto=/usr/share/bazel/rules/proto \
  "$@"
