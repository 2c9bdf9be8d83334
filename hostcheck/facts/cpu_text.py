"""What lscpu and numactl print, for support bundles that hold their output in place of the files they read."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

from hostcheck.errors import Maybe, Unavailable
from hostcheck.facts.cpu import MAX_CPUS, CpuTopology, NumaNode, parse_cpu_list

_NO_MEMORY = Unavailable("lscpu does not show the memory of nodes")
_NO_DISTANCES = Unavailable("lscpu does not show the distances of nodes")
_UNTOLD = Unavailable("lscpu does not say")


def parse_lscpu(text: str) -> CpuTopology:
    """Parse lscpu, its summary (old or indented) or its table for programs (-p) or for people (-e).

    A host with several kinds of cores has one block for each, all of which count.

    Raises:
        Unavailable: it lists no CPU.

    Sample:
        Architecture:                         x86_64
        CPU(s):                               64
        On-line CPU(s) list:                  0-63
        Model name:                           Intel(R) Xeon(R) CPU           X7550  @ 2.00GHz
        Thread(s) per core:                   2
        Core(s) per socket:                   8
        Socket(s):                            4
        NUMA node(s):                         3
        NUMA node0 CPU(s):                    0-62:2
        NUMA node2 CPU(s):                    1-61:4
        NUMA node3 CPU(s):                    3-63:4
    """
    fields: dict[str, list[str]] = {}
    for key, value in re.findall(r"^\s*([A-Z][^:\n]{1,60}):[ \t]*(.*)$", text, re.MULTILINE):
        fields.setdefault(key, []).append(value.strip())
    rows = _rows(text)
    listed = fields.get("On-line CPU(s) list")
    online = parse_cpu_list(listed[0]) if listed else frozenset(rows)
    if not online:
        raise Unavailable("lscpu lists no CPU that is online")
    cores = _product(fields, "Core(s) per socket", "Socket(s)")
    cores = _product(fields, "Core(s) per cluster", "Cluster(s)") if isinstance(cores, Unavailable) else cores
    # Cores can have the same number in two sockets, and, in a guest's bare table, even within one; caches do not.
    cores = cores if isinstance(cores, int) or not rows else _distinct(rows, "socket", "core", "l1d")
    cores = _distinct(rows, "socket", "core") if rows and not isinstance(cores, int) else cores
    return CpuTopology(
        online=online,
        present=_UNTOLD,
        models=_models(fields, online),
        sockets=_sockets(fields, rows),
        cores=cores,
        smt=len(online) > cores if isinstance(cores, int) else _UNTOLD,
    )


def parse_lscpu_nodes(text: str) -> tuple[NumaNode, ...]:
    """Parse the memory nodes that lscpu lists; a node without CPUs has an empty list there.

    Raises:
        Unavailable: it lists none.

    Sample:
        NUMA node(s):        2
        NUMA node0 CPU(s):   0-63
        NUMA node1 CPU(s):
    """
    found = re.findall(r"^\s*NUMA node([0-9]{1,5}) CPU\(s\):[ \t]*(\S*)[ \t]*$", text, re.MULTILINE)
    cpus = {int(node): parse_cpu_list(listed) for node, listed in found}
    if not cpus:
        by_node: dict[int, set[int]] = {}
        for cpu, row in _rows(text).items():
            if "node" in row:
                by_node.setdefault(row["node"], set()).add(cpu)
        cpus = {node: frozenset(members) for node, members in by_node.items()}
    if not cpus:
        raise Unavailable("lscpu lists no memory nodes")
    return tuple(_node(node, members) for node, members in sorted(cpus.items()))


def parse_numactl(text: str) -> tuple[NumaNode, ...]:
    """Parse numactl --hardware; its MB are MiB.

    Raises:
        Unavailable: it lists no node.

    Sample:
        available: 2 nodes (0,8)
        node 0 cpus: 0 1 2 3
        node 0 size: 515281 MB
        node 0 free: 370719 MB
        node 8 cpus: 4 5 6 7
        node 8 size: 516035 MB
        node 8 free: 407783 MB
        node distances:
        node   0   8
          0:  10  21
          8:  21  10
    """
    sizes = {
        (int(node), kind): int(value) * 1024
        for node, kind, value in re.findall(r"^node ([0-9]{1,5}) (size|free): ([0-9]{1,12}) MB$", text, re.MULTILINE)
    }
    distances = _distances(text)
    nodes = []
    for node, listed in re.findall(r"^node ([0-9]{1,5}) cpus:((?: [0-9]{1,5})*)[ \t]*$", text, re.MULTILINE):
        absent = Unavailable(f"numactl shows no such size of node {node}")
        nodes.append(
            NumaNode(
                id=int(node),
                cpus=parse_cpu_list(",".join(listed.split())),
                memory_kib=sizes.get((int(node), "size"), absent),
                free_kib=sizes.get((int(node), "free"), absent),
                distances=distances.get(int(node), Unavailable(f"numactl shows no distances of node {node}")),
            )
        )
    if not nodes:
        raise Unavailable("numactl lists no node")
    return tuple(nodes)


def _node(node: int, cpus: frozenset[int]) -> NumaNode:
    return NumaNode(id=node, cpus=cpus, memory_kib=_NO_MEMORY, free_kib=_NO_MEMORY, distances=_NO_DISTANCES)


def _distances(text: str) -> dict[int, Mapping[int, int]]:
    _, _, matrix = text.partition("node distances:")
    head = re.search(r"^node((?: +[0-9]{1,5})+)[ \t]*$", matrix, re.MULTILINE)
    columns = [int(word) for word in head[1].split()] if head else []
    found: dict[int, Mapping[int, int]] = {}
    for node, row in re.findall(r"^ *([0-9]{1,5}):((?: +[0-9]{1,4})+)[ \t]*$", matrix, re.MULTILINE):
        words = row.split()
        if len(words) == len(columns):
            found[int(node)] = {column: int(word) for column, word in zip(columns, words, strict=True)}
    return found


def _rows(text: str) -> dict[int, dict[str, int]]:
    """Return the first table's rows by CPU, with the columns that are numbers; CPUs that are offline are left out."""
    columns: list[str] = []
    rows: dict[int, dict[str, int]] = {}
    for line in text.splitlines():
        words = [word.strip().lower() for word in (line.lstrip("# ").split(",") if "," in line else line.split())]
        if words[:1] == ["cpu"] and "core" in words:
            if columns:
                break
            columns = words
        elif columns and words and _is_number(words[0]):
            row = dict(zip(columns, words, strict=False))
            if row.get("online") != "no":
                rows[int(words[0])] = {name: int(word) for name, word in row.items() if _is_number(word)}
    return rows


def _is_number(text: str) -> bool:
    return re.fullmatch("[0-9]{1,5}", text) is not None and int(text) < MAX_CPUS


def _count(text: str) -> int:
    return int(text) if re.fullmatch("[0-9]{1,5}", text) else 0


def _distinct(rows: Mapping[int, Mapping[str, int]], *columns: str) -> Maybe[int]:
    keys = {tuple(row.get(column) for column in columns) for row in rows.values()}
    return len(keys) if all(None not in key for key in keys) else _UNTOLD


def _product(fields: Mapping[str, list[str]], per: str, groups: str) -> Maybe[int]:
    """Return the sum over all blocks of cores in a group times groups."""
    pairs = list(zip(fields.get(per, ()), fields.get(groups, ()), strict=False))
    counts = [_count(first) * _count(second) for first, second in pairs]
    return sum(counts) if counts and all(counts) else _UNTOLD


def _sockets(fields: Mapping[str, list[str]], rows: Mapping[int, Mapping[str, int]]) -> Maybe[int]:
    counts = [_count(word) for word in fields.get("Socket(s)", ())]
    if counts and all(counts):
        return max(counts)
    return _distinct(rows, "socket") if rows and not counts else _UNTOLD


def _models(fields: Mapping[str, list[str]], online: frozenset[int]) -> Mapping[str, int]:
    """Return each block's model and its threads; of a single block, all of them."""
    names = [name for name in fields.get("Model name", ()) if name not in ("", "-")]
    if len(names) == 1:
        return {names[0]: len(online)}
    counts = [fields.get(key, []) for key in ("Thread(s) per core", "Core(s) per socket", "Socket(s)")]
    sizes = [_count(one) * _count(two) * _count(three) for one, two, three in zip(*counts, strict=False)]
    models: Counter[str] = Counter()
    for name, size in zip(names, sizes, strict=False):
        models[name] += size
    return models
