"""Parsers of kernel settings, command line, IOMMU and limits: samples, corners, and texts of any kind."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.facts import kernel, limits
from hostcheck.facts.kernel import parse_cmdline, setting
from hostcheck.facts.kernel_log import KernelLog, LogLine
from hostcheck.facts.limits import UNLIMITED, Limit
from hostcheck.facts.pci import PciTree
from hostcheck.snapshot.probes import FileProbe
from hostcheck.snapshot.reading import Ending, Entry, FileState, Reading
from support import sample

PARSERS: list[Callable[[str], Any]] = [
    kernel.parse_cmdline,
    kernel.parse_modules,
    kernel.parse_tasks,
    limits.parse_limits,
    limits.parse_limits_conf,
    limits.parse_unit_limit,
    lambda text: limits.parse_settings(text, "Service"),
]
SAMPLES = [*(sample(parser) for parser in PARSERS[:-1]), sample(limits.parse_settings)]
NO_TREE = Unavailable("no PCI")
NO_LOG = Unavailable("dmesg: exit 1", "kernel.dmesg")


def reading(probe: FileProbe, files: Mapping[str, str | FileState]) -> Reading:
    states = {
        path: state if isinstance(state, FileState) else FileState(Ending.OK, state.encode())
        for path, state in files.items()
    }
    return Reading(probe.id, Ending.OK, asked=probe.paths, files=states)


def log(*texts: str, complete: bool = True) -> KernelLog:
    lines = tuple(LogLine(text=text) for text in texts)
    return KernelLog(lines=lines, complete=complete, covers_from="boot" if complete else "9 s", source="dmesg")


def test_command_line() -> None:
    found = parse_cmdline(sample(kernel.parse_cmdline))
    assert found.get("init_on_alloc") == "0"
    assert found.all("console") == ("tty0", "ttyS0,921600")
    assert found.get("console") == "ttyS0,921600"
    assert found.has("quiet")
    assert (found.get("quiet"), found.get("mitigations")) == ("", None)
    assert found.get("dyndbg") == "file drivers/usb/* +p"


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("a=1 a=2", "a", "2"),
        ("nmi-watchdog=0", "nmi_watchdog", "0"),
        ('x="two words" y=1', "x", "two words"),
        ('x="no end y=1', "x", "no end y=1"),
        ("a=1 -- a=2", "a", "1"),
        ("a=b=c", "a", "b=c"),
        ("a=", "a", ""),
        ("", "a", None),
    ],
)
def test_command_line_corners(text: str, name: str, value: str | None) -> None:
    assert parse_cmdline(text).get(name) == value


def test_modules() -> None:
    assert kernel.parse_modules(sample(kernel.parse_modules)) == {"nvidia_uvm", "nvidia", "ib_uverbs"}
    with pytest.raises(Unavailable):
        kernel.parse_modules("cat: /proc/modules: No such file")


def test_tasks() -> None:
    assert kernel.parse_tasks(sample(kernel.parse_tasks)) == 2217


def test_taint_leaves_out_what_is_usual_with_gpu_drivers() -> None:
    assert kernel.parse_taint(12289) == {}
    assert list(kernel.parse_taint(1 << 7 | 1 << 14 | 1 << 9)) == [7, 14]


def test_a_setting_is_a_number_or_a_reason() -> None:
    values = kernel.read_sysctl(
        reading(
            kernel.SYSCTL_PROBE,
            {
                "/proc/sys/vm/swappiness": "60\n",
                "/proc/sys/fs/file-nr": "5184\t0\t9223372036854775807\n",
                "/proc/sys/kernel/core_pattern": "core",
                "/proc/sys/kernel/perf_event_paranoid": "-1",
                "/proc/sys/kernel/kptr_restrict": FileState(Ending.DENIED),
            },
        )
    )
    assert (setting(values, "vm.swappiness"), setting(values, "fs.file-nr")) == (60, 5184)
    assert setting(values, "kernel.perf_event_paranoid") == -1
    with pytest.raises(Unavailable, match="no number"):
        setting(values, "kernel.core_pattern")
    with pytest.raises(Unavailable, match="kptr_restrict"):
        setting(values, "kernel.kptr_restrict")
    with pytest.raises(NotApplicable, match="numa_balancing"):
        setting(values, "kernel.numa_balancing")


def test_settings_that_were_not_collected_are_unknown() -> None:
    values = kernel.read_sysctl(Reading(kernel.SYSCTL_PROBE.id, Ending.NOT_COLLECTED))
    assert all(isinstance(value, Unavailable) for value in values.values())


def test_names_with_dots_in_files_lead_to_folders() -> None:
    assert "/proc/sys/kernel/yama/ptrace_scope" in kernel.SYSCTL_PROBE.paths
    assert "/proc/sys/fs/inotify/max_user_watches" in kernel.SYSCTL_PROBE.paths


def iommu(types: Mapping[str, str], units: tuple[str, ...], cmdline: str, tree: PciTree | Unavailable = NO_TREE) -> Any:
    listing = Reading(
        kernel.IOMMUS_PROBE.id,
        Ending.OK,
        asked=kernel.IOMMUS_PROBE.paths,
        entries={f"/sys/class/iommu/{unit}": Entry("l") for unit in units},
    )
    files = {f"/sys/bus/pci/devices/{address}/iommu_group/type": text for address, text in types.items()}
    boot = reading(kernel.BOOT_PROBE, {"/proc/cmdline": cmdline})
    return kernel.read_iommu(listing, reading(kernel.GROUPS_PROBE, files), boot, tree).state


@pytest.mark.parametrize(
    ("types", "units", "cmdline", "state"),
    [
        ({}, (), "iommu=pt", "off"),
        ({"0000:01:00.0": "identity"}, ("dmar0",), "", "passthrough"),
        ({"0000:01:00.0": "identity", "0000:02:00.0": "DMA"}, ("ivhd0",), "iommu=pt", "translated"),
        ({"0000:01:00.0": "DMA-FQ"}, ("ivhd0",), "", "translated"),
        ({}, ("dmar0",), "intel_iommu=on,pt", "passthrough"),
        ({}, ("smmu3.0x0000000002b00000",), "iommu.passthrough=1", "passthrough"),
    ],
)
def test_iommu(types: Mapping[str, str], units: tuple[str, ...], cmdline: str, state: str) -> None:
    assert iommu(types, units, cmdline) == state


def test_an_iommu_of_which_nothing_tells_the_mode_is_unknown() -> None:
    assert isinstance(iommu({}, ("dmar0",), "intel_iommu=on iommu.passthrough=0"), Unavailable)


@pytest.mark.parametrize(
    ("cmdline", "kernel_log", "on"),
    [
        ("init_on_alloc=0", NO_LOG, False),
        ("init_on_alloc=0 init_on_alloc=1", NO_LOG, True),
        ("ro", log("mem auto-init: stack:all(zero), heap alloc:on, heap free:off"), True),
        ("ro", log("mem auto-init: stack:off, heap alloc:off, heap free:off"), False),
        ("ro", log("Linux version 4.18.0"), False),
    ],
)
def test_init_on_alloc(cmdline: str, kernel_log: KernelLog | Unavailable, on: bool) -> None:
    assert kernel.read_init_on_alloc(reading(kernel.BOOT_PROBE, {"/proc/cmdline": cmdline}), kernel_log) is on


@pytest.mark.parametrize("kernel_log", [NO_LOG, log("eth0: up", complete=False)])
def test_init_on_alloc_by_a_default_that_nothing_tells(kernel_log: KernelLog | Unavailable) -> None:
    with pytest.raises(Unavailable):
        kernel.read_init_on_alloc(reading(kernel.BOOT_PROBE, {"/proc/cmdline": "ro"}), kernel_log)


def test_limits_of_the_session() -> None:
    found = limits.parse_limits(sample(limits.parse_limits))
    assert found["Max stack size"] == Limit(soft=8388608, hard=UNLIMITED)
    assert found["Max open files"] == Limit(soft=1024, hard=524288)
    with pytest.raises(Unavailable):
        limits.parse_limits("Limit  Soft Limit")


def test_limits_conf_in_bytes_and_counts() -> None:
    assert limits.parse_limits_conf(sample(limits.parse_limits_conf)) == (
        ("*", "soft", "memlock", UNLIMITED),
        ("*", "hard", "memlock", UNLIMITED),
        ("@users", "-", "nofile", 131072),
        ("root", "-", "stack", 8192 * 1024),
    )


def test_units() -> None:
    text = sample(limits.parse_settings)
    assert limits.parse_settings(text, "Service")["LimitMEMLOCK"] == "infinity"
    assert limits.parse_settings(text, "Unit") == {
        "Description": "Slurm node daemon",
        "After": "munge.service network.target remote-fs.target",
    }


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("1024:512K", Limit(soft=1024, hard=524288)),
        ("infinity", Limit(soft=UNLIMITED, hard=UNLIMITED)),
        ("64M", Limit(soft=64 << 20, hard=64 << 20)),
        ("8388608:infinity", Limit(soft=8388608, hard=UNLIMITED)),
        ("0", Limit(soft=0, hard=0)),
    ],
)
def test_values_in_units(text: str, limit: Limit) -> None:
    assert limits.parse_unit_limit(text) == limit


def found_limits(files: Mapping[str, str]) -> dict[str, limits.Limits]:
    return {found.subject: found for found in limits.read_limits(reading(limits.LIMITS_PROBE, files))}


def test_a_masked_or_missing_unit_hands_out_nothing() -> None:
    assert set(found_limits({"/proc/self/limits": sample(limits.parse_limits)})) == {"session"}


def test_drop_ins_are_merged_by_name_and_the_sites_hide_the_distributions() -> None:
    unit, site = "/usr/lib/systemd/system/slurmd.service", "/etc/systemd/system/slurmd.service.d"
    files = {
        unit: "[Service]\nLimitMEMLOCK=1M\nLimitNOFILE=10\nLimitSTACK=8M",
        f"{unit}.d/10-a.conf": "[Service]\nLimitMEMLOCK=2M\nLimitNOFILE=20",
        f"{site}/10-a.conf": "[Service]\nLimitNOFILE=30",
        f"{site}/20-b.conf": "# LimitSTACK=1\n[Unit]\nLimitSTACK=2\n[Service]\nLimitSTACK=16M",
    }
    found = found_limits(files)["slurmd"]
    assert found.memlock == Limit(soft=1 << 20, hard=1 << 20)
    assert found.nofile == Limit(soft=30, hard=30)
    assert found.stack == Limit(soft=16 << 20, hard=16 << 20)


def test_the_last_word_of_limits_conf_holds() -> None:
    files = {
        "/etc/security/limits.conf": "* - memlock 64",
        "/etc/security/limits.d/10.conf": "* hard memlock unlimited",
        "/etc/security/limits.d/20.conf": "* soft memlock 128\nroot - memlock unlimited",
    }
    assert found_limits(files)["login"].memlock == Limit(soft=128 * 1024, hard=UNLIMITED)


def test_a_login_keeps_the_limit_that_limits_conf_does_not_set() -> None:
    found = found_limits({"/etc/security/limits.conf": "* soft nofile 65536\n* hard stack unlimited"})["login"]
    assert isinstance(found.nofile, Limit)
    assert isinstance(found.stack, Limit)
    assert (found.nofile.soft, found.stack.hard) == (65536, UNLIMITED)
    assert isinstance(found.nofile.hard, NotApplicable)
    assert isinstance(found.stack.soft, NotApplicable)


@pytest.mark.parametrize(
    ("files", "value"),
    [
        ({"/etc/systemd/logind.conf": "[Login]\n#RemoveIPC=yes"}, None),
        ({"/etc/systemd/logind.conf": "[Login]\nRemoveIPC=yes"}, True),
        ({"/usr/lib/systemd/logind.conf": "[Login]\nRemoveIPC=yes", "/etc/systemd/logind.conf": "[Login]"}, None),
        (
            {
                "/etc/systemd/logind.conf": "[Login]\nRemoveIPC=yes",
                "/etc/systemd/logind.conf.d/9.conf": "[Login]\nRemoveIPC=no",
                "/usr/lib/systemd/logind.conf.d/1.conf": "[Login]\nRemoveIPC=yes",
            },
            False,
        ),
    ],
)
def test_remove_ipc(files: Mapping[str, str], value: bool | None) -> None:
    assert limits.read_remove_ipc(reading(limits.LIMITS_PROBE, files)) is value


def test_remove_ipc_without_systemd() -> None:
    with pytest.raises(NotApplicable):
        limits.read_remove_ipc(reading(limits.LIMITS_PROBE, {}))


def quiet(parse: Callable[..., Any], *arguments: Any) -> None:
    """Call a parser; what it may raise is all that may come out."""
    with contextlib.suppress(Unavailable, NotApplicable):
        parse(*arguments)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200) | st.lists(st.sampled_from("\n".join(SAMPLES).splitlines())).map("\n".join))
def test_any_text_gives_a_value_or_a_reason(text: str) -> None:
    for parser in PARSERS:
        quiet(parser, text)
    files = dict.fromkeys((path for path in limits.LIMITS_PROBE.paths if "*" not in path), text)
    quiet(limits.read_limits, reading(limits.LIMITS_PROBE, files))
    quiet(limits.read_remove_ipc, reading(limits.LIMITS_PROBE, files))
    values = kernel.read_sysctl(reading(kernel.SYSCTL_PROBE, dict.fromkeys(kernel.SYSCTL_PROBE.paths, text)))
    for name in values:
        quiet(setting, values, name)
    quiet(kernel.read_health, values, NO_LOG)
    quiet(kernel.read_init_on_alloc, reading(kernel.BOOT_PROBE, {"/proc/cmdline": text}), log(text))
    iommu({"0000:01:00.0": text}, ("dmar0",), text)
    iommu({}, ("dmar0",), text)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_mutilated_sample_gives_a_value_or_a_reason(data: st.DataObject) -> None:
    for parser, text in zip(PARSERS, SAMPLES, strict=True):
        place = data.draw(st.integers(0, len(text)))
        filler = data.draw(st.text(max_size=6))
        quiet(parser, text[:place] + filler + text[place + len(filler) :])
