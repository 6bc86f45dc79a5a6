"""Stage 1, what the machine is: by our own inventory and catalogue, by two rates, and through a lease."""

from __future__ import annotations

import json
from typing import Any

from stages.common import Case, Context, Wrong, child, last_line, python
from stages.rates import HONEST

RATES = 6_000_000_000  # bytes that measuring the rates takes on a GPU
LOST = 75  # the exit code of a rank that may not touch its device
MOST = 1.05  # of the catalogue's peak: above, its figure or the clock is wrong


def cases(context: Context) -> list[Case]:
    return [
        Case("inventory", lambda: inventory(context)),
        Case("rates", lambda: rates(context)),
        Case("lease", lambda: lease(context)),
    ]


def inventory(context: Context) -> dict[str, Any]:
    """What this host lends and what the catalogue knows of it. Wrong where torch and NVML disagree."""
    from ft_dagster.host_settings import Host
    from ft_dagster.launch.inventory import find_devices
    from stages import planned

    found = find_devices(Host())
    hardware, card = planned.hardware(), planned.card(found.devices[0].name)
    figures = {
        "kind": found.kind, "devices": [device.__dict__ for device in found.devices], "cores": found.cores,
        "driver": driver(), "hardware": str(hardware), "card": card.name if card else None,
        "peak_flops": hardware.peak_flops, "libraries": context.machine["libraries"],
    }  # fmt: skip
    if context.gpu != (found.kind == "gpu"):
        raise Wrong(f"torch sees {context.device}, our inventory {found.kind}", figures)
    known = f", in the catalogue as {card.name}" if card else ""
    peak = f", peak {hardware.peak_flops / 1e12:.3g} TFLOP/s" if hardware.peak_flops else ""
    figures["said"] = f"{hardware}{known}{peak}, driver {figures['driver'] or 'none'}"
    if context.gpu and card is None:
        raise Wrong(f"the driver calls it {found.devices[0].name!r}: not in the catalogue", figures)
    return figures


def driver() -> str | None:
    """The NVIDIA driver's version; None without one."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return str(pynvml.nvmlSystemGetDriverVersion())
    except pynvml.NVMLError:
        return None


def rates(context: Context) -> dict[str, Any]:
    """The product's and the copy's rate, on random data, in a child."""
    from stages.planned import hardware

    context.need_whole_card()
    context.need_memory(RATES)
    figures = json.loads(python("stages.rates", context.device))
    figures["said"] = (
        f"{figures['dtype']} product {figures['product_flops'] / 1e12:,.3g} TFLOP/s, "
        f"copy {figures['copy_bytes'] / 1e9:,.4g} GB/s"
    )
    peak = hardware().peak_flops
    if context.gpu and peak:
        figures["share_of_peak"] = figures["product_flops"] / peak
        figures["said"] += f", {figures['share_of_peak']:.0%} of the catalogue's peak"
        if not HONEST < figures["share_of_peak"] < MOST:
            raise Wrong(f"the catalogue says {peak / 1e12:.0f} TFLOP/s", figures)
    return figures


def lease(context: Context) -> dict[str, Any]:
    """A device is leased, seen by a rank under that lease, refused to a second asker, and free afterwards."""
    from ft_dagster.host_settings import Host
    from ft_dagster.launch.inventory import find_devices
    from ft_dagster.launch.leases import Ask, Leases, WaitStopped

    found = find_devices(Host())
    leases = Leases(context.scratch / "leases", found)
    ask = Ask("lane.machine", "lane", len(found.devices), 0, "a rank looks", "lane")
    with leases.acquire(ask) as held:
        code, said = child("stages.rank", environment=held.environment())
        if code:
            raise Wrong(f"a rank under the lease ended with {code}")
        seen = json.loads(last_line(said))
        try:
            leases.acquire(ask, should_stop=lambda: True).release()
            raise Wrong("a second asker got the same devices", seen)
        except WaitStopped:
            pass
        states = [row.state for row in leases.table().devices]
    after = [row.state for row in leases.table().devices]
    figures = {"seen": seen, "held": states, "after": after}
    wanted = len(held.devices) if context.gpu else 0
    if seen["count"] != wanted or set(states) != {"held"} or set(after) != {"free"}:
        raise Wrong("the rank saw other devices, or the lease was not given back", figures)
    with leases.acquire(ask):
        code, _ = child("stages.rank", environment=held.environment())
    if code != LOST:
        raise Wrong(f"a rank whose device was granted to another ended with {code}, not {LOST}", figures)
    figures["said"] = (
        f"{len(states)} {held.kind} leased, CUDA_VISIBLE_DEVICES={seen['visible']!r}, the rank sees"
        f" {seen['count']} GPUs; a second asker waits; a rank whose device is another's"
        f" by now leaves with {LOST}"
    )
    return figures
