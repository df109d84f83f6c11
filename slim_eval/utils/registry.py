"""The registry of a seam: its members by name.

A seam (scheme, engine, benchmark, executor, metric, figure, importer, meter) has one `Registry`. slim-eval's own
members register where they are defined, others in a plugin: see `slim_eval.plugins`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Generic, Protocol, TypeVar


class Named(Protocol):
    """What every member of a registry has."""

    @property
    def name(self) -> str:
        """Its name on the command line and in records."""


Member = TypeVar("Member", bound=Named)


class Registry(Mapping[str, Member], Generic[Member]):
    """The members of one seam, by name, in the order in which they were registered."""

    def __init__(self, seam: str) -> None:
        """Make an empty registry; `seam` is what a member is called in messages: ``scheme``, ``engine``."""
        self.seam = seam
        self._members: dict[str, Member] = {}

    def register(self, member: Member) -> Member:
        """Add a member, and return it; a ValueError if another member has that name."""
        if self._members.get(member.name, member) is not member:
            raise ValueError(f"{self.seam} {member.name!r} is registered twice: rename one of them")
        self._members[member.name] = member
        return member

    def unregister(self, name: str) -> None:
        """Remove a member; for tests that add one."""
        self._members.pop(name, None)

    def __getitem__(self, name: str) -> Member:
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._members))  # a snapshot: what a loop imports may register further members

    def __len__(self) -> int:
        return len(self._members)
