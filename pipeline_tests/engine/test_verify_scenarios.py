"""Verification of committed tables: each scenario of either side, with its whole outcome."""

from collections.abc import Callable

import pytest

from pipeline.move.reading.source_view import SourceView
from pipeline_tests.support.scenarios import Scenario, outcome, scenarios
from pipeline_tests.support.verification import Moved, standing, without_digests


@pytest.mark.parametrize("scenario", scenarios("verify_target"), ids=lambda each: each.name)
def test_what_changed_in_the_target_is_found(moved: Moved, scenario: Scenario) -> None:
    found = standing(moved.session, moved.source, scenario.table, planted=scenario.sql)
    intact = without_digests(moved.sound[scenario.table]) if scenario.sql else {}
    scenario.check(outcome(without_digests(found), intact))


@pytest.mark.parametrize("scenario", scenarios("verify_source"), ids=lambda each: each.name)
def test_what_changed_in_the_source_is_found(
    moved: Moved, changed: Callable[..., SourceView], scenario: Scenario
) -> None:
    found = standing(moved.session, changed(scenario.sql), scenario.table)
    intact = without_digests(moved.sound[scenario.table])
    scenario.check(outcome(without_digests(found), intact))
