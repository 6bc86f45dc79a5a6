"""A certificate that holds, to be changed by who needs one that does not."""

from __future__ import annotations

from typing import Any

from ft_dagster.lineage.certificate import Certificate


def stored_certificate(**changes: Any) -> dict[str, Any]:
    """certificate.json of a merge, as it is stored."""
    figures = {
        "probes": 8, "positions": 205, "max_logit_difference": 0.1, "mean_kl": 1e-5, "base_kl": 0.4,
        "top1_agreement": 1.0, "top1_lost": 0.0, "greedy_equal": 1.0, "greedy_parted": 0.0,
        "token_ids_equal": 1.0, "chat_ids_equal": 1.0, "template_equal": 1.0,
    }  # fmt: skip
    tolerance = {
        "mean_kl": 1e-3, "share_kl": 0.1, "noise_kl": 3e-4, "top1_lost": 0.005, "tie": 0.25, "logit": 3.0,
    }  # fmt: skip
    return {
        "schema_version": 1, "payload": "a" * 64, "judged": "b" * 64, "format": "merged", "figures": figures,
        "tolerance": tolerance, "failures": [], "passed": True, "drifted": False, **changes,
    }  # fmt: skip


def certificate(payload: str, judged: str, format: str = "adapter") -> Certificate:
    """That `payload` behaves as `judged`."""
    return Certificate.from_json(stored_certificate(payload=payload, judged=judged, format=format))
