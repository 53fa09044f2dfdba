"""table.Table against a model: what is asked of it is asked of every client of the model."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from workermand.services.gateway.table import GROUP, UID, Client, Table

IDS = st.sampled_from(["a", "b", "c", "d", "e"])
KEYS = st.sampled_from(["1", "2", "3"])


class AgainstAModel(RuleBasedStateMachine):
    """The model: id -> (uid, groups)."""

    def __init__(self) -> None:
        super().__init__()
        self.there: set[tuple[str, str]] = set()
        self.table = Table(self.on_change)
        self.model: dict[str, tuple[str | None, set[str]]] = {}

    def on_change(self, kind: str, key: str, present: bool) -> None:
        assert ((kind, key) in self.there) is not present
        if present:
            self.there.add((kind, key))
        else:
            self.there.discard((kind, key))

    @rule(id=IDS)
    def add(self, id: str) -> None:
        if id in self.model:
            with pytest.raises(ValueError, match="there already"):
                self.table.add(Client(id))
        else:
            self.table.add(Client(id))
            self.model[id] = (None, set())

    @rule(id=IDS)
    def remove(self, id: str) -> None:
        assert (self.table.remove(id) is not None) is (self.model.pop(id, None) is not None)

    @rule(id=IDS, uid=KEYS)
    def bind(self, id: str, uid: str) -> None:
        assert self.table.bind(id, uid) is (id in self.model)
        if id in self.model:
            self.model[id] = (uid, self.model[id][1])

    @rule(id=IDS)
    def unbind(self, id: str) -> None:
        assert self.table.unbind(id) is (id in self.model)
        if id in self.model:
            self.model[id] = (None, self.model[id][1])

    @rule(id=IDS, group=KEYS)
    def join(self, id: str, group: str) -> None:
        assert self.table.join(id, group) is (id in self.model)
        if id in self.model:
            self.model[id][1].add(group)

    @rule(id=IDS, group=KEYS)
    def leave(self, id: str, group: str) -> None:
        assert self.table.leave(id, group) is (id in self.model)
        if id in self.model:
            self.model[id][1].discard(group)

    @rule(group=KEYS)
    def ungroup(self, group: str) -> None:
        members = [groups for _uid, groups in self.model.values() if group in groups]
        assert self.table.ungroup(group) == len(members)
        for groups in members:
            groups.discard(group)

    @rule(keys=st.lists(KEYS, max_size=4))
    def having(self, keys: list[str]) -> None:
        uids = sorted(client.id for client in self.table.having(UID, keys))
        assert uids == sorted(id for id, (uid, _groups) in self.model.items() if uid in keys)
        members = sorted(client.id for client in self.table.having(GROUP, keys))
        assert members == sorted(id for id, (_uid, groups) in self.model.items() if groups.intersection(keys))

    @invariant()
    def is_the_same(self) -> None:
        table = self.table
        assert {id: (one.uid, one.groups) for id, one in table.clients.items()} == self.model
        assert len(table) == len(self.model)
        for kind, index in ((UID, table.uids), (GROUP, table.groups)):
            assert {(kind, key) for key in index} == {entry for entry in self.there if entry[0] == kind}
            assert all(members for members in index.values())
        for key in "123":
            assert table.count(key) == sum(key in groups for _uid, groups in self.model.values())
            assert table.present(UID, key) is any(uid == key for uid, _groups in self.model.values())


TestAgainstAModel = AgainstAModel.TestCase
