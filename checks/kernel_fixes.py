"""How kernel settings are changed, in words that hold on Debian, Ubuntu and RHEL alike."""

from __future__ import annotations

from hostcheck.expect import Expectation
from hostcheck.matchers import Between, OneOf

# After 99-sysctl.conf, which Debian and Ubuntu link to /etc/sysctl.conf: the last file holds.
_DROP_IN = "/etc/sysctl.d/zz-gpu-{}.conf"


def target(expectation: Expectation) -> str:
    """Return a value that an expectation accepts, to be written into a command."""
    matcher = expectation.matcher
    if isinstance(matcher, OneOf):
        return str(matcher.values[0])
    if isinstance(matcher, Between):
        return str(matcher.low)
    return str(getattr(matcher, "value", "VALUE"))


def sysctl(name: str, expectation: Expectation) -> str:
    """Return the commands that set a sysctl now and for later boots."""
    value = target(expectation)
    return f"sysctl -w {name}={value} && echo '{name} = {value}' > {_DROP_IN.format(name)}"


def boot_argument(argument: str, *, remove: str = "") -> str:
    """Return the steps that put an argument on the kernel's command line, or take one away."""
    grubby = [f"--args='{argument}'"] * bool(argument) + [f"--remove-args='{remove}'"] * bool(remove)
    edit = " and ".join([f"add {argument}"] * bool(argument) + [f"drop {remove}"] * bool(remove))
    return (
        f"Debian, Ubuntu: {edit} in GRUB_CMDLINE_LINUX of /etc/default/grub, then update-grub. "
        f"RHEL: grubby --update-kernel=ALL {' '.join(grubby)}. Then drain the host and reboot it."
    )


def sysfs(path: str, word: str) -> str:
    """Return the commands that write a word to sysfs now and at every boot."""
    name = "-".join(path.split("/")[-2:])
    return f"echo {word} > {path} && echo 'w {path} - - - - {word}' > /etc/tmpfiles.d/zz-gpu-{name}.conf"
