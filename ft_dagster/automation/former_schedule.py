"""Keeps the schedule `due_variants` of older versions, in whose place the sensor `due_retrains` came."""

import dagster as dg

from ft_dagster.dagster_private import (
    InstigatorState,
    InstigatorStatus,
    InstigatorType,
    RemoteInstigatorOrigin,
    SensorInstigatorData,
)

FORMER, SENSOR = "due_variants", "due_retrains"


def carry_over(instance: dg.DagsterInstance) -> bool:
    """Let the sensor be stopped where a person had stopped the schedule, and forget the schedule; returns
    whether the sensor was stopped now.

    Dagster keeps that switch by name and not by kind, so the sensor has another name than the schedule.
    """
    if instance.schedule_storage is None:
        return False
    stopped = False
    for state in instance.all_instigator_state(instigator_type=InstigatorType.SCHEDULE):
        if state.instigator_name != FORMER:
            continue
        if state.status is InstigatorStatus.STOPPED:
            _stop(instance, RemoteInstigatorOrigin(state.origin.repository_origin, SENSOR))
            stopped = True
        instance.delete_instigator_state(state.instigator_origin_id, state.selector_id)
    return stopped


def _stop(instance: dg.DagsterInstance, origin: RemoteInstigatorOrigin) -> None:
    new = InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.STOPPED, SensorInstigatorData())
    known = instance.get_instigator_state(new.instigator_origin_id, new.selector_id)
    if known is None:
        instance.add_instigator_state(new)
    else:
        instance.update_instigator_state(known.with_status(InstigatorStatus.STOPPED))
