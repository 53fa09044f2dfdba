"""Api: everything that can be asked of a cluster. Workerman: the static methods of Lib\\Gateway, in snake_case.

``Gateway`` is this within the events of a business worker (events.py), ``GatewayClient`` anywhere else (client.py).

Every method returns at once a Later: to be awaited for the result, or dropped. What is called first is done first, as
far as it concerns one client. Messages: str goes out as text, bytes as binary, anything else as JSON. Uids and groups
are str or int, 7 and "7" are one. ``raw``: the bytes go to the client as they are. Sends never raise for a gateway that
does not answer, their Delivery counts it; every other method raises Unreachable or TimedOut then, from its Later.
Wrong arguments are TypeError and ValueError at once. Thread: the one that runs the loop.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from workermand.services.gateway import plans
from workermand.services.gateway.plans import Delivery, Keys, Message, Plan
from workermand.services.links.later import Later

T = TypeVar("T")

Session = dict[Any, Any]
"""What is kept of a client while it is connected: what MessagePack holds (what PHP's serialize() holds, where PHP may
join)."""


class Api:
    """Of one process."""

    def run(self, plan: Plan[T]) -> Later[T]:
        """Carries it out."""
        raise NotImplementedError

    # ------------------------------------------------------------------ messages

    def send_to_all(
        self,
        message: Message,
        client_id_array: Iterable[str] | None = None,
        exclude_client_id: Iterable[str] = (),
        raw: bool = False,
    ) -> Later[Delivery]:
        """To all clients, or those of ``client_id_array``; an empty one is nobody."""
        return self.run(plans.send_to_all(message, client_id_array, exclude_client_id, raw))

    def send_to_client(self, client_id: str, message: Message, raw: bool = False) -> Later[Delivery]:
        return self.run(plans.send_to_client(client_id, message, raw))

    def send_to_uid(self, uid: Keys, message: Message, raw: bool = False) -> Later[Delivery]:
        """To all clients with this uid, or with one of these. What nobody takes goes to the outbox, if there is one."""
        return self.run(plans.send_to_uid(uid, message, raw))

    def send_to_group(
        self, group: Keys, message: Message, exclude_client_id: Iterable[str] = (), raw: bool = False
    ) -> Later[Delivery]:
        """To all clients in this group, or in one of these: each gets it once from its gateway."""
        return self.run(plans.send_to_group(group, message, exclude_client_id, raw))

    def close_client(self, client_id: str, message: Message | None = None) -> Later[bool]:
        """Sends last words, then closes. False: it was not there."""
        return self.run(plans.close_client(client_id, message))

    def destroy_client(self, client_id: str) -> Later[bool]:
        """At once; what is unsent is lost. Workerman: destoryClient()."""
        return self.run(plans.destroy_client(client_id))

    # ------------------------------------------------------------------ uids and groups

    def bind_uid(self, client_id: str, uid: str | int) -> Later[bool]:
        """A client has one uid, the last one; a uid has any number of clients. False: the client is not there."""
        return self.run(plans.bind_uid(client_id, uid))

    def unbind_uid(self, client_id: str, uid: str | int | None = None) -> Later[bool]:
        """Whatever uid it has; ``uid`` is for those who know Workerman's, which ignores it too."""
        return self.run(plans.unbind_uid(client_id))

    def join_group(self, client_id: str, group: str | int) -> Later[bool]:
        """It leaves when it goes. False: the client is not there."""
        return self.run(plans.join_group(client_id, group))

    def leave_group(self, client_id: str, group: str | int) -> Later[bool]:
        return self.run(plans.leave_group(client_id, group))

    def ungroup(self, group: str | int) -> Later[int]:
        """Nobody is in it any more. How many were."""
        return self.run(plans.ungroup(group))

    # ------------------------------------------------------------------ sessions

    def set_session(self, client_id: str, session: Mapping[Any, Any]) -> Later[bool]:
        """In place of the former one. False: the client is not there."""
        return self.run(plans.set_session(client_id, session))

    def update_session(self, client_id: str, session: Mapping[Any, Any]) -> Later[bool]:
        """Laid over the former one; dicts in dicts are merged as well."""
        return self.run(plans.update_session(client_id, session))

    def get_session(self, client_id: str) -> Later[Session | None]:
        """None: the client is not there."""
        return self.run(plans.get_session(client_id))

    # ------------------------------------------------------------------ who is there?

    def is_online(self, client_id: str) -> Later[bool]:
        return self.run(plans.is_online(client_id))

    def is_uid_online(self, uid: str | int) -> Later[bool]:
        return self.run(plans.is_uid_online(uid))

    def is_uids_online(self, uids: Keys) -> Later[dict[str, bool]]:
        return self.run(plans.are_uids_online(uids))

    def get_client_id_by_uid(self, uid: str | int) -> Later[list[str]]:
        return self.run(plans.client_ids_by_uid(uid))

    def batch_get_client_id_by_uid(self, uids: Keys) -> Later[dict[str, list[str]]]:
        return self.run(plans.client_ids_by_uids(uids))

    def get_uid_by_client_id(self, client_id: str) -> Later[str | None]:
        """None: it has none, or is not there."""
        return self.run(plans.uid_by_client_id(client_id))

    def get_client_id_count_by_group(self, group: str | int = "") -> Later[int]:
        """ "": of all clients."""
        return self.run(plans.count_group(group) if group != "" else plans.count_clients())

    get_client_count_by_group = get_client_id_count_by_group

    def batch_get_client_id_count_by_group(self, groups: Keys) -> Later[dict[str, int]]:
        return self.run(plans.count_groups(groups))

    def get_client_id_list_by_group(self, group: Keys) -> Later[list[str]]:
        return self.run(plans.clients_of_groups(group))

    def get_client_sessions_by_group(self, group: Keys) -> Later[dict[str, Session]]:
        """By client_id."""
        return self.run(plans.sessions(group))

    def get_all_client_id_count(self) -> Later[int]:
        return self.run(plans.count_clients())

    get_all_client_count = get_all_client_id_count

    def get_all_client_id_list(self) -> Later[list[str]]:
        return self.run(plans.list_clients())

    def get_all_client_sessions(self, group: Keys = "") -> Later[dict[str, Session]]:
        """By client_id. All at once: of many clients that is much."""
        return self.run(plans.sessions(None if group == "" else group))

    def get_uid_list_by_group(self, group: Keys) -> Later[list[str]]:
        return self.run(plans.uids_of_groups(group))

    def get_uid_count_by_group(self, group: Keys) -> Later[int]:
        return self.run(plans.count_uids_of_groups(group))

    def get_all_uid_list(self) -> Later[list[str]]:
        return self.run(plans.list_uids())

    def get_all_uid_count(self) -> Later[int]:
        return self.run(plans.count_uids())

    def get_all_group_id_list(self) -> Later[list[str]]:
        return self.run(plans.list_groups())

    def get_all_group_uid_list(self) -> Later[dict[str, list[str]]]:
        """Of groups in which somebody has a uid."""
        return self.run(plans.all_group_uids())

    def get_all_group_uid_count(self) -> Later[dict[str, int]]:
        return self.run(plans.all_group_uid_counts())

    def get_all_group_client_id_list(self) -> Later[dict[str, list[str]]]:
        return self.run(plans.all_group_clients())

    def get_all_group_client_id_count(self) -> Later[dict[str, int]]:
        return self.run(plans.count_groups(None))
