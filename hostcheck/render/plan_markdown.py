"""Plans as Markdown (CommonMark), for issues, change requests and wikis. All text of a host is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

from hostcheck.model import Absentee
from hostcheck.render import plan_group as group
from hostcheck.render.fleet_hosts import hosts_line
from hostcheck.render.fold import fold_line
from hostcheck.render.markdown import code, escape, fence
from hostcheck.render.words import when
from hostcheck.tuning.change import Plan, Scope
from hostcheck.tuning.plan import to_do
from hostcheck.tuning.planning import alike


def plan_markdown(plans: Mapping[str, Plan], absent: Sequence[Absentee] = ()) -> str:
    """Return the plans of one or many hosts, each different one once."""
    lines = ["# What hostcheck would change", ""]
    for hosts, plan in alike(plans):
        lines += [f"## {escape(hosts_line(hosts, most=len(hosts)))}", ""]
        lines += [f"**{escape(group.unfinished(plan))}**", ""] if plan.unfinished else []
        lines += [f"{escape(group.tally(plan)).capitalize()}. Planned for {escape(plan.role)} by hostcheck "
                  f"{escape(plan.tool)}, {escape(when(plan.made))}.", ""]  # fmt: skip
        lines += _body(plan)
    if absent:
        lines += ["## Not planned", ""]
        lines += [f"- {escape(each.name)}: {escape(each.reach)}: {escape(each.why)}" for each in absent]
        lines += [""]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines))


def _body(plan: Plan) -> Iterator[str]:
    for subsystem, sections in group.subsystems(to_do(plan)).items():
        yield from (f"### {escape(subsystem)}", "")
        for section in sections:
            yield from _section(section)
    if manual := group.by_hand(plan):
        yield from ("### For you to do", "")
        for edit in group.edits(manual):
            yield f"- **{escape(edit.place)}** {escape(edit.change.why)}"
            if edit.change.commands:
                yield ""
                yield from (f"  {line}" for line in fence("\n".join(edit.change.commands)).split("\n"))
                yield ""
        yield ""
    if plan.refusals:
        yield from ("### Left alone", "")
        pairs = ((refusal.target, refusal.why) for refusal in plan.refusals)
        for why, targets in group.reasons(pairs).items():
            yield f"- **{escape(fold_line(targets))}** {escape(why)}"
        yield ""
    if plan.unplanned:
        yield from ("### Could not be planned", "")
        for why, tuners in group.could_not(plan).items():
            yield f"- **{escape(', '.join(tuners))}** {escape(why)}"
        yield ""


def _section(section: group.Section) -> Iterator[str]:
    yield f"**{escape(section.tuner or 'by hand')}** {escape(section.why)}".rstrip()
    yield ""
    for edit in section.edits:
        change = edit.change
        lasts = "until the next boot" if change.scope is Scope.RUNTIME else "kept over a reboot"
        needs = f", {group.NEEDS[change.needs]}" if group.NEEDS[change.needs] else ""
        about = f"({lasts}, {change.risk} risk{needs})"
        if len(edit.diff) == 1 and not edit.act:
            yield f"- {code(edit.place)}: {code(edit.diff[0])} {about}"
        else:
            yield f"- {code(edit.place)}: {edit.act} {about}"
            yield ""
            yield from (f"  {line}" for line in fence("\n".join(edit.diff)).replace("sh\n", "diff\n", 1).split("\n"))
            yield ""
    yield ""
    fixes = dict.fromkeys(id for edit in section.edits for id in edit.change.fixes)
    if fixes:
        yield from (f"Makes pass: {escape(', '.join(fixes))}", "")
    if section.source:
        yield from (f"Source: {escape(section.source)}", "")
