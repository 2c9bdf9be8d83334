"""The boot loader: which tool keeps the kernel's arguments, and what they will be at the next boot."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from hostcheck.errors import Unavailable
from hostcheck.facts.base import Fact
from hostcheck.facts.kernel import Cmdline, parse_cmdline
from hostcheck.snapshot.probes import KIB, CommandProbe, FileProbe, ListProbe
from hostcheck.snapshot.reading import Ending, Reading

_DEFAULT, _DROP_INS = "/etc/default/grub", "/etc/default/grub.d"
_UPDATE = ("/usr/sbin/update-grub", "/sbin/update-grub")

GRUB_PROBE = FileProbe("kernel.grub", (_DEFAULT, f"{_DROP_INS}/*.cfg"), limit=256 * KIB)
GRUB_TOOLS_PROBE = ListProbe("kernel.grub-tools", (*_UPDATE, _DROP_INS))
GRUBBY_PROBE = CommandProbe("kernel.grubby", ("grubby", "--info=ALL"))


@dataclass(frozen=True, slots=True, kw_only=True)
class BootConfig:
    """How the kernel's arguments are set for later boots.

    Attributes:
        tool: "grub" (drop-ins of /etc/default/grub.d and update-grub) or "grubby"; empty for a boot loader that
            hostcheck does not change.
        arguments: what the kernel will be given at the next boot; empty without a tool.
    """

    tool: str
    arguments: Cmdline


def parse_grub_default(texts: Iterable[str]) -> str:
    """Return the kernel's arguments that files of /etc/default/grub set, read in order as a shell does.

    Raises:
        Unavailable: one of them needs a shell to be understood.

    Sample:
        GRUB_DEFAULT=0
        GRUB_TIMEOUT=0
        GRUB_DISTRIBUTOR=`( . /etc/os-release; echo ${NAME:-Ubuntu} ) 2>/dev/null || echo Ubuntu`
        GRUB_CMDLINE_LINUX_DEFAULT="quiet splash"
        GRUB_CMDLINE_LINUX=""
        GRUB_CMDLINE_LINUX_DEFAULT="$GRUB_CMDLINE_LINUX_DEFAULT console=ttyS0"
    """
    values = {"GRUB_CMDLINE_LINUX": "", "GRUB_CMDLINE_LINUX_DEFAULT": ""}
    for text in texts:
        for row in text.replace("\\\n", " ").splitlines():
            found = re.fullmatch(r"\s*(?:export\s+)?(GRUB_CMDLINE_LINUX(?:_DEFAULT)?)(\+?)=(.*)", row)
            if not found:
                continue
            quoted = re.fullmatch(r"""\s*(?:"([^"]*)"|'([^']*)'|([^\s"'#;]*))\s*(?:#.*)?""", found[3])
            if not quoted:
                raise Unavailable(f"{_DEFAULT} sets {found[1]} in a way that only a shell understands", GRUB_PROBE.id)
            value = quoted[2]
            if value is None:
                value = re.sub(
                    r"\$(?:\{(GRUB_CMDLINE_LINUX(?:_DEFAULT)?)\}|(GRUB_CMDLINE_LINUX(?:_DEFAULT)?)\b)",
                    lambda name: values[name[1] or name[2]],
                    quoted[1] if quoted[1] is not None else quoted[3],
                )
                if re.search(r"[$`]", value):
                    raise Unavailable(f"{_DEFAULT} computes {found[1]}", GRUB_PROBE.id)
            values[found[1]] = f"{values[found[1]]}{value}" if found[2] else value
    return f"{values['GRUB_CMDLINE_LINUX']} {values['GRUB_CMDLINE_LINUX_DEFAULT']}".strip()


def parse_grubby(text: str) -> str:
    """Return the arguments on which all installed kernels agree.

    Raises:
        Unavailable: they do not agree, or no kernel is listed.

    Sample:
        index=0
        kernel="/boot/vmlinuz-5.14.0-570.el9.x86_64"
        args="ro crashkernel=1G-4G:192M,4G-64G:256M,64G-:512M rd.lvm.lv=rhel/root $tuned_params"
        root="/dev/mapper/rhel-root"
        initrd="/boot/initramfs-5.14.0-570.el9.x86_64.img $tuned_initrd"
        title="Red Hat Enterprise Linux (5.14.0-570.el9.x86_64) 9.6 (Plow)"
        id="0123456789abcdef0123456789abcdef-5.14.0-570.el9.x86_64"
    """
    lines = re.findall(r'^args="(.*)"$', text, re.MULTILINE)
    if not lines:
        raise Unavailable("grubby lists no kernel", GRUBBY_PROBE.id)
    if len(set(lines)) > 1:
        raise Unavailable("the installed kernels are given different arguments", GRUBBY_PROBE.id)
    return str(lines[0])


def read_tool(grub: Reading, tools: Reading, grubby: Reading) -> str:
    """Return which tool is there, as `BootConfig` names it, also where its arguments are not for this user to read.

    Raises:
        Unavailable: it was not looked for.
    """
    if grubby.ending in (Ending.OK, Ending.EXIT):
        return "grubby"
    if grubby.ending is not Ending.ABSENT:
        raise grubby.unavailable()
    grub.check()
    default = grub.files.get(_DEFAULT)
    has_tool = any(tools.entry(path) is not None for path in _UPDATE) and tools.entry(_DROP_INS) is not None
    return "grub" if has_tool and default is not None and default.ending is not Ending.ABSENT else ""


def read_boot_config(grub: Reading, tools: Reading, grubby: Reading) -> BootConfig:
    """Return the tool that is there, and the arguments as it would show them.

    Raises:
        Unavailable: the arguments could not be read.
    """
    tool = read_tool(grub, tools, grubby)
    if tool == "grubby":
        told = parse_grubby(grubby.text())
    elif tool == "grub":
        told = parse_grub_default([grub.read(_DEFAULT) or "", *grub.glob(f"{_DROP_INS}/*.cfg").values()])
    else:
        told = ""
    return BootConfig(tool=tool, arguments=parse_cmdline(told))


BOOT_CONFIG: Fact[BootConfig] = Fact("kernel.boot-config", read_boot_config, GRUB_PROBE, GRUB_TOOLS_PROBE, GRUBBY_PROBE)
BOOT_TOOL: Fact[str] = Fact("kernel.boot-tool", read_tool, GRUB_PROBE, GRUB_TOOLS_PROBE, GRUBBY_PROBE)
