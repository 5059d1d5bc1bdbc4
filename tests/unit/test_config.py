"""The configuration file."""

from __future__ import annotations

import tomllib

import pytest

from veilnet import config
from veilnet.config import Config
from veilnet.errors import ConfigError
from veilnet.paths.registry import policy_names


def write(tmp_path, text):
    """Load what *text* as config.toml means."""
    (tmp_path / "config.toml").write_text(text)
    return config.load(tmp_path)


def test_no_file_means_the_defaults(tmp_path):
    """A node without config.toml runs with what is documented."""
    assert config.load(tmp_path) == Config()


def test_values_are_taken(tmp_path):
    """Keys of the file arrive, endpoints in their one normal form."""
    made = write(tmp_path, 'endpoints = ["[2001:db8::1]:41000", "host.example:1"]\ntun = false\n')
    assert made.endpoints == ("[2001:db8::1]:41000", "host.example:1")
    assert made.tun is False


@pytest.mark.parametrize(
    "text",
    [
        "idle_close = 3",
        "idle_close_s = 0",
        "idle_close_s = true",
        'listen_port = "7"',
        "listen_port = 65536",
        'endpoints = "1.2.3.4:5"',
        'endpoints = ["1.2.3.4"]',
        'endpoints = ["::1:5"]',
        'endpoints = ["1.2.3.4:0"]',
        'kem_backend = "rsa"',
        'name = "two words"',
        "not toml",
        'tun_name = "a/b"',
        "mtu_bytes = 1279",
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, text):
    """A key or value that means nothing is exit 7, and the message names the file."""
    with pytest.raises(ConfigError, match=r"config\.toml"):
        write(tmp_path, text)


def test_what_is_right_in_a_faulty_file_can_be_shown(tmp_path):
    """`read` keeps the good keys, and says of each bad one why."""
    (tmp_path / "config.toml").write_text("nonsense = 1\nlisten_port = -1\nrekey_s = 60\n")
    made, faults, there = config.read(tmp_path)
    assert (made.listen_port, made.rekey_s, there) == (0, 60, True)
    assert set(faults) == {"nonsense", "listen_port"}
    assert "0 to 65535" in faults["listen_port"]


def test_flags_override_the_file(tmp_path):
    """A flag that was given wins; one that was not changes nothing."""
    made = write(tmp_path, "listen_port = 41000\n").override({"listen_port": None, "tun": False})
    assert (made.listen_port, made.tun) == (41000, False)
    with pytest.raises(ConfigError):
        made.override({"listen_port": 99999})


def test_what_is_shown_can_be_read_back():
    """`config show` prints a file that means the same."""
    shown = "\n".join(
        f"{key} = {config.as_toml(getattr(Config(), key))}" for key in config.documented()
    )
    assert Config(**tomllib.loads(shown)) == Config()


def test_every_policy_may_be_asked_for():
    """The list, which is spelled out so that commands need no numpy, is that of the policies."""
    assert policy_names() == config.PATH_POLICIES


def test_every_key_is_documented():
    """No key is without its meaning."""
    assert all(what for _, what in config.documented().values())
