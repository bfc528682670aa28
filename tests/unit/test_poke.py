from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

import pytest

from app import poke


def test_a_poke_arrives(tmp_path: Path) -> None:
    (address,) = poke.addresses(tmp_path, 1)
    with poke.listen(address) as end:
        with closing(poke.Poker([address])) as poker:
            poker()
        assert end.recv(16) == b""
    Path(address).unlink()


def test_nobody_listening_is_no_error(tmp_path: Path) -> None:
    with closing(poke.Poker(poke.addresses(tmp_path, 2))) as poker:
        poker()


@pytest.mark.parametrize("temporary", [None, "/" + "x" * 90])
def test_a_long_folder_makes_no_path_that_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, temporary: str | None
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", temporary)
    (address,) = poke.addresses(tmp_path / ("x" * 90), 1)
    assert Path(address).name.startswith("pushbridge-")
    with poke.listen(address) as end, closing(poke.Poker([address])) as poker:
        poker()
        assert end.recv(16) == b""
    Path(address).unlink()


def test_a_socket_is_in_the_data_folder_whatever_the_number_of_slots() -> None:
    names = poke.addresses(Path("/var/lib/pushbridge"), 16)
    assert names[15] == "/var/lib/pushbridge/dispatcher-15.sock"
    for length in range(60, 100):
        folder = Path("/" + "x" * length)
        assert poke.addresses(folder, 16)[0] == poke.addresses(folder, 1)[0]


def test_a_dispatcher_that_cannot_be_poked_says_so_and_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "of-another").mkdir()
    with poke.listen(str(tmp_path / "of-another")) as end, pytest.raises(BlockingIOError):
        end.recv(16)
    assert "cannot be poked" in capsys.readouterr().out


def test_each_folder_and_each_slot_has_a_socket_of_its_own(tmp_path: Path) -> None:
    names = [*poke.addresses(tmp_path / "a", 2), *poke.addresses(tmp_path / "b", 2)]
    assert len(set(names)) == 4
