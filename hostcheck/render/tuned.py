"""What came of a plan, and what was changed on hosts before, for people at a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from hostcheck.model import Finding
from hostcheck.render.fleet_hosts import hosts_line
from hostcheck.render.fold import fold_line
from hostcheck.render.group import alike
from hostcheck.render.page import Page, page_width, wants_ascii, wants_color
from hostcheck.render.plan_group import NEEDS, value_text
from hostcheck.render.words import compared, many, when
from hostcheck.tuning.drive import Ended, How
from hostcheck.tuning.journal import Step, StepState, Transaction
from hostcheck.tuning.measure import Compared

_STYLE = {
    How.NOTHING: "",
    How.VERIFIED: "bold green",
    How.WAITING: "bold yellow",
    How.PARTLY: "bold yellow",
    How.UNVERIFIED: "bold red",
    How.ROLLED_BACK: "bold red",
    How.REFUSED: "bold yellow",
    How.LOST: "bold yellow",
    How.STUCK: "bold red",
    How.UNTOUCHED: "dim",
}
_HOW = {
    How.NOTHING: "nothing to do",
    How.VERIFIED: "changed, and verified",
    How.WAITING: "changed, and waits for a reboot",
    How.PARTLY: "changed; better, but not all that was to be mended passes",
    How.UNVERIFIED: "changed, and not verified: kept",
    How.ROLLED_BACK: "taken back",
    How.REFUSED: "refused: nothing was changed",
    How.LOST: "the connection was lost",
    How.STUCK: "NOT taken back",
    How.UNTOUCHED: "not touched",
}
MEANING = {
    0: "everything that was changed is verified, or there was nothing to change",
    3: "something was refused, or could not be determined",
    4: "something was changed, and did not verify",
}
"""What the exit code of `tune apply` says."""
_QUIET = (StepState.APPLIED, StepState.SAME)
_MOST = 4
"""Lines of what did not verify, for one check."""


def _page(color: bool | None, width: int | None, ascii: bool | None) -> Page:
    return Page(
        width=page_width() if width is None else width,
        color=wants_color() if color is None else color,
        ascii=wants_ascii() if ascii is None else ascii,
    )


def render_ended(
    ended: Sequence[Ended],
    code: int,
    meanings: Mapping[int, str] = MEANING,
    *,
    there: bool = False,
    color: bool | None = None,
    width: int | None = None,
    ascii: bool | None = None,
) -> str:
    """Return how plans ended, hosts with the same ending together, the worst last; and what the exit code means.

    Args:
        ended: by host.
        code: the exit code, and what it means in `meanings`.
        there: these are other hosts, which have to be named to take anything back.
        color, width, ascii: as for `hostcheck.render.text.render_text`.
    """
    page = _page(color, width, ascii)
    order = list(How)
    groups: dict[tuple[object, ...], list[Ended]] = {}
    for each in sorted(ended, key=lambda one: order.index(one.how)):
        bad = (tuple(each.unmended.items()), tuple(each.findings.items()))
        same = (each.how, each.why, each.made, each.undone, each.mended, bad, each.pending)
        groups.setdefault(same, []).append(each)
    for group in groups.values():
        _ending(page, group, there=there)
    page.put((f"Exit code {code}: {meanings[code]}.", "dim"), hang=2)
    return page.text()


def _ending(page: Page, group: Sequence[Ended], *, there: bool) -> None:
    first = group[0]
    names = hosts_line([each.name for each in group], most=len(group))
    page.put((names, "bold"), (_word(first), _STYLE[first.how]), hang=2, between=": ")
    page.put(first.why, indent=2)
    stays = "made" if not first.undone else "stays" if first.made == 1 else "stay"
    counts = [f"{many(first.made, 'change')} {stays}" if first.made else ""]
    counts.append(f"{many(first.undone, 'change')} taken back" if first.undone else "")
    transactions = {each.transaction for each in group}
    told = ", ".join(filter(None, counts))
    number = first.transaction if len(transactions) == 1 else ""
    page.put(told, f"(transaction {number})" if told and number else "", indent=2)
    page.put(("Passes now:" if first.mended else "", "dim"), ", ".join(first.mended), indent=2, hang=4)
    named = first.how is How.ROLLED_BACK  # in `why`
    for id, word in first.unmended.items():
        if not named:
            page.put((id, "bold"), word, indent=2, hang=4, between=": ")
        _findings(page, first.findings.get(id, ()), id if named else "")
    for needs in first.pending:
        page.put(("Some of it", "yellow"), f"{NEEDS[needs]}.", indent=2)
    if first.made and first.transaction and first.how in (How.VERIFIED, How.PARTLY, How.UNVERIFIED):
        page.put(("Take it back:", "dim"), "hostcheck tune rollback", number, names if there else "", indent=2)
    page.blank()


def _findings(page: Page, findings: Sequence[Finding], id: str) -> None:
    """Put what was expected of a check's subjects, and what was read."""
    same = alike(findings)
    for each in same[:_MOST]:
        subjects = "" if set(each.subjects) <= {"host", ""} else fold_line(each.subjects)
        said = ", ".join(filter(None, (each.finding.summary, compared(each.finding))))
        page.put((id, "bold"), subjects, said, indent=4, hang=6, between=": ")
    if len(same) > _MOST:
        page.put((id, "bold"), f"and {len(same) - _MOST} more", indent=4, hang=6, between=": ")


def _word(ended: Ended) -> str:
    """Return how it ended, in a few words."""
    if ended.how is How.ROLLED_BACK and ended.made and ended.undone:
        return "taken back in part"
    return _HOW[ended.how]


def render_compared(
    compared: Sequence[Compared], *, color: bool | None = None, width: int | None = None, ascii: bool | None = None
) -> str:
    """Return what was measured before and after, a line for each host and measure; nothing where nothing was."""
    page = _page(color, width, ascii)
    for each in compared:
        numbers = ""
        if each.before is not None and each.after is not None:
            numbers = (
                f"{each.before:.4g} {each.unit} (± {each.noise_before:.2g}) -> {each.after:.4g} {each.unit} "
                f"(± {each.noise_after:.2g}), median and its deviation of {each.samples}"
            )
        style = {"improved": "green", "worse": "red"}.get(each.verdict, "dim")
        page.put((each.host, "bold"), f"{each.title}:", (each.verdict, style), numbers, hang=2)
    return page.text()


def render_history(
    histories: Mapping[str, Sequence[Transaction]],
    absent: Iterable[tuple[str, str]] = (),
    *,
    color: bool | None = None,
    width: int | None = None,
    ascii: bool | None = None,
) -> str:
    """Return what was changed on hosts, the newest last."""
    page = _page(color, width, ascii)
    empty = [name for name, found in histories.items() if not found]
    for name, found in histories.items():
        if not found:
            continue
        page.put((name, "bold"), many(len(found), "transaction"), between=": ")
        for transaction in found:
            _transaction(page, transaction)
        page.blank()
    if empty:
        page.put((hosts_line(empty), "bold"), "nothing was changed by hostcheck", between=": ")
    for name, why in absent:
        page.put((name, "bold"), why, hang=2, between=": ")
    return page.text()


def _transaction(page: Page, transaction: Transaction) -> None:
    end = transaction.end.value.replace("-", " ")
    page.put(
        (transaction.id, "bold"),
        when(transaction.made) if transaction.made else "(no time)",
        (end, "green" if end == "committed" else "yellow"),
        ("its journal is damaged" if transaction.damaged else "", "bold red"),
        indent=2,
        hang=4,
        between="  ",
    )
    page.put(transaction.why, indent=4)
    if end == "unfinished":
        page.put("hostcheck tune recover brings it to an end", indent=4)
    for step in transaction.steps:
        state = "" if step.state in _QUIET else str(step.state)
        page.put(f"{step.number}.", (step.target, "bold"), step_words(step), (state, "yellow"), indent=4, hang=7)


def step_words(step: Step) -> str:
    """Return what a step did, in a few words."""
    if "\n" not in f"{step.before}{step.after}":
        return f"{value_text(step.before)} -> {value_text(step.after)}"
    if step.before is None:
        return "new file"
    return "file removed" if step.after is None else "file changed"
