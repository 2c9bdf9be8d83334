"""Hosts of one fleet that are for different things: a role by group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from hostcheck.checklist import Checklist
from hostcheck.errors import HostcheckError
from hostcheck.expect import shipped_names, suggest
from hostcheck.fleet.targets import Target


def by_group(
    checklist: Checklist, targets: Sequence[Target], rules: Sequence[str]
) -> Checklist | Callable[[str], Checklist]:
    """Return the checklist of all hosts; or, where a rule gives a group another role, what chooses one by name.

    Args:
        checklist: for hosts of none of the groups.
        targets: the hosts with their groups.
        rules: each GROUP=ROLE.

    Raises:
        HostcheckError: a rule is malformed, no host is in its group, or a host gets two roles.
    """
    if not rules:
        return checklist
    roles = [name.split("/", 1)[1] for name in shipped_names("role")]
    groups = {group for target in targets for group in target.groups}
    chosen: dict[str, str] = {}
    for rule in rules:
        group, equals, role = rule.rpartition("=")
        if not equals or not group:
            raise HostcheckError(f"--role-for {rule!r}: GROUP=ROLE is needed, such as inference=inference")
        if role not in roles:
            raise HostcheckError(f"--role-for {rule}: role {role!r} is none of {', '.join(roles)}")
        if group not in groups:
            raise HostcheckError(f"--role-for {rule}: no host is in group {group!r}{suggest(group, sorted(groups))}")
        for target in targets:
            if group in target.groups and chosen.setdefault(target.name, role) != role:
                raise HostcheckError(f"--role-for {rule}: {target.name} is {chosen[target.name]} by another group")
    lists = {role: replace(checklist, role=role) for role in {*chosen.values()}}
    return lambda name: lists[chosen[name]] if name in chosen else checklist
