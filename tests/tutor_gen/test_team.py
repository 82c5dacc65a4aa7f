"""The processes of one run; the real ones are in tests/test_cli_torchrun.py."""

from __future__ import annotations

import threading

import pytest
from torch.distributed import HashStore

from kdcli.tutor_gen.pipeline.process_group import ProcessGroup, current_group, single_process


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    for group in (single_process(), current_group()):
        assert (group.rank, group.size, group.is_main) == (0, 1, True)
        assert [group.advance(3), group.advance(0), group.advance(4)] == [3, 3, 7]
        assert list(group.wait_for(7)) == [7]
        assert list(group.wait_for(0)) == [7]


def test_members_hear_what_is_told_when_it_is_told() -> None:
    store = HashStore()
    first, second = (ProcessGroup(store, rank, 2) for rank in range(2))
    heard: list[object] = []
    asking = threading.Thread(target=lambda: heard.append(second.ask("task", 0)))
    asking.start()
    asking.join(0.05)
    assert heard == []
    first.tell("task", {"shards": [1, 2]})
    asking.join(10)
    assert heard == [{"shards": [1, 2]}]
    second.tell("task", "something else")
    assert first.ask("task", 1) == "something else"
    assert (first.advance(2), second.advance(3)) == (2, 5)
    assert not second.is_main
