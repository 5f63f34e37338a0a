"""The command line: `nfc-gs demo | train | view | eval | render | export | info`."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Union

import torch
import tyro

from nfc_gs import __version__
from nfc_gs.commands.console import sentences_to_stderr, silence_stdout
from nfc_gs.commands.demo import Demo
from nfc_gs.commands.evaluate import Eval
from nfc_gs.commands.export import Export
from nfc_gs.commands.info import Info
from nfc_gs.commands.options import registry
from nfc_gs.commands.render import Render
from nfc_gs.commands.runs import INTERRUPTED
from nfc_gs.commands.train import Train
from nfc_gs.commands.view import View
from nfc_gs.core.errors import UserError

USER_ERROR = 2
"""Exit code for mistakes a user can mend, as for wrong options."""

DESCRIPTION = """3D Gaussian splatting: from photos with known cameras to a scene that can be seen from anywhere.

  nfc-gs demo              show everything on a built-in capture, in about a minute and a half
  nfc-gs train CAPTURE     train on your own capture
  nfc-gs view RUN          look at a run or a splat in the browser
  nfc-gs COMMAND --help    explain a command
  nfc-gs --version         print the version

The environment variable NFC_GS_THREADS sets the number of CPU threads; results do not depend on it."""

COMMANDS: dict[str, type] = {
    "demo": Demo,
    "train": Train,
    "view": View,
    "eval": Eval,
    "render": Render,
    "export": Export,
    "info": Info,
}


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    0: done; 2: a mistake of the user, told in one sentence on stderr; 130: interrupted. Other exceptions are bugs
    and pass through.

    Args:
        args: the words after `nfc-gs`; those of the process if None.
    """
    words = list(sys.argv[1:] if args is None else args)
    if args is None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal that knows no "ü" shows "?"
    try:
        if words in (["--version"], ["-V"]):
            print(f"nfc-gs {__version__}", flush=True)
            return 0
        command = parse(words or ["--help"])
        with sentences_to_stderr():
            return command.run()
    except SystemExit as end:  # after --help (0) or a wrong option (2), which have said everything
        return end.code if isinstance(end.code, int) else 0
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        silence_stdout()
        return 1
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return _fail(
            "The memory is used up; take smaller images (--downscale 2), fewer Gaussians (--max-gaussians) "
            "or a smaller cache (--cache-gb)."
        )


def parse(words: Sequence[str]) -> Any:
    """The command that `words` stand for. Raises SystemExit after help and for wrong options."""
    brief = words[0].startswith("-")  # help on the whole: a line for each command
    choices = []
    for name, kind in COMMANDS.items():
        summary = (kind.__doc__ or "").split("\n", 1)[0] if brief else None
        choices.append(Annotated[kind, tyro.conf.subcommand(name, description=summary, prefix_name=False)])
    command: Any = Union[tuple(choices)]  # noqa: UP007
    return tyro.cli(
        command,
        prog="nfc-gs",
        description=DESCRIPTION,
        args=words,
        registry=registry,
    )


def _fail(sentence: str) -> int:
    with contextlib.suppress(OSError):  # stderr may lie on the very disk that is full
        print(f"error: {sentence}", file=sys.stderr)
    return USER_ERROR


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, torch on the CPU (a plain RuntimeError) or torch on a GPU ran out of memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return "DefaultCPUAllocator" in str(error)
