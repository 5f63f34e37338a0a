"""The command line: `nfc-gs COMMAND ...`."""

from __future__ import annotations

import contextlib
import difflib
import errno
import io
import itertools
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from nfc_gs import __version__
from nfc_gs.commands.options import Command
from nfc_gs.commands.parsing import COMPLETION, completion_script, flags_of, parse_command, print_help
from nfc_gs.core.errors import UserError
from nfc_gs.core.files import check_path
from nfc_gs.core.signals import exit_code, raise_interrupted, signal_of, signals_call

USER_ERROR = 2
"""Exit code for mistakes of the user, as for wrong options."""


@dataclass(frozen=True)
class Entry:
    """A command that is imported when it is used: torch takes a second, and most mistakes are found without it.

    Attributes:
        module, name: where its class is.
        summary: what it does, in a line.
    """

    module: str
    name: str
    summary: str

    def load(self) -> type[Command]:
        """The class of the command."""
        return getattr(import_module(self.module), self.name)


COMMANDS = {
    "demo": Entry("nfc_gs.commands.demo", "Demo", "Train on a small built-in scene, in a minute and a half."),
    "train": Entry("nfc_gs.commands.train", "Train", "Train on a capture: photos with known cameras."),
    "view": Entry("nfc_gs.commands.view", "View", "Show runs and splat files in the browser."),
    "eval": Entry("nfc_gs.commands.evaluate", "Eval", "Measure how well a run renders its held-out views."),
    "render": Entry("nfc_gs.commands.render", "Render", "Render images and videos of a run."),
    "export": Entry("nfc_gs.commands.export", "Export", "Write a run as a splat file that other programs open."),
    "info": Entry("nfc_gs.commands.info", "Info", "Describe a capture, run, splat or this installation."),
}

OVERVIEW = """Usage: nfc-gs COMMAND [OPTIONS]

3D Gaussian splatting: from photos with known cameras to a scene that can be
seen from anywhere.

Commands:
{commands}

Options:
  COMMAND --help      Explain a command.
  COMMAND --help-all  Explain all of its options.
  --version           Print the version.
  --completion SHELL  Print a script that completes commands and options in
                      bash, zsh or fish.

Examples:
  nfc-gs demo
  nfc-gs train captures/garden --out runs/garden --time-budget 3m
  nfc-gs view runs/garden

Completion in bash, from the next terminal on (for zsh and fish see the README):
  mkdir -p ~/.local/share/bash-completion/completions
  nfc-gs --completion bash > ~/.local/share/bash-completion/completions/nfc-gs

Environment variables:
  NFC_GS_THREADS      Number of CPU threads; results do not depend on it.
  NFC_GS_CACHE        Folder of compiled GPU kernels."""


def main(args: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    0: done; 2: a mistake of the user, explained in one sentence on stderr; 130: interrupted by Ctrl-C, 143 by SIGTERM,
    129 by SIGHUP. Other exceptions are bugs and pass through.

    Args:
        args: the words after `nfc-gs`; those of the process if None.
    """
    words = list(sys.argv[1:] if args is None else args)
    if args is None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal that knows no "ü" shows "?"
    try:
        with _stdout_written():
            answered = _answered(words)
        if answered:
            return 0
        code = _run(parse(words))
        with _stdout_written():  # also what is still to be flushed
            return code
    except UserError as error:
        return _fail(str(error))
    except KeyboardInterrupt as error:
        _say("Interrupted.")
        return exit_code(signal_of(error))
    except BrokenPipeError:
        from nfc_gs.commands.console import silence

        silence(sys.stdout)
        return 1
    except (MemoryError, OSError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        return _fail(
            "The memory is used up; take smaller images (--downscale 2), fewer Gaussians (--max-gaussians) "
            "or a smaller cache (--cache-gb)."
        )


def _answered(words: Sequence[str]) -> bool:
    """Print what is asked for where `words` ask for the version, for help or for completion; else return False."""
    help_asked = [word for word in words if word in ("--help", "-h", "--help-all")]
    if not words or words[0] in help_asked:
        print(OVERVIEW.format(commands="\n".join(f"  {name:18}  {entry.summary}" for name, entry in COMMANDS.items())))
    elif words[0] in ("--version", "-V"):
        print(f"nfc-gs {__version__}")
    elif words[0] == "--completion":
        if len(words) < 2:
            raise UserError("--completion needs a value: bash, zsh or fish.")
        if words[1] not in COMPLETION:
            raise UserError(f"--completion: '{words[1]}' is none of {', '.join(COMPLETION)}.")
        print(completion_script(words[1], {name: entry.load() for name, entry in COMMANDS.items()}))
    elif help_asked:
        print_help(words[0], _entry(words[0]).load(), everything="--help-all" in help_asked)
    else:
        return False
    return True


def parse(words: Sequence[str]) -> Command:
    """The command that `words` stand for.

    Raises:
        UserError: they are not understood.
    """
    name, *rest = words
    kind = _entry(name).load()
    flags = flags_of(kind)
    for word in itertools.takewhile(lambda word: word != "--", rest):
        flag, equals, _ = word.partition("=")
        if not re.match("--?[a-zA-Z]", flag):
            continue
        if flag not in flags:
            raise UserError(_unknown_option(name, flag))
        if equals and flags[flag]:
            raise UserError(f"{flag} takes no value; leave it out.")
    command = parse_command(name, kind, rest)
    for value in vars(command).values():
        for path in value if isinstance(value, tuple) else (value,):
            if isinstance(path, Path):
                check_path(path)
    return command


def _run(command: Command) -> int:
    from nfc_gs.commands.console import sentences_to_stderr

    with sentences_to_stderr(notices=not command.quiet), signals_call(raise_interrupted):
        return command.run()


@contextlib.contextmanager
def _stdout_written() -> Iterator[None]:
    """Write what is printed in the context. Raises UserError where the disk is full under a redirected stdout."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        from nfc_gs.commands.console import silence

        silence(sys.stdout)  # Python would stumble over it when it ends
        raise UserError(f"The output cannot be written to stdout: {error.strerror or error}.") from None


def _entry(name: str) -> Entry:
    """The command of that name. Raises UserError if there is none."""
    if name in COMMANDS:
        return COMMANDS[name]
    if name.startswith("-"):
        raise UserError(f"nfc-gs has no option {name}; begin with a command, as in nfc-gs train CAPTURE.")
    close = difflib.get_close_matches(name, COMMANDS, n=1)
    hint = f"did you mean {close[0]}?" if close else f"the commands are {', '.join(COMMANDS)}."
    raise UserError(f"nfc-gs has no command {name}; {hint}")


def _unknown_option(name: str, flag: str) -> str:
    """What to say of an option that the command `name` does not have."""
    flags = {each: flags_of(entry.load()) for each, entry in COMMANDS.items()}
    sentence = f"nfc-gs {name} has no option {flag}"
    others = [each for each in COMMANDS if flag in flags[each]]
    if others:
        *most, last = others
        owners = f"{', '.join(most)} and {last}" if most else last
        return f"{sentence}, which belongs to {owners}; see nfc-gs {name} --help."
    close = difflib.get_close_matches(flag, sorted(flags[name]), n=1)
    return f"{sentence}; did you mean {close[0]}?" if close else f"{sentence}; see nfc-gs {name} --help."


def _fail(sentence: str) -> int:
    _say(f"error: {sentence}")
    return USER_ERROR


def _say(sentence: str) -> None:
    with contextlib.suppress(OSError):  # stderr may lie on the very disk that is full, or be a terminal that is closed
        print(sentence, file=sys.stderr, flush=True)


def _is_out_of_memory(error: Exception) -> bool:
    """Whether Python, the system, torch on the CPU (a plain RuntimeError) or torch on a GPU ran out of memory."""
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    words = str(error)
    if "DefaultCPUAllocator" in words or "can't start new thread" in words:
        return True
    import torch

    return isinstance(error, torch.OutOfMemoryError)
