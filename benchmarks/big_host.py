"""A synthetic host of fleet shape, as a tree of files.

512 CPUs, 8 NUMA nodes, 4,000 interrupts, 300 PCI functions, and 200 ports of PCI Express switches above them.
"""

from __future__ import annotations

from pathlib import Path

CPUS, NODES, IRQS, FUNCTIONS, PORTS = 512, 8, 4_000, 300, 200


def build(root: Path, *, cpus: int = CPUS, irqs: int = IRQS, functions: int = FUNCTIONS) -> Path:
    """Write the tree and return its root."""
    files: dict[str, str] = {}
    per_node = cpus // NODES
    for cpu in range(cpus):
        base = f"sys/devices/system/cpu/cpu{cpu}"
        node, sibling = cpu // per_node, cpu ^ 1
        files |= {
            f"{base}/topology/core_id": str(cpu // 2),
            f"{base}/topology/physical_package_id": str(node // 4),
            f"{base}/topology/thread_siblings_list": f"{min(cpu, sibling)}-{max(cpu, sibling)}",
            f"{base}/cpufreq/scaling_governor": "performance",
            f"{base}/cpufreq/scaling_driver": "intel_pstate",
            f"{base}/cpufreq/energy_performance_preference": "performance",
            f"{base}/thermal_throttle/core_throttle_count": "0",
            f"{base}/thermal_throttle/package_throttle_count": "0",
        }
        for state, (name, latency) in enumerate((("POLL", 0), ("C1", 1), ("C1E", 2), ("C6", 170))):
            files |= {
                f"{base}/cpuidle/state{state}/name": name,
                f"{base}/cpuidle/state{state}/latency": str(latency),
                f"{base}/cpuidle/state{state}/disable": "0",
            }
    for node in range(NODES):
        base = f"sys/devices/system/node/node{node}"
        files |= {
            f"{base}/cpulist": f"{node * per_node}-{(node + 1) * per_node - 1}",
            f"{base}/distance": " ".join("10" if other == node else "21" for other in range(NODES)),
            f"{base}/meminfo": f"Node {node} MemTotal:       264000000 kB\nNode {node} MemFree: 200000000 kB",
        }
    for irq in range(irqs):
        cpu = irq % cpus
        files |= {
            f"proc/irq/{irq}/smp_affinity_list": str(cpu),
            f"proc/irq/{irq}/effective_affinity_list": str(cpu),
            f"proc/irq/{irq}/node": str(cpu // per_node),
            f"sys/kernel/irq/{irq}/actions": f"mlx5_comp{irq}",
        }
    files |= {
        "sys/devices/system/cpu/online": f"0-{cpus - 1}",
        "sys/devices/system/cpu/present": f"0-{cpus - 1}",
        "sys/devices/system/cpu/possible": f"0-{cpus - 1}",
        "sys/devices/system/cpu/isolated": "",
        "sys/devices/system/node/online": f"0-{NODES - 1}",
        "sys/devices/system/node/has_cpu": f"0-{NODES - 1}",
        "sys/devices/system/node/has_memory": f"0-{NODES - 1}",
        "proc/cpuinfo": "".join(
            f"processor\t: {cpu}\nvendor_id\t: GenuineIntel\nmodel name\t: Synthetic CPU\n"
            f"flags\t\t: fpu vme {'x' * 800}\n\n"
            for cpu in range(cpus)
        ),
        "proc/meminfo": "MemTotal:       2112000000 kB\nMemAvailable:   2000000000 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB",
        "proc/sys/kernel/hostname": "big",
        "proc/sys/kernel/osrelease": "6.8.0-generic",
        "proc/version": "Linux version 6.8.0-generic (builder) #1 SMP",
        "proc/cmdline": "quiet iommu=pt",
        "proc/sys/kernel/numa_balancing": "0",
        "proc/sys/vm/swappiness": "10",
        "proc/swaps": "Filename Type Size Used Priority",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never",
        "sys/class/dmi/id/sys_vendor": "Synthetic",
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    for number in range(functions):
        _function(root, number, functions)
    for number in range(PORTS):
        port = root / f"sys/bus/pci/drivers/pcieport/0001:{number // 8:02x}:{number % 8:02x}.0"
        port.mkdir(parents=True)
        (port / "config").write_bytes(bytes.fromhex("b510498707041000") + bytes(4088))
    return root


def _function(root: Path, number: int, functions: int) -> None:
    address = f"0000:{number // 8:02x}:{number % 8:02x}.0"
    device = root / "sys/devices/pci0000:00" / address
    device.mkdir(parents=True)
    gpu = number % (functions // 8) == 0
    for name, text in {
        "vendor": "0x10de" if gpu else "0x15b3",
        "device": "0x2330" if gpu else "0x1021",
        "subsystem_vendor": "0x10de",
        "subsystem_device": "0x16c1",
        "class": "0x030200" if gpu else "0x020700",
        "revision": "0xa1",
        "numa_node": str(number * NODES // functions),
        "local_cpulist": "0-63",
        "current_link_speed": "32.0 GT/s PCIe",
        "current_link_width": "16",
        "max_link_speed": "32.0 GT/s PCIe",
        "max_link_width": "16",
        "aer_dev_correctable": "TOTAL_ERR_COR 0",
        "aer_dev_fatal": "TOTAL_ERR_FATAL 0",
        "aer_dev_nonfatal": "TOTAL_ERR_NONFATAL 0",
    }.items():
        (device / name).write_text(text + "\n")
    (device / "msi_irqs").mkdir()
    for irq in range(number * 13, number * 13 + 13):
        (device / "msi_irqs" / str(irq)).write_text("msix\n")
    link = root / "sys/bus/pci/devices" / address
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(f"../../../devices/pci0000:00/{address}")
