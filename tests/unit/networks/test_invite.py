import pytest
from attrs import evolve

from tests.unit.networks.world import HERE
from veilnet.errors import InviteError
from veilnet.networks import keys
from veilnet.networks.endpoint import Endpoint
from veilnet.networks.invite import Invite, looks_like_invite
from veilnet.units import NetworkId, PeerId

INVITE = Invite(
    invite_id=bytes(range(8)),
    network_id=NetworkId(bytes(range(32))),
    inviter=PeerId(bytes(range(32, 64))),
    seed=bytes(range(64, 96)),
    endpoints=(HERE, Endpoint("2001:db8::7", 5)),
    log_head=bytes(range(32)),
)
TEXT = INVITE.format()


def test_one_line_back_and_forth():
    """An invite is one line of letters and digits, and is read as it was written."""
    assert TEXT.startswith("veil:")
    assert TEXT[5:].isalnum()
    assert Invite.parse(TEXT) == INVITE
    higher = evolve(INVITE, log_height=9, log_head=bytes(32))
    assert Invite.parse(higher.format()) == higher


@pytest.mark.parametrize(
    "text",
    [
        TEXT.upper(),
        f"\n  {TEXT}\t",
        f"{TEXT[:40]}\n  {TEXT[40:90]}\r\n{TEXT[90:]}",
        f"{TEXT[:40]}\N{NO-BREAK SPACE}{TEXT[40:]}",
    ],
)
def test_case_and_white_space_do_not_matter(text):
    """What a QR code, a phone or a mail client does to a line is forgiven."""
    assert looks_like_invite(text)
    assert Invite.parse(text) == INVITE


def test_secrets_follow_from_the_seed_and_stay_hidden():
    """Both keys come from the seed alone, and no repr shows it."""
    assert INVITE.join_secret == keys.join_secret(INVITE.seed)
    assert INVITE.door_key == keys.join_door_key(INVITE.seed)
    assert repr(INVITE.seed) not in repr(INVITE)
    assert "seed" not in repr(INVITE)


def test_every_wrong_character_and_swap_is_found():
    """Any one character replaced by any other, dropped or doubled, or two neighbours swapped."""
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789:=-_%é"
    # One IPv4 endpoint leaves spare bits in the last character, which are checked as well.
    text = evolve(INVITE, endpoints=(HERE,)).format()
    assert len(text[5:]) * 5 % 8
    for index, right in enumerate(text):
        wrong = [text[:index] + c + text[index + 1 :] for c in alphabet if c != right]
        wrong.append(text[:index] + text[index + 1 :])
        wrong.append(text[: index + 1] + text[index:])
        if index and text[index - 1] != right:
            wrong.append(text[: index - 1] + right + text[index - 1] + text[index + 1 :])
        for garbled in wrong:
            with pytest.raises(InviteError) as caught:
                Invite.parse(garbled)
            assert caught.value.code == 7


@pytest.mark.parametrize("text", ["", "veil", "veil:", "veil:a", "veil:====", "http://x", "server"])
def test_what_is_no_invite(text):
    """Short and foreign texts are refused like all others."""
    with pytest.raises(InviteError):
        Invite.parse(text)


def test_messages_quote_no_secret():
    """A garbled invite is still a secret: the error does not repeat it."""
    with pytest.raises(InviteError) as caught:
        Invite.parse(TEXT[:-1])
    assert TEXT[5:25] not in str(caught.value)
