"""Started by ``pipeline serve`` and ``pipeline dev``: WORKSPACE HOST PORT."""

import sys
from pathlib import Path

from pipeline.config import settings
from pipeline.orchestration.serving.web.app import serve

if __name__ == "__main__":
    _, _workspace, _host, _port = sys.argv
    serve(settings.load(ui_host=_host, ui_port=int(_port)), workspace=Path(_workspace))
