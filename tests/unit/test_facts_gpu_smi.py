"""nvidia-smi -q and -q -x: samples, shapes of old and new drivers, errors in place of values, cut text."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

from hostcheck.errors import NotApplicable, Unavailable, need
from hostcheck.facts.gpu import REASONS, TIMED_REASONS, Gpu
from hostcheck.facts.smi_text import parse_text
from hostcheck.facts.smi_xml import parse_xml
from support import sample

SAMPLES = Path(__file__).parent / "samples"
H200_XML = (SAMPLES / "h200-smi-q-x.xml").read_text("utf-8")
H200_TEXT = (SAMPLES / "h200-smi-q.txt").read_text("utf-8")
# What moves between two calls a moment apart.
LIVE = (".draw_w", ".average_w", ".instant_w", ".memory_power_w", ".gpu_c", ".memory_c", ".tlimit_c", ".timestamp",
        ".tx_kb_per_s", ".rx_kb_per_s", ".video_mhz", ".gpu_percent")  # fmt: skip


def one(inner: str, head: str = "<attached_gpus>1</attached_gpus>") -> Gpu:
    """Return the GPU of a report that says nothing but this about it."""
    return parse_xml(f'<nvidia_smi_log>{head}<gpu id="00000000:53:00.0">{inner}</gpu></nvidia_smi_log>').gpus[0]


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Return every field of a tree of dataclasses, by path."""
    if is_dataclass(value) and not isinstance(value, type):
        found: dict[str, Any] = {}
        for part in fields(value):
            found |= leaves(getattr(value, part.name), f"{path}.{part.name}")
        return found
    if isinstance(value, tuple) and value and is_dataclass(value[0]):
        return {key: leaf for at, item in enumerate(value) for key, leaf in leaves(item, f"{path}[{at}]").items()}
    return {path: value}


def test_sample_of_the_xml() -> None:
    log = parse_xml(sample(parse_xml))
    assert (log.driver_version, log.cuda_version, log.attached, log.truncated) == ("580.159.04", "13.0", 1, False)
    (gpu,) = log.gpus
    assert (gpu.index, gpu.bus_id, gpu.minor, gpu.subject) == (0, "0000:00:06.0", 0, "gpu0")
    assert gpu.traits == {"pci": "10de:2335", "gpu_arch": "Hopper"}
    assert gpu.persistence_mode is True
    assert (gpu.pcie.gen, gpu.pcie.max_gen) == (5, 5)
    assert isinstance(gpu.pcie.host_max_gen, NotApplicable)
    assert gpu.ecc.volatile.total_uncorrectable == 0
    assert (gpu.power.draw_w, gpu.power.limit_w) == (124.34, 700.0)
    assert isinstance(gpu.power.default_limit_w, Unavailable)


def test_sample_of_the_text() -> None:
    log = parse_text(sample(parse_text))
    (gpu,) = log.gpus
    assert (log.driver_version, gpu.name, gpu.persistence_mode) == ("580.159.04", "NVIDIA H200", True)
    assert gpu.clocks.active == ("gpu_idle",)
    # It is printed inside of "HW Slowdown", which has a value of its own.
    assert gpu.clocks.reasons["hw_thermal_slowdown"] is False
    assert isinstance(gpu.clocks.reasons["sw_power_cap"], Unavailable)
    assert gpu.processes == ()
    assert gpu.mig.devices == ()
    assert not log.truncated


def test_both_formats_tell_the_same() -> None:
    xml, text = leaves(parse_xml(H200_XML)), leaves(parse_text(H200_TEXT))
    assert xml.keys() == text.keys()
    assert {path for path in xml if xml[path] != text[path] and not path.endswith(LIVE)} == set()
    missing = {path for path, value in xml.items() if isinstance(value, Unavailable)}
    assert {path.removeprefix(".gpus[0]") for path in missing} == {
        ".compute_capability", ".numa_node", ".cpu_affinity", ".reset_required", ".drain_and_reset_recommended",
        ".bar1.reserved_mib", ".protected_memory.reserved_mib", ".clocks.application.sm_mhz",
        ".clocks.application.video_mhz",
        ".clocks.default_application.sm_mhz", ".clocks.default_application.video_mhz",
    }  # fmt: skip


def test_a_real_report_field_by_field() -> None:
    gpu = parse_xml(H200_XML).gpus[0]
    assert (gpu.pci_id, gpu.subsystem_id, gpu.vbios) == ("10de:2335", "10de:18bf", "96.00.A5.00.1A")
    assert (gpu.gsp_firmware, gpu.virtualization, gpu.addressing_mode) == ("580.159.04", "Pass-Through", "None")
    assert (gpu.mig.current, gpu.mig.devices, gpu.ecc.current, gpu.ecc.pending) == (False, (), True, True)
    assert gpu.remapped_rows.banks == {"max": 3072, "high": 0, "partial": 0, "low": 0, "none": 0}
    assert (gpu.remapped_rows.pending, gpu.remapped_rows.failure) == (False, False)
    assert gpu.ecc.sram_sources == {"l2": 0, "sm": 0, "microcontroller": 0, "pcie": 0, "other": 0}
    assert (gpu.ecc.sram_threshold_exceeded, gpu.ecc.unrepairable_memory) == (False, False)
    assert isinstance(gpu.retired_pages.pending, NotApplicable)
    assert (gpu.temperature.shutdown_tlimit_c, gpu.temperature.slowdown_tlimit_c) == (-8, -2)
    assert isinstance(gpu.temperature.slowdown_c, NotApplicable)
    assert (gpu.clocks.max.sm_mhz, gpu.clocks.application.memory_mhz) == (1980, 3201)
    assert set(gpu.clocks.reasons) == set(REASONS)
    assert set(gpu.clocks.counters_us) == set(TIMED_REASONS)
    assert (gpu.memory.total_mib, gpu.bar1.total_mib, gpu.protected_memory.total_mib) == (143771, 262144, 0)
    assert (gpu.fabric.state, gpu.fabric.status, gpu.fabric.clique) == ("Completed", "Success", 0)
    assert isinstance(gpu.fabric.summary, NotApplicable)
    assert (gpu.place.module, gpu.recovery_action, gpu.c2c) == (6, "None", False)
    assert (gpu.faults, gpu.denied) == ((), ())


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("N/A", NotApplicable),
        ("[N/A]", NotApplicable),
        ("Not Supported", NotApplicable),
        ("Requested functionality has been deprecated", Unavailable),
        ("Unknown Error", Unavailable),
        ("[Unknown Error]", Unavailable),
        ("GPU is lost", Unavailable),
        ("Insufficient Permissions", Unavailable),
        ("Function Not Found", Unavailable),
        ("", Unavailable),
        ("perhaps", Unavailable),
    ],
)
def test_what_is_no_value(text: str, kind: type[Exception]) -> None:
    gpu = one(f"<persistence_mode>{text}</persistence_mode><replay_counter/><minor_number>{text}</minor_number>")
    assert isinstance(gpu.persistence_mode, kind)
    assert isinstance(gpu.minor, kind)
    with pytest.raises(kind):
        need(gpu.persistence_mode)


def test_an_error_of_the_gpu_is_a_fault_and_a_refusal_is_none() -> None:
    gpu = one(
        "<fan_speed>[Unknown Error]</fan_speed><power_smoothing>Insufficient Permissions</power_smoothing>"
        "<processes><process_info><pid>7</pid><process_name>ERR!</process_name></process_info></processes>"
    )
    assert gpu.faults == ("fan_speed: [Unknown Error]",)
    assert gpu.denied == ("power_smoothing: Insufficient Permissions",)


def test_an_error_in_place_of_a_branch_holds_for_all_below() -> None:
    gpu = one("<remapped_rows>GPU is lost</remapped_rows><fabric><state>Completed</state></fabric>")
    why = "nvidia-smi: remapped_rows/remapped_row_pending: GPU is lost"
    assert gpu.remapped_rows.pending == Unavailable(why, "gpu.smi")
    assert isinstance(gpu.remapped_rows.banks, Unavailable)
    assert gpu.faults == ("remapped_rows: GPU is lost",)
    none_such = one("<remapped_rows>N/A</remapped_rows>")
    assert isinstance(none_such.remapped_rows.failure, NotApplicable)


def test_units_are_not_guessed() -> None:
    gpu = one("<fb_memory_usage><total>80 GiB</total><used>7 MiB</used></fb_memory_usage>")
    assert isinstance(gpu.memory.total_mib, Unavailable)
    assert gpu.memory.used_mib == 7


def test_generation_zero_is_none() -> None:
    gen = "<pcie_gen><max_host_link_gen>0</max_host_link_gen></pcie_gen>"
    gpu = one(f"<pci><pci_gpu_link_info>{gen}</pci_gpu_link_info></pci>")
    assert isinstance(gpu.pcie.host_max_gen, Unavailable)


def test_power_of_old_and_new_drivers() -> None:
    old = one(
        "<power_readings><power_draw>26.16 W</power_draw><power_limit>250.00 W</power_limit>"
        "<enforced_power_limit>200.00 W</enforced_power_limit></power_readings>"
    )
    assert (old.power.draw_w, old.power.limit_w, old.power.requested_limit_w) == (26.16, 200.0, 250.0)
    assert isinstance(old.power.default_limit_w, Unavailable)
    nested = parse_text(
        "==============NVSMI LOG==============\n"
        "Attached GPUs                     : 1\n"
        "GPU 00000000:0C:00.0\n"
        "    GPU Power Readings\n"
        "        Instantaneous Power Draw  : 97.75 W\n"
        "        GPU Ceiling Power Limit\n"
        "            Current Power Limit   : 250.00 W\n"
        "            Requested Power Limit : 240.00 W\n"
        "        Min Power Limit           : 105.00 W\n"
    ).gpus[0]
    assert (nested.power.draw_w, nested.power.limit_w, nested.power.requested_limit_w) == (97.75, 250.0, 240.0)
    assert nested.power.min_limit_w == 105.0


def test_counters_by_place_become_those_of_two_kinds_of_memory() -> None:
    places = "".join(f"<{place}>{count}</{place}>" for place, count in (
        ("device_memory", 3), ("register_file", 1), ("l1_cache", "N/A"), ("l2_cache", 2), ("total", 6),
    ))  # fmt: skip
    none = places.replace("3", "N/A").replace("1<", "N/A<").replace("2<", "N/A<").replace("6", "N/A")
    bits = f"<single_bit>{places}</single_bit><double_bit>{none}</double_bit>"
    counters = one(f"<ecc_errors><aggregate>{bits}</aggregate></ecc_errors>").ecc.aggregate
    assert (counters.dram_correctable, counters.sram_correctable, counters.total_correctable) == (3, 3, 6)
    assert isinstance(counters.dram_uncorrectable, NotApplicable)
    assert isinstance(counters.sram_uncorrectable, NotApplicable)
    assert counters.by_place["single_bit.device_memory"] == 3


def test_one_count_that_is_lost_makes_the_sum_unknown() -> None:
    gpu = one(
        "<ecc_errors><volatile><sram_uncorrectable_parity>1</sram_uncorrectable_parity>"
        "<sram_uncorrectable_secded>GPU is lost</sram_uncorrectable_secded>"
        "<dram_uncorrectable>0</dram_uncorrectable></volatile></ecc_errors>"
    )
    assert isinstance(gpu.ecc.volatile.sram_uncorrectable, Unavailable)
    assert isinstance(gpu.ecc.volatile.total_uncorrectable, Unavailable)


def report(*gpus: tuple[str, int], attached: int) -> str:
    inner = "".join(f'<gpu id="{bus}"><minor_number>{minor}</minor_number></gpu>' for bus, minor in gpus)
    return f"<nvidia_smi_log><attached_gpus>{attached}</attached_gpus>{inner}</nvidia_smi_log>"


def test_gpus_are_numbered_by_address_whatever_the_order_and_the_minor_numbers() -> None:
    gpus = parse_xml(report(("00000002:00:00.0", 0), ("00000001:00:00.0", 1), attached=2)).gpus
    assert [(gpu.index, gpu.bus_id) for gpu in gpus] == [(0, "0001:00:00.0"), (1, "0002:00:00.0")]
    # Hexadecimal addresses longer than four digits sort as numbers.
    gpus = parse_xml(report(("00010000:00:00.0", 0), ("0000F000:00:00.0", 1), attached=2)).gpus
    assert [gpu.bus_id for gpu in gpus] == ["f000:00:00.0", "10000:00:00.0"]


def test_of_some_gpus_the_minor_number_is_the_index() -> None:
    log = parse_xml(report(("00000000:41:00.0", 3), attached=4))
    assert (log.attached, [gpu.index for gpu in log.gpus]) == (4, [3])


def test_a_gpu_that_cannot_be_opened_keeps_its_number_and_is_named() -> None:
    text = "Unable to determine the device handle for GPU1: 0000:34:00.0: Unknown Error\n" + report(
        ("00000000:33:00.0", 0), ("00000000:35:00.0", 2), attached=2
    )
    log = parse_xml(text)
    assert log.unreadable == ("0000:34:00.0: Unknown Error",)
    assert [gpu.index for gpu in log.gpus] == [0, 2]
    assert not log.truncated


@pytest.mark.parametrize("name", ["GPU 0000:02:00.0", "GPU0000:02:00.0", "GPU0: 0000:02:00.0"])
def test_nothing_but_a_lost_gpu(name: str) -> None:
    line = f"Unable to determine the device handle for {name}: GPU is lost.  Reboot the system to recover this GPU"
    log = parse_xml(line + "\nNo devices were found\n", exit_code=6)
    assert log.unreadable == ("0000:02:00.0: GPU is lost.  Reboot the system to recover this GPU",)
    assert (log.gpus, log.attached) == ((), 1)


def test_no_device_is_knowledge() -> None:
    log = parse_xml("No devices were found\n", exit_code=6)
    assert (log.gpus, log.attached, log.unreadable, log.exit_code) == ((), 0, (), 6)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Failed to initialize NVML: GPU access blocked by the operating system\n",
        "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n",
        "<nvidia_smi_log>",
        "<?xml version='1.0'?><html></html>",
        "<nvidia_smi_log><gpu></gpu></nvidia_smi_log>",
        '<nvidia_smi_log><gpu id="x"></gpu></nvidia_smi_log>',
        report(("00000000:01:00.0", 0), ("00000000:01:00.0", 1), attached=2),
    ],
)
def test_no_report_is_ignorance(text: str) -> None:
    with pytest.raises(Unavailable):
        parse_xml(text)


def test_a_corrupted_inforom_is_noted_beside_a_whole_report() -> None:
    warning = "WARNING: infoROM is corrupted at gpu 0000:00:06.0"
    for log in (
        parse_xml(H200_XML + warning + "\n", exit_code=14),
        parse_xml(warning + "\n" + H200_XML),
        parse_xml(H200_XML, messages=[warning]),
        parse_text(H200_TEXT + "\n" + warning + "\n"),
    ):
        assert log.inforom_corrupted == ("0000:00:06.0",)
        assert log.notes == (warning,)
        assert (len(log.gpus), log.truncated) == (1, False)


def test_every_cut_of_the_xml_is_told_and_no_value_is_invented() -> None:
    whole = leaves(parse_xml(H200_XML).gpus[0])
    seen = 0
    for end in range(len("<nvidia_smi_log>") + 60, len(H200_XML.rstrip()), 97):
        with suppress(Unavailable):
            log = parse_xml(H200_XML[:end])
            assert log.truncated
            for path, value in leaves(log.gpus[0]).items() if log.gpus else ():
                pairs = zip(value.items(), whole[path].items(), strict=True) if isinstance(value, dict) else ()
                assert isinstance(value, Unavailable | dict) or value == whole[path], (end, path)
                assert all(isinstance(mine, Unavailable) or mine == theirs for (_, mine), (_, theirs) in pairs)
                seen += 1
    assert seen > 5000


def test_a_cut_value_of_the_text_is_not_taken() -> None:
    start = H200_TEXT.index("Min Power Limit")
    cut = H200_TEXT[: H200_TEXT.index("200.00 W", start) + 2]
    log = parse_text(cut)
    assert log.truncated
    assert isinstance(log.gpus[0].power.min_limit_w, Unavailable)
    assert log.gpus[0].power.default_limit_w == 700.0


def test_a_part_of_the_text_is_whole_in_itself() -> None:
    log = parse_text(
        "==============NVSMI LOG==============\n\n"
        "Attached GPUs                             : 1\n"
        "GPU 00000001:00:00.0\n"
        "    Retired Pages\n"
        "        Single Bit ECC                    : 0\n"
        "        Double Bit ECC                    : 2\n"
        "        Pending Page Blacklist            : Yes\n"
    )
    gpu = log.gpus[0]
    assert (gpu.retired_pages.single_bit, gpu.retired_pages.double_bit, gpu.retired_pages.pending) == (0, 2, True)
    assert not log.truncated
    rest = {path for path, value in leaves(gpu).items() if not isinstance(value, Unavailable) and value != {}}
    assert {path for path in rest if not path.startswith((".retired", ".faults", ".denied", ".clocks", ".fabric"))} == {
        ".index", ".bus_id", ".source",
    }  # fmt: skip


def test_either_spelling_of_a_pending_retirement_counts() -> None:
    both = "<pending_blacklist>No</pending_blacklist><pending_retirement>Yes</pending_retirement>"
    gpu = one(f"<retired_pages>{both}</retired_pages>")
    assert gpu.retired_pages.pending is True


def test_versions_lose_the_remark_of_driver_610() -> None:
    log = parse_text(
        "==============NVSMI LOG==============\n"
        "Driver Version  : 610.57.04 [Deprecated; will be removed in CUDA 14.0. Use KMD Version instead]\n"
        "CUDA UMD Version : 13.3\n"
        "Attached GPUs : 0\n"
    )
    assert (log.driver_version, log.cuda_version) == ("610.57.04", "13.3")


def test_a_program_name_that_is_no_xml_costs_only_the_processes() -> None:
    broken = H200_XML.replace(
        "<processes>\n\t\t</processes>",
        "<processes><process_info><pid>7</pid><process_name>a & <b></process_name></process_info></processes>",
    )
    assert broken != H200_XML
    gpu = parse_xml(broken).gpus[0]
    assert isinstance(gpu.processes, Unavailable)
    assert gpu.power.limit_w == 700.0


def test_processes() -> None:
    gpu = one(
        "<processes><process_info><pid>7</pid><type>C</type><process_name>/bin/a: b</process_name>"
        "<used_memory>230 MiB</used_memory></process_info></processes>"
    )
    assert isinstance(gpu.processes, tuple)
    assert [(p.pid, p.kind, p.name, p.memory_mib) for p in gpu.processes] == [(7, "C", "/bin/a: b", 230)]
    assert isinstance(one("<processes>N/A</processes>").processes, NotApplicable)
    assert isinstance(one("").processes, Unavailable)
    text = H200_TEXT.replace(
        "Processes                                          : None",
        "Processes\n"
        "        GPU instance ID                            : N/A\n"
        "        Process ID                                 : 1720\n"
        "            Type                                   : G\n"
        "            Name                                   : /usr/bin/x: y\n"
        "            Used GPU Memory                        : 173 MiB\n"
        "        GPU instance ID                            : N/A\n"
        "        Process ID                                 : 28511\n"
        "            Type                                   : C\n",
    )
    listed = parse_text(text).gpus[0].processes
    assert isinstance(listed, tuple)
    assert (listed[0].pid, listed[0].kind, listed[0].memory_mib) == (1720, "G", 173)
    assert (listed[0].name, listed[1].pid) == ("/usr/bin/x: y", 28511)
