"""One rank of the comparison in gpu_reference.py: ours and a plain loop of all-reduce, as rank 0 is told on its input.

RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT are in the environment. Rank 0 reads "ours" or "plain" and prints GB/s of
bus bandwidth.
"""

from __future__ import annotations

import os
import sys
from statistics import median
from typing import Any

from hostcheck.bench.collective import FACTORS, Ranks

SIZE = 2 << 30
_TIMES = 20


def plain(ranks: Ranks, buffer: Any) -> float:
    """Return the seconds of one all-reduce in a loop as anybody would write it."""
    torch, dist = ranks.torch, ranks.dist
    buffer.uniform_()
    dist.all_reduce(buffer)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(_TIMES):
        dist.all_reduce(buffer)
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1e3 / _TIMES


def main() -> None:
    """Serve until rank 0's input ends."""
    ranks = Ranks("nccl", int(os.environ["RANK"]), 60.0)
    buffer = ranks.torch.empty(SIZE // 4, device=ranks.device)
    while word := ranks.share(sys.stdin.readline().strip() if ranks.rank == 0 else "")[0]:
        if word == "ours":
            found = ranks.measure("all-reduce", SIZE, 0.3)
            assert not found["wrong"], found["wrong"]
            seconds = median(found["seconds"])
        else:
            seconds = plain(ranks, buffer)
        if ranks.rank == 0:
            print(SIZE * FACTORS["all-reduce"](ranks.size) / seconds / 1e9, flush=True)
    ranks.dist.destroy_process_group()


if __name__ == "__main__":
    main()
