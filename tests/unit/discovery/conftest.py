import pytest

from tests.unit.discovery.crowd import Crowd

NODES = 220


@pytest.fixture(scope="session")
def town():
    """A crowd that knows each other; tests take it as it is, or heal what they break."""
    crowd = Crowd(4)
    crowd.grown(NODES)
    return crowd


@pytest.fixture
def folk(town):
    """Its nodes, all online."""
    nodes = list(town.nodes.values())[:NODES]
    for node in nodes:
        node.online = True
        node.asked.clear()
    return nodes
