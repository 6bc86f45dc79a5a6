"""What a stage reads is recorded by manifest too, in no key: it binds what lies beside a payload."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ft_dagster.store import Artifact, Place
from ft_dagster.workspace.keyed_inputs import Digest, key_parts, recorded


@dataclass(frozen=True)
class Inputs:
    base_model: Artifact
    gates: Digest
    neighbour: Artifact = recorded()


def test_the_manifests_of_inputs_are_recorded_and_move_no_key() -> None:
    base = Artifact(Place("shared", "base_model", "k"), {"digest": "d" * 64}, manifest="m" * 64)
    parts = key_parts(Inputs(base, Digest("g" * 64), base))
    assert parts.manifests == {"base_model": "m" * 64}
    other = key_parts(Inputs(replace(base, manifest="n" * 64), Digest("g" * 64), base))
    assert other.manifests != parts.manifests
    assert other.key("evaluation", 1) == parts.key("evaluation", 1)
