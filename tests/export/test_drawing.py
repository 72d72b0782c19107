"""A drawing is well-formed whatever the names of nodes, and its nodes do not overlap."""

import random
import xml.etree.ElementTree as ET

import pytest

from export_tools.graphs.draw import write_drawing
from export_tools.graphs.explanation import Explanation
from export_tools.graphs.layout import GAP, NODE_HEIGHT, NODE_WIDTH, layered
from export_tools.graphs.report import Edge, Node
from export_tools.graphs.tables import summary


@pytest.mark.parametrize("suffix", [".html", ".svg"])
def test_names_are_escaped(tmp_path, suffix):
    name = '</title><script>&"\x1b]'
    nodes = [
        Node("items", "items", "argument", (), (), "[1, n, 2]", "item", "batch", 0, 2),
        Node(name, name, name, (Edge("items", name),), (name,), "[1, n]", "both", "batch", 4, 2),
    ]
    found = Explanation(False, name, (), nodes, None)
    write_drawing(found, tmp_path / f"x{suffix}", name)
    root = ET.fromstring((tmp_path / f"x{suffix}").read_text())
    assert not [element for element in root.iter() if element.tag.endswith("script")]
    titles = [element.text for element in root.iter() if element.tag.endswith("title")]
    assert any(title.startswith('</title><script>&"\ufffd]: ') for title in titles)
    assert "\x1b" not in summary(found)


@pytest.mark.parametrize("seed", range(20))
def test_nodes_do_not_overlap_and_edges_go_down(seed):
    rng = random.Random(seed)
    names = [f"node {number}" for number in range(rng.randrange(1, 60))]
    inputs = {
        name: rng.choices(names[:index], k=rng.randrange(min(index, 3) + 1)) if index else []
        for index, name in enumerate(names)
    }
    # A late node takes only late nodes.
    late: set[str] = set()
    for name in names:
        if set(inputs[name]) <= late and rng.random() < 0.5:
            late.add(name)
    layout = layered(inputs, late)
    assert set(layout.places) == set(names)
    corners = list(layout.places.values())
    for index, (x, y) in enumerate(corners):
        assert -1e-6 <= x <= layout.width - NODE_WIDTH + 1e-6
        assert 0 <= y <= layout.height - NODE_HEIGHT + 1e-6
        for other_x, other_y in corners[:index]:
            assert y != other_y or abs(x - other_x) >= NODE_WIDTH + GAP - 1e-6
    for name, sources in inputs.items():
        for source in sources:
            heights = [layout.places[source][1], *(y for _, y in layout.bends[source, name]), layout.places[name][1]]
            assert heights == sorted(set(heights))
