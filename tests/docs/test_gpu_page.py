"""The session configurations on docs/gpu.md are such of the installed TensorFlow."""

import re
from pathlib import Path

import pytest

from tfserving_ext.serving.session_config import session_config

PAGE = Path(__file__).parents[2] / "docs" / "gpu.md"
CONFIGURATIONS = re.findall(r"```protobuf\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.mark.parametrize("text", CONFIGURATIONS)
def test_a_server_reads_the_configuration(tmp_path, text):
    path = tmp_path / "session_config.pbtxt"
    path.write_text(text)
    assert session_config(path).ByteSize() > 0


def test_each_configuration_says_what_the_page_says(tmp_path):
    found = []
    for text in CONFIGURATIONS:
        (tmp_path / "config").write_text(text)
        found.append(session_config(tmp_path / "config"))
    on_the_cpu, growing, streams = found
    assert dict(on_the_cpu.device_count) == {"GPU": 0}
    assert growing.gpu_options.allow_growth
    assert list(streams.gpu_options.experimental.virtual_devices[0].memory_limit_mb) == [8192, 8192]
