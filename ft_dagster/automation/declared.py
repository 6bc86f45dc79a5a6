"""New declarations become partitions without a restart."""

import dagster as dg

from ft_dagster.assets.partitions import PARTITIONS, VARIANTS
from ft_dagster.errors import UserError
from ft_dagster.resources.tenants import Tenants


@dg.sensor(
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Adds a partition for each new tenants/<tenant>/<variant>.yaml that is valid",
)
def new_declarations(
    context: dg.SensorEvaluationContext, tenants: dg.ResourceParam[Tenants]
) -> dg.SensorResult | dg.SkipReason:
    known = set(context.instance.get_dynamic_partitions(PARTITIONS))
    declarations = tenants.declarations()
    new, wrong = [], [str(error) for error in declarations.misnamed.values()]
    for key in declarations:
        if str(key) in known:
            continue
        try:
            declarations.declared(key)
            new.append(str(key))
        except UserError as error:
            wrong.append(str(error))
    for message in wrong:
        context.log.error(message)
    if not new:
        return dg.SkipReason("; ".join(wrong) or "no new declaration")
    return dg.SensorResult(dynamic_partitions_requests=[VARIANTS.build_add_request(new)])
