"""The demo where it cannot run."""

from __future__ import annotations

import subprocess

import pytest

from veilnet.demo.run import run
from veilnet.errors import PrivilegeError


@pytest.mark.parametrize(
    "why",
    [PermissionError(13, "Permission denied"), subprocess.CalledProcessError(2, ["python"])],
    ids=["execute", "read"],
)
def test_an_interpreter_that_this_user_may_not_run(monkeypatch, why):
    """Exit 4 with the cause and the program's path, not a bug."""

    def check():
        raise why

    monkeypatch.setitem(run.__globals__, "check", check)
    with pytest.raises(PrivilegeError, match="python") as caught:
        run()
    assert str(why) in caught.value.message
    assert caught.value.__cause__ is why
