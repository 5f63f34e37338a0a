"""Scripts that complete the words of a command line in a shell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nfc_gs.commands.options import Option
from nfc_gs.core.errors import UserError

SHELLS = ("bash", "zsh", "fish")

Commands = Mapping[str, Sequence[Option]]
"""The options of each command."""


def completion_script(shell: str, commands: Commands, summaries: Mapping[str, str]) -> str:
    """What a shell reads to complete `nfc-gs`; it names the options as they are now and starts no Python.

    Args:
        shell: one of `SHELLS`.
        summaries: a line on each command.

    Raises:
        UserError: it is none of these.
    """
    if shell not in SHELLS:
        raise UserError(f"--completion: '{shell}' is none of {', '.join(SHELLS)}.")
    if shell == "fish":
        return _fish(commands, summaries)
    script = _bash(commands)
    return script if shell == "bash" else f"autoload -Uz compinit bashcompinit && compinit && bashcompinit\n{script}"


def _flags(options: Sequence[Option]) -> list[str]:
    return ["--help", "--help-all", *(flag for option in options for flag in option.flags)]


def _bash(commands: Commands) -> str:
    names = " ".join([*commands, "--help", "--version", "--completion"])
    lines = [
        "_nfc_gs() {",
        "    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} words=",
        "    if [ $COMP_CWORD -eq 1 ]; then",
        f'        words="{names}"',
        "    else",
        '        case "${COMP_WORDS[1]} $before" in',
        f'            "--completion --completion") words="{" ".join(SHELLS)}";;',
    ]
    for name, options in commands.items():
        for option in options:
            if option.choices and not option.positional:
                lines.append(f'            "{name} {option.flag}") words="{" ".join(option.choices)}";;')
    lines += ["        esac", '        case "${COMP_WORDS[1]} $word" in']
    for name, options in commands.items():
        lines.append(f'            "{name} -"*) words="{" ".join(_flags(options))}";;')
    lines += [
        "        esac",
        "    fi",
        '    COMPREPLY=($(compgen -W "$words" -- "$word"))',
        "}",
        "complete -o default -F _nfc_gs nfc-gs",
    ]
    return "\n".join(lines)


def _fish(commands: Commands, summaries: Mapping[str, str]) -> str:
    lines = [
        "complete -c nfc-gs -n __fish_use_subcommand -l version -d 'Print the version'",
        f"complete -c nfc-gs -n __fish_use_subcommand -l completion -x -a '{' '.join(SHELLS)}'",
    ]
    for name, options in commands.items():
        lines.append(f"complete -c nfc-gs -n __fish_use_subcommand -f -a {name} -d {_quoted(summaries[name])}")
        here = f"complete -c nfc-gs -n '__fish_seen_subcommand_from {name}'"
        lines += [f"{here} -l help -d 'Show the help'", f"{here} -l help-all -d 'Show all options'"]
        for option in options:
            takes = {True: "", False: " -r"}[option.count is None]
            if option.choices:
                takes = f" -x -a '{' '.join(option.choices)}'"
            text = _quoted(option.help.split(". ")[0])
            lines += [f"{here} -l {flag.removeprefix('--')}{takes} -d {text}" for flag in option.flags]
    return "\n".join(lines)


def _quoted(text: str) -> str:
    """As one word of fish."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
