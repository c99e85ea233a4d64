"""The completion script for bash 4 and later; needs nothing of the package bash-completion."""

from __future__ import annotations

from collections.abc import Iterator

from rollbridge.cli.parser_shape import ASKED, Kind, Option, Shape, Value

_SCRIPT = r"""# Completion of rollbridge for bash, made by `rollbridge completion bash`.

# Sets `kind` and `choices` for the value of option $2 of command $1; fails when it takes none.
_rollbridge_value() {
    case "$1 $2" in
@VALUES@
    *) return 1 ;;
    esac
}

# Sets `kind` and `choices` for argument number $2 of command $1.
_rollbridge_argument() {
    case "$1 $2" in
@ARGUMENTS@
    *) kind=free ;;
    esac
}

_rollbridge() {
    local current=${COMP_WORDS[COMP_CWORD]} command='' config='' option='' word kind='' choices='' i position=0
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
        --*=*) [[ $word == --config=* ]] && config=${word#*=} ;;
        -*)
            if _rollbridge_value "$command" "$word"; then
                option=$word
                # Of --config=x bash makes three words.
                [[ ${COMP_WORDS[i + 1]} == '=' ]] && ((i++))
                ((i++))
                ((i < COMP_CWORD)) && [[ $option == -c || $option == --config ]] && config=${COMP_WORDS[i]}
                ((i < COMP_CWORD)) && option=''
            fi
            ;;
        *) if [[ -z $command ]]; then command=$word; else ((position++)); fi ;;
        esac
    done
    COMPREPLY=()
    kind='' choices=''
    if [[ -z $option && $current == --*=* ]]; then
        option=${current%%=*} current=${current#*=}
    fi
    [[ $current == '=' ]] && current=''
    if [[ -n $option ]]; then
        _rollbridge_value "$command" "$option" || return 0
    elif [[ $current == -* ]]; then
        kind=choices
        case $command in
@OPTIONS@
        esac
    elif [[ -z $command ]]; then
        kind=choices choices='@COMMANDS@'
    else
        _rollbridge_argument "$command" "$position"
    fi
    case $kind in
    file) compopt -o default ;;
    directory) compopt -o dirnames ;;
    choices) mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current") ;;
    @ASKED@)
        config=${config//\\/}
        choices=$("${COMP_WORDS[0]/#\~/$HOME}" _complete "$kind" "${config/#\~/$HOME}" 2>/dev/null </dev/null)
        mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current")
        ;;
    esac
}

complete -F _rollbridge rollbridge rollbridge.pyz
"""


def bash_script(shape: Shape) -> str:
    """Return the script for ``shape``."""
    values = [*_values("", shape.options)]
    options = [f"        '') choices='{_names(shape.options)}' ;;"]
    arguments = []
    for command in shape.commands:
        values += _values(command.name, command.options)
        options.append(f"        {command.name}) choices='{_names(command.options)}' ;;")
        arguments += [
            f"    '{command.name} {position}') {_assigned(value)} ;;"
            for position, value in enumerate(command.arguments)
        ]
    replacements = {
        "@VALUES@": "\n".join(values),
        "@ARGUMENTS@": "\n".join(arguments),
        "@OPTIONS@": "\n".join(options),
        "@COMMANDS@": " ".join(command.name for command in shape.commands),
        "@ASKED@": " | ".join(kind.value for kind in ASKED),
    }
    script = _SCRIPT
    for mark, text in replacements.items():
        script = script.replace(mark, text)
    return script


def _names(options: tuple[Option, ...]) -> str:
    """Only the long names: a dash and a letter is typed faster than it is completed."""
    return " ".join(name for option in options for name in option.names if name.startswith("--"))


def _values(command: str, options: tuple[Option, ...]) -> Iterator[str]:
    for option in options:
        if option.value:
            pattern = " | ".join(f"'{command} {name}'" for name in option.names)
            yield f"    {pattern}) {_assigned(option.value)} ;;"


def _assigned(value: Value) -> str:
    if value.kind is Kind.CHOICES:
        return f"kind=choices choices='{' '.join(value.choices)}'"
    return f"kind={value.kind.value}"
