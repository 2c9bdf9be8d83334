"""What kind of machine this is."""

from __future__ import annotations

from hostcheck.errors import NotApplicable, Unavailable
from hostcheck.expect import Expect, Key
from hostcheck.facts.platform import PLATFORM, Platform
from hostcheck.model import Finding, Severity
from hostcheck.registry import check

KIND = Key("platform.identified", str, words=("bare-metal", "vm", "container"))


@check(
    PLATFORM,
    id="platform.identified",
    severity=Severity.INFO,
    rows=["x-os-virtualized"],
    keys=[KIND],
    references=["https://www.freedesktop.org/software/systemd/man/latest/systemd-detect-virt.html"],
)
def identified(platform: Platform, expect: Expect) -> Finding:
    """Whether this is bare metal, a virtual machine or a container is known, and is what the site says.

    Frequencies, idle states, PCIe paths, access control services and the IOMMU mean something else in a guest, and in
    a container some settings are the host's and others its own. Figures measured in a guest hold for that guest only.
    """
    parts = (platform.vendor, platform.product, platform.cloud and f"cloud {platform.cloud}", platform.architecture)
    known = [part for part in parts if part and not isinstance(part, Unavailable | NotApplicable)]
    fix = "Run hostcheck on the host itself, or change what the site expects."
    return expect(KIND).judge(platform.kind, say=", ".join([platform.label, *known]), fix=fix)
