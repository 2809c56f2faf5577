"""Build hook: with ``PMILTER_ACCELERATE=1`` in the environment a wheel has its hot modules compiled by mypyc, else it is pure.

    PMILTER_ACCELERATE=1 pip install .

Nothing is compiled in the source tree itself, where a later run would import it unawares.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SWITCH = "PMILTER_ACCELERATE"
TOOLS = ["mypy>=1.18", "setuptools>=77"]
SOURCE = Path("src")
LIST_OF_MODULES = SOURCE / "pmilter" / "acceleration.py"
REMEDY = (
    "this needs a C compiler and the headers of this Python (on Debian gcc and python3-dev); "
    f"without {SWITCH} a pure pmilter is built"
)


def is_wanted() -> bool:
    """Return whether the environment asks for the compiled form."""
    return os.environ.get(SWITCH, "") not in {"", "0"}


def written_in_c() -> list[tuple[str, str]]:
    """Return names and sources of the modules that are C from the first, where the system has what they call."""
    if sys.platform != "linux":
        return []
    return [("pmilter.dispatchers._traffic", "pmilter/dispatchers/_traffic.c")]


def compile_in(folder: Path, modules: tuple[str, ...]) -> list[Path]:
    """Compile modules of the package that stands in a folder; return what was made, relative to the folder."""
    from mypyc.build import mypycify
    from setuptools import Extension, setup

    files = [f"{module.replace('.', '/')}.py" for module in modules]
    with contextlib.chdir(folder):
        setup(
            name="pmilter",
            ext_modules=[
                *mypycify(
                    ["--config-file=", "--ignore-missing-imports", *files],
                    group_name="pmilter",
                    debug_level="0",
                ),
                *(Extension(name, [source]) for name, source in written_in_c()),
            ],
            script_args=["--quiet", "build_ext", "--inplace"],
        )
    made = [path.relative_to(folder) for path in folder.rglob("*.so")]
    return [path for path in made if path.parts[0] != "build"]


def compile_copy(root: Path, folder: Path) -> list[Path]:
    """Copy a project's package to a folder, and compile it there; return what was made, relative to the folder."""
    shutil.copytree(root / SOURCE, folder, dirs_exist_ok=True)
    return compile_in(folder, runpy.run_path(str(root / LIST_OF_MODULES))["MODULES"])


class AccelerationHook(BuildHookInterface[Any]):
    """Adds the compiled modules to a wheel, beside their source."""

    def dependencies(self) -> list[str]:
        """Return what the build needs beyond its back end."""
        return TOOLS if is_wanted() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, where that is asked for and the wheel is no editable one."""
        self._folder: Path | None = None
        if not is_wanted():
            return
        if version == "editable":
            self.app.display_warning(f"{SWITCH} is ignored: an editable install runs the source")
            return
        self._folder = folder = Path(tempfile.mkdtemp(prefix="pmilter-"))
        try:
            made = compile_copy(Path(self.root), folder)
        except BaseException as error:
            self.finalize()  # nobody else calls it after an error
            if isinstance(error, SystemExit):  # what setuptools makes of a compiler's failure
                self.app.abort(f"cannot compile ({error}): {REMEDY}")
            raise
        build_data["force_include"].update({str(folder / path): str(path) for path in made})
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, *_: object) -> None:
        """Remove the copy in which was compiled."""
        if self._folder is not None:
            shutil.rmtree(self._folder)
