"""The marked block in a hosts file."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from veilnet.daemon import hosts
from veilnet.errors import ConfigError

ENTRIES = [("fd00::1", ("server", "server.home.veil"))]
OURS = "127.0.0.1 localhost\n# mine\n"


def test_a_block_comes_and_goes(tmp_path):
    """The operator's lines are byte for byte the same after a node has come and gone."""
    path = tmp_path / "hosts"
    path.write_text(OURS)
    hosts.rewrite(path, "a1", ENTRIES)
    assert path.read_text().startswith(OURS)
    assert "fd00::1\tserver server.home.veil\n" in path.read_text()
    hosts.rewrite(path, "a1", [])
    assert path.read_text() == OURS


def test_two_nodes_keep_to_their_own_blocks(tmp_path):
    """Each node on a host rewrites its own block and leaves the other's."""
    path = tmp_path / "hosts"
    path.write_text(OURS)
    hosts.rewrite(path, "a1", ENTRIES)
    hosts.rewrite(path, "b2", [("fd00::2", ("other",))])
    hosts.rewrite(path, "a1", [("fd00::3", ("third",))])
    text = path.read_text()
    assert ("fd00::2" in text, "fd00::3" in text, "fd00::1" in text) == (True, True, False)


def test_a_member_never_takes_a_name_of_the_hosts_own(tmp_path, monkeypatch):
    """Reserved names, this host's and those of the operator's lines are left as they are."""
    monkeypatch.setattr(hosts.socket, "gethostname", lambda: "Box.example")
    path = tmp_path / "hosts"
    path.write_text(f"{OURS}192.0.2.9\tNAS nas.lan # printer\n")
    names = ["localhost", "ip6-loopback", "box", "nas", "printer"]
    entries = [(f"fd00::{n}", (name, f"{name}.home.veil")) for n, name in enumerate(names)]
    hosts.rewrite(path, "a1", entries)
    block = path.read_text().partition("# BEGIN")[2].splitlines()[1:-1]
    assert block == [
        "fd00::0\tlocalhost.home.veil",
        "fd00::1\tip6-loopback.home.veil",
        "fd00::2\tbox.home.veil",
        "fd00::3\tnas.home.veil",
        "fd00::4\tprinter printer.home.veil",
    ]
    hosts.rewrite(path, "b2", [("fd00::9", ("printer",))])
    assert "fd00::9\tprinter" in path.read_text()


def test_a_block_without_its_end_swallows_nothing(tmp_path):
    """A damaged block loses its first line and none of the operator's."""
    path = tmp_path / "hosts"
    path.write_text(f"# BEGIN veilnet a1\n{OURS}")
    hosts.rewrite(path, "a1", [])
    assert path.read_text() == OURS


def test_the_mode_and_the_links_stay(tmp_path):
    """A hosts file behind a symbolic link stays behind it, readable by all."""
    real = tmp_path / "real"
    real.write_text(OURS)
    link = tmp_path / "hosts"
    link.symlink_to(real)
    hosts.rewrite(link, "a1", ENTRIES)
    assert link.is_symlink()
    assert "server" in real.read_text()
    assert real.stat().st_mode & 0o777 == 0o644


def test_a_file_that_is_not_there_is_made(tmp_path):
    """--hosts-file may name a new file."""
    hosts.rewrite(tmp_path / "new", "a1", ENTRIES)
    assert "server" in (tmp_path / "new").read_text()


def test_a_folder_in_its_place_is_the_operators_fault(tmp_path):
    """What cannot be a hosts file is a ConfigError that names it."""
    with pytest.raises(ConfigError, match=str(tmp_path)):
        hosts.rewrite(tmp_path, "a1", ENTRIES)


LINES = st.lists(
    st.text(
        st.characters(codec="ascii", exclude_characters="\n\r\x0b\x0c\x1c\x1d\x1e"), max_size=20
    ),
    max_size=5,
)


@given(LINES)
def test_other_lines_survive_whatever_they_are(tmp_path_factory, lines):
    """No line of the operator's is changed or lost by a block that comes and goes."""
    path = tmp_path_factory.mktemp("hosts") / "hosts"
    text = "".join(f"{line}\n" for line in lines)
    path.write_text(text)
    hosts.rewrite(path, "a1", ENTRIES)
    hosts.rewrite(path, "a1", [])
    assert path.read_text() == text
