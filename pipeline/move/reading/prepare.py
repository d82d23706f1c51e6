"""Prepare a table for a move: match it with the source, compile its contract, survey its rows."""

from dataclasses import dataclass

import sqlalchemy as sa

from pipeline.core.policies import DEFAULT, Policies
from pipeline.mapping.contract import Contract, compile_contract
from pipeline.mapping.table_mapping import TableMapping
from pipeline.move.reading.source_view import SourceView
from pipeline.move.reading.surveys import Survey


@dataclass(frozen=True)
class Prepared:
    """A table that has been matched and surveyed, ready to move."""

    mapping: TableMapping
    contract: Contract
    survey: Survey


def prepare(declared: sa.Table, source: SourceView, policies: Policies = DEFAULT) -> Prepared:
    """Match a table with the source and read every row once.

    Raises:
        SourceError: the source lacks a required table or column, or cannot be read.
    """
    return surveyed(source.match(declared, policies), source)


def surveyed(mapping: TableMapping, source: SourceView) -> Prepared:
    """Read every row of a matched table once.

    Raises:
        SourceError: the source cannot be read.
    """
    contract = compile_contract(mapping)
    return Prepared(mapping, contract, source.survey(mapping, contract))
