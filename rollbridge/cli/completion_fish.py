"""The completion script for fish 3 and later."""

from __future__ import annotations

from collections.abc import Iterator

from rollbridge.cli.parser_shape import Kind, Option, Shape, Value

_SCRIPT = r"""# Completion of rollbridge for fish, made by `rollbridge completion fish`.

# The words behind the command's name that are complete; empty while the name itself is still to come.
function __rollbridge_words
    set -l words (commandline -opc)
    set -e words[1]
    while set -q words[1]
        switch $words[1]
            case -c --config
                set -e words[1]
            case '-*'
            case '*'
                printf '%s\n' $words
                return
        end
        set -e words[1]
    end
end

# Whether the command's name is still to come, or with $argv is one of these.
function __rollbridge_in
    set -l words (__rollbridge_words)
    if not set -q argv[1]
        not set -q words[1]
        return
    end
    contains -- "$words[1]" $argv
end

# Whether argument number $argv[2] of command $argv[1] comes now; what follows are its options that take a value.
function __rollbridge_at
    set -l words (__rollbridge_words)
    test "$words[1]" = $argv[1]; or return 1
    set -l count 0
    set -e words[1]
    while set -q words[1]
        if contains -- $words[1] $argv[3..]
            set -e words[1]
        else if not string match -q -- '-*' $words[1]
            set count (math $count + 1)
        end
        set -e words[1]
    end
    test $count -eq $argv[2]
end

# Ids that the running daemon knows; $argv[1] is their kind.
function __rollbridge_ask
    set -l words (commandline -opc)
    set -l program (string replace -r '^~' $HOME -- $words[1])
    set -l config ''
    for i in (seq 2 (count $words))
        switch $words[$i]
            case -c --config
                set config $words[(math $i + 1)]
            case '--config=*'
                set config (string replace -r '^--config=' '' -- $words[$i])
        end
    end
    $program _complete $argv[1] (string replace -r '^~' $HOME -- "$config") 2>/dev/null </dev/null
end

for program in rollbridge rollbridge.pyz
    complete -c $program -f
@LINES@
end
"""


def fish_script(shape: Shape) -> str:
    """Return the script for ``shape``."""
    return _SCRIPT.replace("@LINES@", "\n".join(_lines(shape)))


def _lines(shape: Shape) -> Iterator[str]:
    for command in shape.commands:
        yield f"    complete -c $program -n __rollbridge_in -a {command.name} -d {_quoted(command.summary)}"
    yield from (_option("__rollbridge_in", option) for option in shape.options)
    for command in shape.commands:
        yield from (_option(f"__rollbridge_in {command.name}", option) for option in command.options)
        with_value = " ".join(name for option in command.options if option.value for name in option.names)
        for position, value in enumerate(command.arguments):
            # Files are left out already, and -x would ask for a value.
            condition = f"__rollbridge_at {command.name} {position} {with_value}".rstrip()
            yield f"    complete -c $program -n {_quoted(condition)} {_value(value).replace('-x ', '')}"


def _option(condition: str, option: Option) -> str:
    names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
    value = f" {_value(option.value)}" if option.value else ""
    return f"    complete -c $program -n {_quoted(condition)} {names}{value} -d {_quoted(option.help)}"


def _value(value: Value) -> str:
    return {
        Kind.CHOICES: f"-x -a {_quoted(' '.join(value.choices))}",
        Kind.FILE: "-r -F",
        Kind.DIRECTORY: "-x -a '(__fish_complete_directories (commandline -ct))'",
        Kind.FREE: "-x",
    }.get(value.kind, f"-x -a '(__rollbridge_ask {value.kind.value})'")


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
