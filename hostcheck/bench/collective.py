"""What one rank does: joins the others, times a collective, checks the data, and reads NCCL's log.

It needs the standard library and torch alone, because this very file is also sent to other hosts, which have no
hostcheck: there, `torchrun THIS_FILE PLAN` measures what the plan says, and rank 0 prints a line of JSON for each size.

Sizes and bus bandwidth are those of nccl-tests: bytes of the whole buffer, and what a link would have carried had the
ranks sat in a ring.
"""

import ctypes
import json
import os
import re
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

MARK = "hostcheck-rank "
"""Begins each line that is a result; torchrun and NCCL print others."""
MANY = 20
LARGE = 64 << 20
"""From so many bytes on, each operation is timed by itself, and the data of so many is checked together."""
MANY_SMALL = 100
"""Below, so many are timed, and their data is checked, together."""
_WORD = 4
_CHUNK = 1 << 24
_LOG_LINES = 20
_CHOICE = "Bytes -> Algo"
_PUNCH_HOLE = 3  # FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
_MOST = 1000
_ALGORITHMS = ("tree", "ring", "collnet direct", "collnet chain", "nvls", "nvls tree", "pat")
_PROTOCOLS = ("ll", "ll128", "simple")

FACTORS: dict[str, Callable[[int], float]] = {
    "all-reduce": lambda n: 2 * (n - 1) / n,
    "all-gather": lambda n: (n - 1) / n,
    "reduce-scatter": lambda n: (n - 1) / n,
    "all-to-all": lambda n: (n - 1) / n,
    "send-receive": lambda _: 1.0,
}
"""Bytes on a link of a ring for each byte of the size, by operation and number of ranks: nccl-tests, PERFORMANCE.md."""


def _thinned(times: list[float]) -> list[float]:
    """Return means of as many neighbours each that no more than `_MOST` numbers are left."""
    many = -(-len(times) // _MOST)
    return times if many <= 1 else [statistics.fmean(times[at : at + many]) for at in range(0, len(times), many)]


class Ranks:
    """All ranks, as one of them sees them.

    Attributes:
        rank, size: which one, of how many.
        device: where its data is: a GPU for NCCL, the CPU for Gloo.
    """

    def __init__(self, backend: str, ordinal: int, seconds: float) -> None:
        """Join the others; RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are in the environment.

        Args:
            backend: "nccl" or "gloo".
            ordinal: the GPU, as CUDA counts in this process.
            seconds: limit for joining, and for each operation.
        """
        self._log = _log_to_memory() if backend == "nccl" else None
        self._read = 0
        self._said: list[str] = []
        self._chosen: Counter[str] = Counter()
        import torch
        import torch.distributed as dist

        self.torch = torch
        self.dist = dist
        self.backend = backend
        self.device = torch.device("cuda", ordinal) if backend == "nccl" else torch.device("cpu")
        if backend == "nccl":
            torch.cuda.set_device(self.device)
        limit = timedelta(seconds=seconds)
        self.store, self.rank, self.size = next(dist.rendezvous("env://", timeout=limit))
        self.store.set_timeout(limit)
        dist.init_process_group(backend, store=self.store, rank=self.rank, world_size=self.size, timeout=limit)
        self._number = 0

    def share(self, mine: Any) -> list[Any]:
        """Give a value to all ranks and return what each of them gave; not through what is measured."""
        self._number += 1
        place = f"hostcheck/{self._number}"
        self.store.set(f"{place}/{self.rank}", json.dumps(mine))
        if self.rank == 0:
            all_of_them = [json.loads(self.store.get(f"{place}/{rank}")) for rank in range(self.size)]
            self.store.set(place, json.dumps(all_of_them))
            # Whoever gave a value now has read those before; an hour of them would fill the memory.
            before = f"hostcheck/{self._number - 1}"
            for key in (before, *(f"{before}/{rank}" for rank in range(self.size))):
                self.store.delete_key(key)
        shared: list[Any] = json.loads(self.store.get(place))
        return shared

    def measure(self, operation: str, size: int, seconds: float, *, whole: bool = False) -> dict[str, Any]:
        """Time one operation at one size.

        Args:
            operation: a key of `FACTORS`.
            size: bytes; rounded down to what all ranks can share evenly.
            seconds: how long, at most, when all goes well.
            whole: all of that time is to be used; otherwise 50 batches are enough.

        Returns:
            operation, bytes, ranks; `seconds` of each repetition, the mean over the ranks; `wrong`: elements that are
            not as they should be, by rank; `log`: what NCCL said, see `read_log`; `per_rank`: median seconds.
        """
        torch = self.torch
        count = max(1, size // _WORD // self.size) * self.size
        work = _Work(self, operation, count)
        batch = work.batch
        work.prepare()
        # The first one makes connections; how long the next takes says how many there is time for.
        self._run(work, 1, 1)
        pace = max(self.share(sum(self._run(work, 2, 1)) / 2))
        batches = max(1, min(50, int(seconds / max(pace * batch, 1e-6))))
        if batches == 1:
            batch = max(2, min(batch, int(seconds / max(pace, 1e-6))))
        large = size >= LARGE
        self._drain()
        self._chosen.clear()
        times: list[float] = []
        wrong = 0
        begun = time.monotonic()
        while True:
            for _ in range(batches):
                work.prepare()
                times += self._run(work, batch, 1) if large else self._run(work, 1, batch)
                wrong += work.wrong(batch)
            if whole:
                self._drain()
            # All go on for as long as the first of them has time.
            if not whole or self.share(time.monotonic() - begun)[0] >= seconds:
                break
        times = _thinned(times)
        logged = self.share({"times": times, "wrong": wrong, "log": self._read_log()})
        del work
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        return {
            "operation": operation,
            "bytes": count * _WORD,
            "ranks": self.size,
            "seconds": [statistics.fmean(each) for each in zip(*(one["times"] for one in logged), strict=True)],
            "per_rank": [statistics.median(one["times"]) for one in logged],
            "wrong": {str(rank): one["wrong"] for rank, one in enumerate(logged) if one["wrong"]},
            "log": merge_logs([one["log"] for one in logged]),
        }

    def _run(self, work: "_Work", count: int, each: int) -> list[float]:
        """Do an operation `count` times `each` times and return the seconds that one takes; waits for the end."""
        self.share(0)
        if self.device.type == "cpu":
            marks = [time.perf_counter()]
            for _ in range(count):
                for _ in range(each):
                    work.operate()
                marks.append(time.perf_counter())
            return [(second - first) / each for first, second in pairwise(marks)]
        events = [self.torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
        events[0].record()
        for number in range(count):
            for _ in range(each):
                work.operate()
            events[number + 1].record()
        self.torch.cuda.synchronize()
        return [first.elapsed_time(second) / 1e3 / each for first, second in pairwise(events)]

    def _drain(self) -> None:
        """Take in what NCCL wrote since, and give its memory back: it writes a line for each operation."""
        if self._log is None:
            return
        text = os.pread(self._log, max(0, os.fstat(self._log).st_size - self._read), self._read)
        text = text[: text.rfind(b"\n") + 1]
        self._read += len(text)
        lines = text.decode("utf-8", "replace").splitlines()
        self._chosen.update(read_log("\n".join(line for line in lines if _CHOICE in line))["chosen"])
        self._said += [line for line in lines if _CHOICE not in line]
        ctypes.CDLL(None).fallocate(self._log, _PUNCH_HOLE, ctypes.c_long(0), ctypes.c_long(self._read))

    def _read_log(self) -> dict[str, Any]:
        """Return what the whole log says of connections, and what was chosen in this measurement."""
        self._drain()
        return {**read_log("\n".join(self._said)), "chosen": dict(self._chosen)}


class _Work:
    """One operation with its buffers.

    The data is made of an element's number and its rank by integer arithmetic, so that each rank can tell what another
    one has, on whichever hardware. The numbers are small enough that sums of all ranks are exact in FP32.
    """

    def __init__(self, ranks: Ranks, operation: str, count: int) -> None:
        self.ranks = ranks
        self.operation = operation
        self.count = count
        torch, n = ranks.torch, ranks.size
        self.part = count // n
        self.bits = max(1, 22 - max(1, (n - 1).bit_length()))
        # An all-reduce is done in place, and multiplies what is there by the number of ranks.
        self.batch = MANY if count * _WORD >= LARGE else MANY_SMALL
        if operation == "all-reduce":
            self.batch = min(self.batch, max(1, 100 // max(1, (n - 1).bit_length())))
        before = {"all-gather": self.part}.get(operation, count)
        after = {"all-reduce": 0, "reduce-scatter": self.part}.get(operation, count)
        self.source = torch.empty(before, dtype=torch.float32, device=ranks.device)
        self.target = torch.empty(after, dtype=torch.float32, device=ranks.device) if after else self.source

    def prepare(self) -> None:
        """Write the data, and fill with NaN what is to be written."""
        rank = self.ranks.rank
        first = rank * self.part if self.operation == "all-gather" else 0
        for at in range(0, len(self.source), _CHUNK):
            some = self.source[at : at + _CHUNK]
            some.copy_(self._pattern(0 if self.operation == "all-gather" else rank, first + at, len(some)))
        if self.target is not self.source:
            self.target.fill_(float("nan"))

    def operate(self) -> None:
        """Do it once, in order with all else on this device's current stream."""
        dist, ranks = self.ranks.dist, self.ranks
        if self.operation == "all-reduce":
            dist.all_reduce(self.source)
        elif self.operation == "all-gather":
            _either(dist, "all_gather_single", "all_gather_into_tensor")(self.target, self.source)
        elif self.operation == "reduce-scatter":
            _either(dist, "reduce_scatter_single", "reduce_scatter_tensor")(self.target, self.source)
        elif self.operation == "all-to-all":
            dist.all_to_all_single(self.target, self.source)
        else:
            after, before = (ranks.rank + 1) % ranks.size, (ranks.rank - 1) % ranks.size
            for request in dist.batch_isend_irecv([
                dist.P2POp(dist.isend, self.source, after),
                dist.P2POp(dist.irecv, self.target, before),
            ]):  # fmt: skip
                request.wait()

    def wrong(self, times: int) -> int:
        """Return how many elements are not what they should be after so many operations since the last `prepare`."""
        bad = 0
        for at in range(0, len(self.target), _CHUNK):
            found = self.target[at : at + _CHUNK]
            expected = self._expected(at, len(found))
            if self.operation == "all-reduce":
                # Exact where the number of ranks is a power of two, else rounded once a time.
                expected = expected * float(self.ranks.size) ** (times - 1)
                bad += int(((found - expected).abs() > expected.abs() * (times * 2.0**-23)).sum())
                bad += int(found.isnan().sum())
            else:
                bad += int((found != expected).sum())
        return bad

    def _expected(self, at: int, length: int) -> Any:
        n, rank = self.ranks.size, self.ranks.rank
        if self.operation == "all-gather":
            return self._pattern(0, at, length)
        if self.operation == "send-receive":
            return self._pattern((rank - 1) % n, at, length)
        if self.operation == "all-to-all":
            # The part that each of them has for me, one after the other.
            pieces = []
            while length:
                sender, offset = divmod(at, self.part)
                take = min(length, self.part - offset)
                pieces.append(self._pattern(sender, rank * self.part + offset, take))
                at, length = at + take, length - take
            return self.ranks.torch.cat(pieces)
        first = at + (rank * self.part if self.operation == "reduce-scatter" else 0)
        total = self._pattern(0, first, length)
        for other in range(1, n):
            total += self._pattern(other, first, length)
        return total

    def _pattern(self, rank: int, first: int, length: int) -> Any:
        """Return elements of a rank's data from a position on: integers with both signs, no two ranks alike."""
        torch = self.ranks.torch
        number = torch.arange(first, first + length, dtype=torch.int64, device=self.ranks.device)
        number = (number + rank * 0x9E3779B1 + 1) * 0x5851F42D
        number ^= number >> 15
        number = (number * 0x2C1B3C6D) & 0x7FFFFFFFFFFFFFFF
        number ^= number >> 21
        return ((number & ((2 << self.bits) - 1)) - (1 << self.bits)).to(torch.float32)


def _either(module: Any, new: str, old: str) -> Any:
    """Return a function by its new name, or by the one that releases of torch before 2.13 have for it."""
    return getattr(module, new, None) or getattr(module, old)


def _log_to_memory() -> int:
    """Let NCCL write what it does into memory of this process, before it is loaded; return the descriptor.

    Only what is said and where to is set. How NCCL is to work stays as the environment has it.
    """
    log = os.memfd_create("nccl")
    os.environ["NCCL_DEBUG"] = "INFO"
    os.environ["NCCL_DEBUG_SUBSYS"] = "INIT,ENV,TUNING"
    os.environ["NCCL_DEBUG_FILE"] = f"/proc/self/fd/{log}"
    return log


def read_log(text: str) -> dict[str, Any]:
    """Return what NCCL's log (INIT, ENV, TUNING) says of how the ranks talk.

    Returns:
        version; `via`: connections by transport, such as {"P2P/CUMEM": 48}; `chosen`: operations by what was chosen
        for them, such as {"ring simple": 20}; `nvls`: whether multicast through the switch was set up; `set`: what the
        environment sets; `warnings`: the first of them.
    """
    version = re.search(r"NCCL version ([0-9][\w.]*)", text)
    via = Counter(_transport(found) for found in re.findall(r"Channel [\d/ ]+:.*? via (\S+(?: pointer\S*)?)", text))
    chosen: Counter[str] = Counter()
    for algorithm, protocol in re.findall(r"Bytes -> Algo (\w+) proto (\w+)", text):
        chosen[f"{_word(algorithm, _ALGORITHMS)} {_word(protocol, _PROTOCOLS)}"] += 1
    return {
        "version": version[1] if version else "",
        "via": dict(via),
        "chosen": dict(chosen),
        "nvls": bool(re.search(r"[1-9]\d* nvls channels", text)),
        "set": dict(re.findall(r"(NCCL_\w+) set by environment to (\S+?)\.?(?:\s|$)", text)),
        "warnings": list(dict.fromkeys(re.findall(r"NCCL WARN (.{1,200})", text)))[:_LOG_LINES],
    }


def _transport(found: str) -> str:
    """Return the kind of a transport without the number of the device: "NET/IB/3/GDRDMA" is "NET/IB/GDRDMA"."""
    return "/".join(part for part in found.split("/") if not part.isdigit() and not re.fullmatch(r"\d+\(\d+\)", part))


def _word(found: str, known: tuple[str, ...]) -> str:
    """Return a name in our words; before version 2.24 the log has numbers."""
    if found.isdigit():
        return known[int(found)] if int(found) < len(known) else found
    plain = found.lower().replace("_", " ")
    return next((word for word in known if word.replace(" ", "") == plain.replace(" ", "")), plain)


def merge_logs(logs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return what the logs of all ranks say together."""
    via: Counter[str] = Counter()
    chosen: Counter[str] = Counter()
    settings: dict[str, str] = {}
    warnings: dict[str, None] = {}
    for log in logs:
        via.update(log["via"])
        chosen.update(log["chosen"])
        settings.update(log["set"])
        warnings.update(dict.fromkeys(log["warnings"]))
    return {
        "version": next((log["version"] for log in logs if log["version"]), ""),
        "via": dict(via),
        "chosen": dict(chosen),
        "nvls": any(log["nvls"] for log in logs),
        "set": settings,
        "warnings": list(warnings)[:_LOG_LINES],
    }


def main() -> None:
    """Measure what a plan says: {"backend", "cases": [[operation, bytes, seconds], ...], "limit": seconds}."""
    plan = json.loads(sys.argv[1])
    ranks = Ranks(plan["backend"], int(os.environ.get("LOCAL_RANK", "0")), plan["limit"])
    named = str(ranks.torch.cuda.get_device_name(ranks.device)) if ranks.device.type == "cuda" else "cpu"
    who = ranks.share([socket.gethostname(), ranks.device.index or 0, named])
    for operation, size, seconds in plan["cases"]:
        found = ranks.measure(operation, size, seconds)
        if ranks.rank == 0:
            print(MARK + json.dumps({**found, "who": who, "torch": ranks.torch.__version__}), flush=True)
    ranks.share(0)
    ranks.dist.destroy_process_group()


if __name__ == "__main__":
    main()
