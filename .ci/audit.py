"""Known vulnerabilities of what is locked, as the package registry tells them.

Exit code 1 where there is one. Where the registry cannot be reached, or is a mirror that knows
nothing of vulnerabilities, that is said, and it is no failure, unless REQUIRE_AUDIT is set.
AUDIT_URL names another service that speaks OSV's protocol.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PROBE = "pip-audit"
"""Asked for alone at first, so that a registry that knows nothing is not asked for everything."""


def report_of(lock: str) -> tuple[dict[str, Any] | None, str]:
    """What is told of the packages of a lock; None and why where nothing is."""
    service = os.environ.get("AUDIT_URL")
    asked = ["-s", "osv", "--osv-url", service] if service else []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "requirements.txt"
        path.write_text(lock)
        program = [sys.executable, "-m", "pip_audit", "--progress-spinner=off", "--timeout=5"]
        given = ["--disable-pip", "--require-hashes", "--cache-dir", folder, "-f", "json"]
        ended = subprocess.run(
            [*program, *given, *asked, "-r", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
    try:
        return json.loads(ended.stdout), ""
    except json.JSONDecodeError:
        lines = ended.stderr.strip().splitlines()
        # What follows names hosts, and goes on for lines.
        return None, lines[-1].split("(")[0] if lines else f"exit code {ended.returncode}"


def judged(report: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Vulnerabilities, and packages of which nothing is known."""
    found, unknown = [], []
    for package in report["dependencies"]:
        if "skip_reason" in package:
            unknown.append(package["name"])
        for vulnerability in package.get("vulns", ()):
            mended = ", ".join(vulnerability["fix_versions"]) or "no version"
            found.append(
                f"{package['name']} {package['version']}: {vulnerability['id']}, mended in {mended}"
            )
    return found, unknown


def main() -> int:
    """Audit ``requirements.lock`` of the current folder."""
    lock = Path("requirements.lock").read_text()
    probe = re.search(rf"^{PROBE}==.*(?:\n[ ].*)*", lock, re.M)
    report, why = report_of(probe.group() + "\n" if probe else lock)
    if report is not None and not judged(report)[1]:
        report, why = report_of(lock)
    found, unknown = judged(report) if report else ([], [])
    for line in found:
        print(line)
    if report is None or unknown:
        others = f" and {len(unknown) - 1} others" if unknown[1:] else ""
        why = why or f"the registry says nothing of {unknown[0]}{others}"
        print(f"Not audited for known vulnerabilities: {why}")
        return 1 if found or os.environ.get("REQUIRE_AUDIT") else 0
    print(f"{len(found)} known vulnerabilities in {len(report['dependencies'])} packages")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
