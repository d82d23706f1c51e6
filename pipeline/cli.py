"""Thin commands: each runs the Dagster job of its name, in this process, recorded like any run.

Exit codes: 0 when every blocking check passed, 1 when a run failed, 2 when nothing was tried
because a setting or a database is not usable.
"""

import json
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, get_args

import dagster as dg
import typer
from pydantic import TypeAdapter
from rich.console import Console

from pipeline import (
    backup_commands,
    ddl,
    environment,
    operating,
    progress,
    quarantine_files,
    report,
    serving,
    settings,
    storage,
)
from pipeline.anki.named import named_anki
from pipeline.anki.outcomes import Removed
from pipeline.cutover import sign_offs, states
from pipeline.doctor.examination import examine
from pipeline.embedded import ensure_server
from pipeline.metadata import PLAN
from pipeline.move import mending, quarantine, schema, tracking
from pipeline.move.errors import PipelineError, SettingsError
from pipeline.move.plan import TablePlan
from pipeline.move.printable import printable
from pipeline.move.scope import Scope
from pipeline.move.snapshot import look_at
from pipeline.move.target import Target
from pipeline.tables import content

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Move tables from SQLite to PostgreSQL and prove that every value arrived.",
)
_WIDTH = None if sys.stdout.isatty() else 120
kept = typer.Typer(no_args_is_help=True, help="Look at rejected rows, and mend them.")
app.add_typer(kept, name="quarantine")
tracked = typer.Typer(no_args_is_help=True, help="Let the source note exactly what changes in it.")
app.add_typer(tracked, name="track")
over = typer.Typer(no_args_is_help=True, help="Change the application over to the target.")
app.add_typer(over, name="cutover")
followed = typer.Typer(no_args_is_help=True, help="Let Anki follow the contents.")
app.add_typer(followed, name="anki")
app.add_typer(backup_commands.kept, name="backup")
app.add_typer(backup_commands.restored, name="restore")
app.command()(operating.serve)
app.command()(operating.health)
app.add_typer(operating.alert, name="alert")
console = Console(highlight=False, width=_WIDTH)
errors = Console(stderr=True, highlight=False)


def main() -> None:
    """Entry point of the command ``pipeline``; a failure is one sentence, not a traceback."""
    warnings.filterwarnings("ignore", module="dagster")
    try:
        app()
    except PipelineError as error:
        errors.print(str(error), style="red", markup=False, soft_wrap=True)
        sys.exit(2)


@app.command()
def doctor() -> None:
    """Tell whether both databases are fit for a move, without changing anything."""
    # Not a job: Dagster keeps its runs in the target, which may not even answer.
    with console.status("examining source and target"):
        found = examine(settings.load(), content.metadata.sorted_tables)
    report.show_symptoms(console, found)
    raise typer.Exit(1 if any(symptom.state == "error" for symptom in found) else 0)


@app.command()
def plan(
    as_json: Annotated[bool, typer.Option("--json", help="Print the plan as JSON alone.")] = False,
) -> None:
    """Tell what a move would do, without touching the target."""
    found = _ready()
    look_at(found.source)
    if not as_json:
        _say_where(found)
    result = _result_of("plan")
    if not result.success:
        raise typer.Exit(_failed(result))
    (materialized,) = result.asset_materializations_for_node("make_plan")
    data: Any = materialized.metadata[PLAN].value
    if as_json:
        for line in json.dumps(data, ensure_ascii=False, indent=2).split("\n"):
            print(printable(line))
    else:
        report.show_plan(console, TypeAdapter(list[TablePlan]).validate_python(data))


@app.command("schema")
def show_schema() -> None:
    """Print the target's whole schema as one SQL file, for supabase/migrations."""
    loaded = settings.load()
    source, tables = environment.source_file(loaded), content.metadata.sorted_tables
    print(ddl.of_source(source, tables, loaded.policies), end="")


@app.command()
def migrate(
    only_content: Annotated[
        str | None,
        typer.Option(help="Only these contents and what belongs to them: ids, with commas."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="Only so many first contents and what belongs to them.")
    ] = None,
) -> None:
    """Move the content tables and print what moved, what was set aside and what was proven."""
    ids = _ids(only_content, option="--only-content")
    scope = Scope.of(ids, limit)
    found = _ready()
    look_at(found.source)
    _say_where(found)
    subset = {name: {"only_content": ids, "limit": limit} for name in _known(None)}
    raise typer.Exit(_run("migrate", steps=subset if scope else None))


@app.command()
def sync(
    full: Annotated[
        bool, typer.Option("--full", help="Look at every value, not only at what changed.")
    ] = False,
) -> None:
    """Let the target follow the source: move what changed, and prove it."""
    found = _ready()
    look_at(found.source)
    _say_where(found)
    raise typer.Exit(_run("sync", full=full))


@tracked.command("on")
def track_on() -> None:
    """Write triggers and a log of changes into the source; sync then sees every change."""
    source = _source()
    installed = tracking.switch_on(source, content.metadata.sorted_tables)
    more = "; the next sync looks at every value once" if installed else " already"
    console.print(f"every change of {source} is tracked{more}", markup=False, soft_wrap=True)


@tracked.command("off")
def track_off() -> None:
    """Remove the triggers and the log from the source."""
    source = _source()
    there = tracking.switch_off(source)
    said = "is not tracked any more" if there else "was not tracked"
    console.print(f"{source} {said}", markup=False, soft_wrap=True)


@tracked.command("status")
def track_status() -> None:
    """Tell which tables of the source are tracked."""
    source = _source()
    found = tracking.status(source, content.metadata.sorted_tables)
    if found.entries is None:
        console.print(f"{source} is not tracked", markup=False, soft_wrap=True)
        return
    console.print(f"tracked   {', '.join(found.tracked) or 'nothing'}")
    if found.untracked:
        console.print(f"not so    {', '.join(found.untracked)}; run pipeline track on")
    console.print(f"the log has {found.entries:,} {'entry' if found.entries == 1 else 'entries'}")


@app.command()
def verify() -> None:
    """Check what is committed, value by value, against source, ledger and declaration."""
    found = _ready()
    look_at(found.source)
    _say_where(found)
    raise typer.Exit(_run("verify"))


@app.command()
def redrive(
    table: Annotated[
        str | None, typer.Argument(help="Only this table and those that refer to it.")
    ] = None,
) -> None:
    """Try rejected rows again, after a rule, a policy or a value was changed."""
    found = _ready()
    look_at(found.source)
    names = _known(table)
    with _target(found) as target:
        waiting = [name for name in names if _in_quarantine(target, name)]
    if not waiting:
        console.print("quarantine is empty")
        return
    _say_where(found)
    code = _run("redrive", tables=_with_children(waiting))
    with _target(found) as target:
        still = sum(_in_quarantine(target, name) for name in names)
    of = f" of {table}" if table else ""
    console.print(f"{still:,} rows{of} are still in quarantine")
    raise typer.Exit(code)


@kept.command("export")
def export_quarantine(
    path: Annotated[Path, typer.Argument(help="A file named .csv or .json.")],
    table: Annotated[str | None, typer.Option(help="Only this table.")] = None,
) -> None:
    """Write rejected rows to a file, a record for each value."""
    with _target(_ready()) as target:
        schema.make_ledger(target)
        records = quarantine_files.write(path, mending.export(target, _known(table)))
    console.print(f"{records:,} values in {path}", markup=False)


@kept.command("mend")
def mend_quarantine(
    path: Annotated[Path, typer.Argument(help="An exported file with mended values.")],
) -> None:
    """Take mended values in; the next redrive, move or verify uses them."""
    with _target(_ready()) as target, target.lock(), target.transaction():
        schema.make_ledger(target)
        changed = mending.take_in(target, quarantine_files.read(path))
    if changed:
        console.print(f"{changed:,} values mended; run pipeline redrive to try their rows again")
    else:
        console.print("nothing in this file differs from quarantine")


@kept.command("forget")
def forget_mended(table: Annotated[str, typer.Argument(help="The table.")]) -> None:
    """Let the source's own values of a table stand again."""
    with _target(_ready()) as target, target.lock(), target.transaction():
        schema.make_ledger(target)
        (name,) = _known(table)
        gone = mending.forget(target, name)
    console.print(f"{gone:,} mended values forgotten; run pipeline migrate to go by the source")


@followed.command("sync")
def anki_sync(
    deck: Annotated[
        str | None, typer.Option(help="Where notes of new cards go; otherwise ANKI_DECK.")
    ] = None,
    only: Annotated[
        str | None, typer.Option("--only", help="Only these contents: ids, with commas.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, show all.")] = False,
    force: Annotated[
        bool,
        typer.Option("--force", help="Also over a learner's edits; deleted notes are made again."),
    ] = False,
    removed: Annotated[
        str, typer.Option(help="Notes without content: report, tag or suspend.")
    ] = "report",
    recordings: Annotated[
        bool, typer.Option("--recordings", help="Compare all recordings, byte by byte.")
    ] = False,
    create_deck: Annotated[
        bool, typer.Option("--create-deck", help="Make decks that Anki does not have.")
    ] = False,
) -> None:
    """Make and update notes in Anki, and check contents, cards and notes against each other."""
    if removed not in get_args(Removed):
        raise SettingsError(f"--removed cannot be {removed}", remedy="Take report, tag or suspend")
    config = {
        "deck": deck,
        "ids": _ids(only),
        "dry_run": dry_run,
        "force": force,
        "removed": removed,
        "recordings": recordings,
        "create_deck": create_deck,
    }
    raise typer.Exit(_follow("anki_sync", config=config, dry_run=dry_run))


@followed.command("check")
def anki_check() -> None:
    """Check contents, cards, notes, recordings and vectors against each other."""
    raise typer.Exit(_follow("anki_check"))


@over.command("status")
def cutover_status() -> None:
    """Tell who may write, and ask the gate; nothing is changed."""
    raise typer.Exit(_cut_over("check"))


@over.command("freeze")
def cutover_freeze() -> None:
    """Compare every value, then keep the application from writing the source, and move the rest."""
    raise typer.Exit(_cut_over("freeze"))


@over.command("live")
def cutover_live() -> None:
    """The same, and let the application write the target; only if the gate is open."""
    raise typer.Exit(_cut_over("live"))


@over.command("thaw")
def cutover_thaw() -> None:
    """Let the application write the source again, as long as the target is not live."""
    raise typer.Exit(_cut_over("thaw"))


@over.command("close")
def cutover_close() -> None:
    """End the way back: what is written to the target is not captured any more."""
    raise typer.Exit(_cut_over("close"))


@over.command("sign-off")
def sign_off(
    table: Annotated[str, typer.Argument(help="The table.")],
    by: Annotated[str, typer.Option(help="Who says so.")],
    reason: Annotated[str, typer.Option(help="Why.")],
    row: Annotated[
        list[str] | None, typer.Option(help="Keys of rows, once for each; otherwise all.")
    ] = None,
) -> None:
    """Let rows of a table stay behind in quarantine."""
    with _target(_ready()) as target, target.lock(), target.transaction():
        schema.make_ledger(target)
        (name,) = _known(table)
        signed = sign_offs.sign(target, name, handles=row or (), by=by, reason=reason)
    console.print(f"{signed:,} rows of {name} may stay behind, says {by}", markup=False)


@app.command()
def rollback() -> None:
    """Take what was written to the target since the cut-over back into the source."""
    raise typer.Exit(_cut_over("rollback"))


@backup_commands.kept.callback(invoke_without_command=True)
def backup(context: typer.Context) -> None:
    """Keep both databases as they are, and show that they can be restored."""
    if context.invoked_subcommand is not None:
        return
    found = _ready()
    _say_where(found)
    result = _result_of("backup")
    report.show(console, report.tables_of(result.all_events))
    if not result.success:
        raise typer.Exit(_failed(result))
    backup_commands.list_backups()


@app.command()
def selftest() -> None:
    """Plant one fault at a time in a scratch copy, and show which check catches it."""
    from pipeline.selftest import attack

    outcomes = []
    with console.status("moving a sample into a scratch database") as status:
        for outcome in attack(ensure_server(settings.load().server_data)):
            status.update(outcome.name)
            outcomes.append(outcome)
    report.show_outcomes(console, outcomes)
    wrong = [outcome.name for outcome in outcomes if not outcome.right]
    if wrong:
        errors.print(f"not judged rightly: {', '.join(wrong)}", style="red")
    raise typer.Exit(1 if wrong else 0)


@app.command()
def dev(
    port: Annotated[int, typer.Option(help="Where the UI listens, on 127.0.0.1.")] = 3000,
) -> None:
    """Open the Dagster UI and run its daemon on the same databases, until Ctrl-C."""
    _ready()
    loaded = settings.load(ui_host="127.0.0.1", ui_port=port)
    running = [
        subprocess.Popen(serving.command(part, loaded, home=settings.PROJECT), cwd=settings.PROJECT)
        for part in (serving.Part.WEBSERVER, serving.Part.DAEMON)
    ]
    console.print(f"Dagster UI on http://127.0.0.1:{port} (Ctrl-C stops it)")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        while all(process.poll() is None for process in running):
            time.sleep(0.3)
        raise SettingsError(
            f"Dagster's UI or its daemon ended by itself; port {port} may be in use",
            remedy="Read the lines above, or name another one with --port",
        )
    except KeyboardInterrupt:
        pass
    finally:
        for process in running:
            process.terminate()
        for process in running:
            process.wait()


def _ready() -> environment.Databases:
    return storage.ready(settings.load())


def _source() -> Path:
    """The source file alone; the target is not needed.

    Raises:
        SettingsError: no source is set.
    """
    loaded = settings.load()
    if not loaded.sqlite_database_url and not loaded.sample_path.exists():
        raise SettingsError(
            "There is no source yet", remedy="Set SQLITE_DATABASE_URL, or run pipeline migrate"
        )
    return loaded.source_path


def _say_where(found: environment.Databases) -> None:
    console.print(f"source  {found.source}\ntarget  {found.target_shown}", markup=False)


@contextmanager
def _target(found: environment.Databases) -> Iterator[Target]:
    with Target.connect(found.target_url, shown=found.target_shown) as target:
        yield target


def _known(table: str | None) -> list[str]:
    """Names of the tables that are meant.

    Raises:
        SettingsError: there is no such table.
    """
    names = [each.name for each in content.metadata.sorted_tables]
    if table is not None and table not in names:
        raise SettingsError(f"There is no table {table}", remedy=f"Name one of {', '.join(names)}")
    return names if table is None else [table]


def _in_quarantine(target: Target, table: str) -> int:
    there = target.value("SELECT to_regclass('migration.quarantine') IS NOT NULL")
    return len(quarantine.handles(target, table)) if there else 0


def _with_children(names: list[str]) -> list[str]:
    """These tables and all that refer to them: what is held waits for its parent."""
    found = set(names)
    for table in content.metadata.sorted_tables:
        if {key.column.table.name for key in table.foreign_keys} & found:
            found.add(table.name)
    return sorted(found)


def _run(
    job_name: str,
    *,
    tables: list[str] | None = None,
    full: bool = False,
    steps: Mapping[str, Mapping[str, Any]] | None = None,
) -> int:
    """Run a job of tables with live output; returns the exit code."""
    started = time.perf_counter()
    result = _result_of(job_name, tables=tables, full=full, steps=steps)
    found = report.tables_of(result.all_events)
    report.show(console, found)
    evidence = settings.load().reports / result.run_id / "evidence.html"
    if evidence.exists():
        console.print(f"evidence {evidence}", markup=False, soft_wrap=True)
    if result.success and all(table.proven for table in found):
        seconds = time.perf_counter() - started
        console.print(f"[green]proven[/] in {seconds:.1f} s, run {result.run_id}")
        return 0
    return _failed(result)


def _result_of(
    job_name: str,
    *,
    tables: list[str] | None = None,
    full: bool = False,
    steps: Mapping[str, Mapping[str, Any]] | None = None,
) -> dg.ExecuteInProcessResult:
    # Loading what Dagster runs fails on some settings, which is to be told like any other failure.
    from pipeline import runs

    with runs.instance() as instance, _live():
        return runs.run(job_name, opened=instance, tables=tables, full=full, steps=steps)


def _follow(
    job_name: str, *, config: Mapping[str, Any] | None = None, dry_run: bool = False
) -> int:
    """Run a job of Anki with live output; returns the exit code."""
    started = time.perf_counter()
    found = _ready()
    anki = named_anki(settings.load())
    _say_where(found)
    console.print(f"anki    {anki.shown}", markup=False, soft_wrap=True)
    result = _result_of(job_name, steps=None if config is None else {"follow_contents": config})
    report.show_following(console, result.all_events)
    if result.success and all(table.proven for table in report.tables_of(result.all_events)):
        seconds = time.perf_counter() - started
        said = "nothing was changed" if dry_run else "[green]consistent[/]"
        console.print(f"{said} in {seconds:.1f} s, run {result.run_id}")
        return 0
    return _failed(result)


def _cut_over(step: str) -> int:
    """Run a step of the cut-over; returns the exit code."""
    found = _ready()
    look_at(found.source)
    _say_where(found)
    result = _result_of("cutover", steps={"change_state": {"step": step}})
    report.show_gate(console, result.all_events)
    with _target(found) as target:
        now = states.read(target)
    console.print(f"the migration is {now}")
    for event in result.asset_materializations_for_node("change_state"):
        told = {name: value.value for name, value in event.metadata.items() if name != "state"}
        console.print(
            ", ".join(f"{n.replace('_', ' ')} {v}" for n, v in told.items()), markup=False
        )
    if not result.success:
        return _failed(result)
    return 0 if all(table.proven for table in report.tables_of(result.all_events)) else 1


def _ids(text: str | None, *, option: str = "--only") -> list[int]:
    """Ids that a person wrote with commas between.

    Raises:
        SettingsError: it is something else.
    """
    parts = [part.strip() for part in (text or "").split(",") if part.strip()]
    if not all(part.isdecimal() for part in parts) or (text is not None and not parts):
        raise SettingsError(f"{option} cannot be {text!r}", remedy="Write ids like 1,2,3")
    return [int(part) for part in parts]


def _failed(result: dg.ExecuteInProcessResult) -> int:
    for sentence in report.failures_of(result):
        errors.print(sentence, style="red", markup=False, soft_wrap=True)
    errors.print(f"failed, run {result.run_id}", style="red")
    return 1


@contextmanager
def _live() -> Iterator[None]:
    with report.Bars() as bars, progress.watched_by(bars):
        yield
