"""Runs built by hand, for everything that shows or stores one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hostcheck.model import (
    Actor,
    Attestation,
    Expected,
    Figure,
    Finding,
    Host,
    MeasuredSession,
    ProbeEnding,
    Result,
    Run,
    Severity,
    Status,
    Waiver,
    worst,
)

HOSTILE = (
    "\x1b[31mred\x1b[0m \x1b]8;;http://evil.example\x07link\x1b]8;;\x07 bell\x07 nul\x00 del\x7f c1\x9b2J "
    "rtl\u202egnp.exe zero\u200bwidth\ufeff soft\u00adhyphen line\u2028sep cr\rlf\n# heading\n"
    "[bold red]rich[/] :skull: <script>alert(1)</script> <img src=x onerror=alert(1)> &amp; \"quoted\" 'single' "
    "`code` ``` *star* _under_ ~~strike~~ | cell | [text](javascript:alert(1)) ![img](http://evil.example/x.png) "
    "http://evil.example www.evil.example <!-- comment --> </details></style> {{ 7 * 7 }} {% raw %} $x^2$ "
    "\U000e0041tag \ufe0fselector \u3164filler"
)


def finding(status: str = "pass", summary: str = "it is so", **fields: Any) -> Finding:
    """A finding; `expected` may be given as (text, layer, source)."""
    expected = fields.pop("expected", None)
    if isinstance(expected, tuple):
        text, layer, source = expected
        expected = Expected(text=text, key="some.key", layer=layer, source=source)
    fields.setdefault("subject", "host")
    return Finding(status=Status(status), summary=summary, expected=expected, **fields)


def result(id: str, *findings: Finding, severity: str = "medium", **fields: Any) -> Result:
    """A result whose status is the worst of its findings'."""
    found = findings or (finding(),)
    return Result(
        id=id,
        title=fields.pop("title", "It is as it should be."),
        subsystem=fields.pop("subsystem", id.split(".")[0]),
        severity=Severity(severity),
        status=worst(each.status for each in found),
        findings=tuple(found),
        rationale=fields.pop("rationale", ""),
        **fields,
    )


def run(*results: Result, probes: Sequence[ProbeEnding] = (), **fields: Any) -> Run:
    """A run of these results, in id order."""
    host = fields.pop("host", None) or Host(
        name="node017",
        taken="2026-11-20T22:50:07+00:00",
        privileged=fields.pop("privileged", True),
        facts={
            "System": "Supermicro SYS-821GE-TNHR, bare metal",
            "CPU": "2 × Intel Xeon Platinum 8480C, 112 cores, 2 NUMA nodes",
            "GPU": "8 × NVIDIA H100 80GB HBM3, driver 570.86.15",
            "Kernel": "6.8.0-51-generic, Ubuntu 24.04.1 LTS",
        },
    )
    return Run(
        tool="0.1.0",
        host=host,
        checklist=fields.pop("checklist", "default"),
        role=fields.pop("role", "training"),
        fail_on=Severity(fields.pop("fail_on", "medium")),
        results=tuple(sorted(results, key=lambda each: each.id)),
        probes=tuple(probes),
        **fields,
    )


def empty() -> Run:
    """A run in which nothing was judged."""
    return run()


def healthy() -> Run:
    """A run in which everything passed or does not apply."""
    gpus = [finding(summary="persistence mode is on", subject=f"gpu{n}") for n in range(8)]
    return run(
        result("gpu.persistence", *gpus, title="Persistence mode is on, so that the driver stays loaded between jobs."),
        result("memory.swappiness", title="The kernel hardly swaps out idle pages."),
        result("rdma.link-width", finding("not-applicable", "there is no InfiniBand or RoCE device")),
        probes=[
            ProbeEnding(id="gpu.smi", ending="ok", seconds=1.2),
            ProbeEnding(id="rdma", ending="absent", seconds=0.0),
        ],
    )


def mixed() -> Run:
    """A run with every status, every actor, waivers, a required check, notes and attestations."""
    waiver = Waiver(reason="spare board is on order, ticket 4711", until="2027-01-31", by="ops@example.org")
    at_most = ("at most 10", "defaults-memory", "kernel documentation, admin-guide/sysctl/vm")
    smi = "gpu.nvlink: timeout"
    return run(
        result(
            "gpu.row-remap",
            *(
                finding(summary="no row remapping has failed", subject=f"gpu{n}", observed=0)
                for n in range(8)
                if n != 3
            ),
            finding(
                "fail",
                "row remapping has failed",
                subject="gpu3",
                observed=1,
                expected=("0", "defaults-gpu", "NVIDIA GPU memory error management guide, r570"),
                actor=Actor.REPLACE,
                source="nvidia-smi -q -x",
                fix="# collect evidence for the vendor, then have the GPU replaced:\nsudo nvidia-bug-report.sh",
            ),
            severity="critical",
            title="No memory row of a GPU has failed to be remapped.",
            rationale="A GPU whose spare rows are used up returns wrong data or kills jobs at the next fault. "
            "The driver cannot mend it, e.g. by a reset, since the spare rows are gone for good.",
            references=("https://docs.nvidia.com/deploy/a100-gpu-mem-error-mgmt/index.html",),
        ),
        result(
            "gpu.persistence",
            *(
                finding(
                    "fail",
                    "persistence mode is off",
                    subject=f"gpu{n}",
                    observed="Disabled",
                    expected=("Enabled", "defaults-gpu", "NVIDIA driver persistence guide"),
                    actor=Actor.OPERATOR,
                    fix="sudo systemctl enable --now nvidia-persistenced",
                )
                for n in range(8)
            ),
            rationale="Without it the driver unloads when the last client leaves, and the next job waits 1 to 3 s "
            "per GPU. ECC counters that are not yet saved are lost.",
        ),
        result(
            "gpu.power-limit",
            *(
                finding(
                    "fail",
                    f"the power limit is {650 - n} W",
                    subject=f"gpu{n}",
                    observed=650 - n,
                    expected=("at least 700 W", "gpu/h100-sxm5-80gb", "vendor datasheet"),
                    severity=Severity.HIGH,
                    actor=Actor.OPERATOR,
                    fix=f"sudo nvidia-smi -i {n} -pl 700",
                )
                for n in range(3)
            ),
            *(finding(summary="the power limit is 700 W", subject=f"gpu{n}", observed=700) for n in range(3, 8)),
            rationale="A lower limit costs clock under load: about 7 % of GEMM rate at 650 W.",
        ),
        result(
            "gpu.pending-reset",
            finding(
                "fail",
                "a page retirement is pending",
                subject="gpu5",
                actor=Actor.RESET_GPU,
                fix="# ends every process on GPU 5\nsudo nvidia-smi --gpu-reset -i 5",
            ),
            severity="high",
        ),
        result(
            "kernel.iommu",
            finding(
                "fail",
                "the IOMMU translates DMA (default domain type: Translated)",
                observed="DMA",
                expected=("DMA-FQ or identity", "platform-x86", "GPUDirect Storage guide"),
                actor=Actor.REBOOT,
                fix="# Debian, Ubuntu: add iommu=pt to GRUB_CMDLINE_LINUX in /etc/default/grub\nsudo update-grub\n"
                "# RHEL:\nsudo grubby --update-kernel=ALL --args=iommu=pt\nsudo reboot",
            ),
            severity="medium",
            rationale="Translation adds latency to each peer-to-peer transfer.",
        ),
        result(
            "memory.swappiness",
            finding(
                "fail",
                "swappiness is 60",
                observed=60,
                expected=at_most,
                actor=Actor.TUNE,
                fix="echo 'vm.swappiness = 10' | sudo tee /etc/sysctl.d/90-hostcheck.conf && sudo sysctl --system",
            ),
            severity="low",
        ),
        result(
            "process.nccl-env",
            finding(
                "fail",
                "NCCL_P2P_DISABLE=1 is set in 2 processes",
                subject="pid 4711",
                actor=Actor.APPLICATION,
                fix="unset NCCL_P2P_DISABLE",
            ),
            severity="high",
        ),
        result("power.cap", finding("fail", "the chassis caps power at 8,000 W"), severity="medium"),
        result("software.uptime", finding("fail", "the host has been up for 431 days"), severity="info"),
        result("nvlink.active", finding("unknown", smi, cause="gpu.nvlink"), severity="high"),
        result("nvlink.errors", *(finding("unknown", smi, cause="gpu.nvlink", subject=f"gpu{n}") for n in range(8))),
        result("nvlink.speed", finding("unknown", smi, cause="gpu.nvlink"), required=True),
        result("pci.acs", finding("unknown", "/sys/bus/pci/devices/0000:17:00.0/config: denied", cause="pci.config")),
        result(
            "pci.payload", finding("unknown", "/sys/bus/pci/devices/0000:18:00.0/config: denied", cause="pci.config")
        ),
        *(
            result(
                key,
                finding(
                    "unknown", f"no expected value is known for this hardware (set '{key}' in a checklist)", cause=key
                ),
            )
            for key in ("bench.hbm", "bench.gemm")
        ),
        result(
            "cpu.governor",
            finding("error", "a bug in hostcheck: KeyError: 'scaling_driver'"),
            traceback="Traceback (most recent call last):\n  File \"cpu.py\", line 7, in governor\nKeyError: 'x'",
        ),
        result(
            "network.mtu",
            finding(
                "fail",
                "the MTU is 1500",
                subject="eth2",
                observed=1500,
                waived=waiver,
                expected=("at least 9000", "role-training", "switch vendor guide"),
            ),
            finding(summary="the MTU is 9000", subject="eth3"),
        ),
        result("rdma.link-width", finding("not-applicable", "there is no InfiniBand or RoCE device")),
        result("rdma.link-speed", finding("not-applicable", "there is no InfiniBand or RoCE device")),
        result("slurm.cgroup", finding("skipped", "skipped by site.toml")),
        result("memory.thp-enabled", title="Transparent huge pages are available to programs that ask for them."),
        result("gpu.ecc-mode", *(finding(summary="ECC is on", subject=f"gpu{n}") for n in range(8))),
        probes=[
            ProbeEnding(id="gpu.nvlink", ending="timeout", seconds=30.0, detail="timeout"),
            ProbeEnding(id="gpu.smi", ending="ok", seconds=1.31),
            ProbeEnding(id="pci.config", ending="ok", seconds=0.02),
            ProbeEnding(id="rdma.devices", ending="absent", seconds=0.001),
        ],
        attestations=(
            Attestation(row="site-cooling", answer=True, by="ops@example.org", date="2026-10-01", note="inlet 24 °C"),
            Attestation(row="site-spares", answer=False, by="ops@example.org", date="2026-10-01"),
        ),
        measured=(
            Figure(
                bench="copy.d2h",
                case="pinned",
                unit="GB/s",
                subjects=("gpu0", "gpu1"),
                value=42.0,
                worst=38.8,
                worst_on="gpu1",
                limit=63.02,
                share=66.6,
                floor=72.0,
                is_short=True,
                how="each alone",
                values={"gpu0": 45.2, "gpu1": 38.8},
                statistic="median",
                settings={"bytes": 1 << 28},
                own_settings={"gpu0": {"NUMA node": 0}, "gpu1": {"NUMA node": 1}},
                verified=True,
            ),
            Figure(
                bench="gemm.bf16",
                case="8192",
                unit="TFLOPS",
                subjects=("gpu0",),
                value=681.1,
                worst=681.1,
                worst_on="gpu0",
                limit=989.5,
                share=68.8,
                floor=60.0,
                joules_per_tflop=0.985,
            ),
            Figure(bench="launch.kernel", case="wall", unit="us", subjects=("gpu0",), value=9.25, worst=9.25),
            Figure(
                bench="hbm.triad",
                case="",
                unit="GB/s",
                subjects=("gpu1",),
                value=2000.0,
                limit=3352.0,
                invalid="python (pid 7) ran on the GPU meanwhile",
            ),
        ),
        session=MeasuredSession(
            level="standard", taken="2026-10-02T10:06:31+00:00", seconds=122.4, versions={"driver": "580.159.04"}
        ),
        privileged=False,
    )


def hostile() -> Run:
    """A run in which every text that a host can supply is an attack."""
    text = HOSTILE
    waiver = Waiver(reason=text, until="2027-01-01", by=text)
    ended = Waiver(reason=text, until=text, by=text)
    wanted = (text, text, text)
    return run(
        result(
            "gpu.one",
            finding(
                "fail",
                text,
                subject=text,
                observed=text,
                expected=wanted,
                fix=text,
                source=text,
                actor=Actor.OPERATOR,
                expired=ended,
            ),
            title=text,
            rationale=text,
            references=(text, "javascript:x"),
        ),
        result("gpu.two", finding("unknown", text, subject=text, cause=text, expired=ended), rationale=text),
        result("gpu.three", finding("error", text, subject=text), traceback=text),
        result("gpu.four", finding("fail", text, subject=text, waived=waiver)),
        result("gpu.five", finding("fail", text, subject=text), severity="info"),
        result("gpu.six", finding("not-applicable", text), finding("skipped", text)),
        result(text, finding("pass", text, subject=text), subsystem=text, title=text, required=True),
        host=Host(name=text, taken=text, privileged=True, facts={text: text, "GPU": text}),
        probes=[ProbeEnding(id=text, ending=text, seconds=1.0, detail=text)],
        attestations=(Attestation(row=text, answer=True, by=text, date=text, note=text),),
        measured=tuple(
            Figure(
                bench=text,
                case=text,
                unit=text,
                subjects=(text,),
                value=1.0,
                worst=0.5,
                worst_on=text,
                limit=2.0,
                share=1e9,
                floor=1e9,
                how=text,
                invalid=invalid,
                values={text: 1.0},
                statistic=text,
                settings={text: text},
                own_settings={text: {text: text}},
            )
            for invalid in ("", text)
        ),
        session=MeasuredSession(level=text, taken=text, seconds=1e30, versions={text: text}),
        checklist=text,
        role=text,
    )


def expired() -> Run:
    """A run whose waivers have all ended."""
    waiver = Waiver(reason="spare board is on order, ticket 4711", until="2026-10-31")
    fields: dict[str, Any] = {"actor": Actor.OPERATOR, "expired": waiver}
    return run(
        result("memory.swap", finding("fail", "swap is on", **fields)),
        result(
            "network.mtu",
            finding("fail", "the MTU is 1500", subject="eth2", **fields),
            finding("fail", "the MTU is 576", subject="eth3", actor=Actor.OPERATOR),
        ),
        result("gpu.ecc", finding("unknown", "gpu.smi: timeout", subject="gpu3", cause="gpu.smi", expired=waiver)),
        result("kernel.version", finding("unknown", "no kernel is named", expired=waiver)),
    )


def huge(number: int = 1000) -> Run:
    """A run with many findings of one check, and many checks."""
    many = [
        finding("fail", f"the counter is {n}", subject=f"mlx5_{n}", observed=n, expected=("0", "defaults-rdma", "spec"),
                actor=Actor.OPERATOR, fix=f"sudo mlxlink -d mlx5_{n} --port_state TG")
        for n in range(number)
    ]  # fmt: skip
    checks = [
        result(
            f"pci.check-{n:04d}", finding("fail" if n % 7 == 0 else "pass", f"the width is {n}", actor=Actor.OPERATOR)
        )
        for n in range(number)
    ]
    return run(result("rdma.errors", *many, severity="high"), *checks)


SAMPLES = {"empty": empty, "healthy": healthy, "mixed": mixed, "hostile": hostile, "huge": huge, "expired": expired}
