"""The asset that is how events fare against polling on the target's server.

Measured in scratch databases, which are dropped at the end; no table of the target is touched.
"""

from collections.abc import Sequence

import dagster as dg
import pandas as pd
from pydantic import Field

from pipeline import checks, settings
from pipeline.environment import server
from pipeline.frames import markdown
from pipeline.move.errors import PipelineError
from pipeline.realtime.bench import measure, picture

NAME, STEP = "realtime_bench", "measure_realtime"
ARRIVE_ONCE = "events_arrive_once"


class BenchConfig(dg.Config):
    """What is measured."""

    subscribers: list[int] = Field(
        default=list(measure.SUBSCRIBERS), description="How many; each way is measured with each."
    )
    seconds: float = Field(default=measure.SECONDS, description="How long each calm time is.")
    rate: float = Field(default=measure.RATE, description="Writes per second.")


def bench_asset(*, group: str, owners: Sequence[str]) -> dg.AssetsDefinition:
    """The asset that measures events against polling."""

    @dg.multi_asset(
        name=STEP,
        specs=[
            dg.AssetSpec(
                NAME,
                group_name=group,
                kinds={"postgres"},
                owners=list(owners),
                description=(
                    "How events fare against polling every 5 seconds on this server: latency,"
                    " bytes, load, and what was missed when connections were cut. Measured in"
                    " scratch databases for some minutes."
                ),
            )
        ],
        check_specs=[
            dg.AssetCheckSpec(
                ARRIVE_ONCE,
                asset=NAME,
                description="By events every committed row arrived once at everybody it concerns.",
            )
        ],
        description="Measure events against polling.",
    )
    def measured(context: dg.AssetExecutionContext, config: BenchConfig) -> dg.MaterializeResult:  # type: ignore[type-arg]
        try:
            plan = measure.Plan(tuple(config.subscribers), config.seconds, config.rate)
            loaded = settings.load()
            outcome = measure.run(server(loaded).target, plan, tell=context.log.info)
        except PipelineError as error:
            raise checks.failure(error) from error
        page = picture.write(outcome, loaded.reports)
        lost = [each for each in outcome.of_events if each.missed or each.doubled]
        return dg.MaterializeResult(
            metadata={
                "goals": dg.MetadataValue.md(markdown(pd.DataFrame(picture.goals(outcome)))),
                "figures": dg.MetadataValue.md(markdown(pd.DataFrame(picture.rows(outcome)))),
                "report": dg.MetadataValue.path(page),
                **{
                    f"{each.way}_{each.subscribers}_p95_ms": dg.MetadataValue.float(each.p95_ms)
                    for each in outcome.measured
                },
            },
            check_results=[
                dg.AssetCheckResult(
                    asset_key=NAME,
                    check_name=ARRIVE_ONCE,
                    passed=not lost,
                    metadata={
                        "rows_due": sum(each.expected for each in outcome.of_events),
                        "missed": sum(each.missed for each in lost),
                        "doubled": sum(each.doubled for each in lost),
                    },
                )
            ],
        )

    return measured
