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


def test_a_long_temporary_folder_makes_no_path_that_is_too_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/" + "x" * 90)
    (address,) = poke.addresses(tmp_path, 1)
    with poke.listen(address) as end, closing(poke.Poker([address])) as poker:
        poker()
        assert end.recv(16) == b""
    Path(address).unlink()


def test_each_folder_and_each_slot_has_a_socket_of_its_own(tmp_path: Path) -> None:
    names = [*poke.addresses(tmp_path / "a", 2), *poke.addresses(tmp_path / "b", 2)]
    assert len(set(names)) == 4
