"""The completion script for zsh: a file for its ``fpath``, or to be evaluated after ``compinit``."""

from __future__ import annotations

from collections.abc import Sequence

from rollbridge.cli.parser_shape import CommandShape, Kind, Option, Shape, Value

_SCRIPT = r"""#compdef rollbridge rollbridge.pyz
# Completion of rollbridge for zsh, made by `rollbridge completion zsh`.

# Ids that the running daemon knows; the last argument is their kind, those before it are for compadd.
_rollbridge_ask() {
    local kind=$@[-1]
    local -a found
    found=(${(f)"$("${program/#\~/$HOME}" _complete $kind "${config/#\~/$HOME}" 2>/dev/null </dev/null)"})
    compadd "${@[1,-2]}" -a found
}

_rollbridge_commands() {
    local -a commands=(
@COMMANDS@
    )
    _describe -t commands command commands
}

_rollbridge() {
    local program=$words[1] config='' curcontext=$curcontext state line i
    local -A opt_args
    for ((i = 2; i < $#words; i++)); do
        case $words[i] in
        (-c|--config) config=${(Q)words[i+1]} ;;
        (--config=*) config=${(Q)words[i]#*=} ;;
        esac
    done
    _arguments -C \
@OPTIONS@
        '(-)1: :_rollbridge_commands' \
        '(-)*:: :->rest'
    [[ $state == rest ]] || return
    case $words[1] in
@CASES@
    esac
}

if [[ $funcstack[1] == _rollbridge ]]; then
    _rollbridge "$@"
else
    compdef _rollbridge rollbridge rollbridge.pyz
fi
"""


def zsh_script(shape: Shape) -> str:
    """Return the script for ``shape``."""
    replacements = {
        "@COMMANDS@": "\n".join(f"        {_quoted(f'{one.name}:{one.summary}')}" for one in shape.commands),
        "@OPTIONS@": "\n".join(f"        {one} \\" for one in _options(shape.options)),
        "@CASES@": "\n".join(_case(command) for command in shape.commands),
    }
    script = _SCRIPT
    for mark, text in replacements.items():
        script = script.replace(mark, text)
    return script


def _case(command: CommandShape) -> str:
    specs = [*_options(command.options), *(_quoted(f"{n}:{_value(v)}") for n, v in enumerate(command.arguments, 1))]
    lines = " \\\n".join(f"            {spec}" for spec in specs)
    return f"    ({command.name})\n        _arguments \\\n{lines}\n        ;;"


def _options(options: Sequence[Option]) -> list[str]:
    return [spec for option in options for spec in _option(option)]


def _option(option: Option) -> list[str]:
    """One specification for each name, which excludes the others: an option is given once unless it may be repeated."""
    others = "*" if option.is_repeatable else f"({' '.join(option.names)})"
    specs = []
    for name in option.names:
        attached = "=" if option.value and name.startswith("--") else ""
        value = f":{_value(option.value)}" if option.value else ""
        specs.append(_quoted(f"{others}{name}{attached}[{_told(option.help)}]{value}"))
    return specs


def _value(value: Value) -> str:
    action = {
        Kind.CHOICES: f"({' '.join(value.choices)})",
        Kind.FILE: "_files",
        Kind.DIRECTORY: "_directories",
        Kind.FREE: " ",
    }.get(value.kind, f"_rollbridge_ask {value.kind.value}")
    return f"{value.name}:{action}"


def _told(text: str) -> str:
    for special in "\\[]:":
        text = text.replace(special, f"\\{special}")
    return text


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
