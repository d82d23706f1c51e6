"""A table made ready to move: matched with the source, its contract compiled, surveyed."""

from dataclasses import dataclass

import sqlalchemy as sa

from pipeline.core.policies import DEFAULT, Policies
from pipeline.mapping.contract import Contract, contract_of
from pipeline.mapping.table_mapping import TableMapping, match
from pipeline.move.reading.extract import Source, Survey


@dataclass(frozen=True)
class Prepared:
    """A table that has been matched and surveyed, ready to move."""

    mapping: TableMapping
    contract: Contract
    survey: Survey


def prepare(declared: sa.Table, source: Source, policies: Policies = DEFAULT) -> Prepared:
    """Match a table with the source and look once at every row.

    Raises:
        SourceError: the source lacks what the table needs, or cannot be read.
    """
    return surveyed(match(declared, source.columns(declared.name), policies), source)


def surveyed(mapping: TableMapping, source: Source) -> Prepared:
    """Look once at every row of a table that has been matched.

    Raises:
        SourceError: the source cannot be read.
    """
    contract = contract_of(mapping)
    return Prepared(mapping, contract, source.survey(mapping, contract))
