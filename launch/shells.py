"""The scripts that make bash, zsh and fish complete `tmrc` and `tmrc-submit`, and the line as a shell hands it over.

The scripts only pass the line on to `tmrc completion SHELL --line LINE` and take a candidate a line back, with its help
behind a tab. Nothing that comes back is evaluated, and the shell itself quotes what it inserts.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass

PROGRAMS = ("tmrc", "tmrc-submit")
START_FILES = {
    "bash": ("~/.bashrc", 'eval "$(tmrc completion bash)"'),
    "zsh": ("~/.zshrc", 'eval "$(tmrc completion zsh)"'),
    "fish": ("~/.config/fish/config.fish", "tmrc completion fish | source"),
}

# bash before 4.4 knows no nosort, and before 4.0 (macOS) no compopt. The first line says how bash is to insert.
_BASH = r"""_tmrc_completion() {
    local how= candidate
    COMPREPLY=()
    while IFS= read -r candidate; do
        if [[ -z $how ]]; then how=$candidate; continue; fi
        [[ $how == paths ]] && candidate=${candidate%/} # bash itself puts a slash behind directories
        COMPREPLY+=("$candidate")
    done < <(@TMRC@ completion bash --line "${COMP_LINE:0:COMP_POINT}" --breaks "$COMP_WORDBREAKS" 2>/dev/null)
    [[ $how == paths ]] && compopt -o filenames 2>/dev/null
    [[ $how == open ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o nosort -F _tmrc_completion @PROGRAMS@ 2>/dev/null || complete -F _tmrc_completion @PROGRAMS@
"""

# What ends in = . or / is gone on with, so no space comes behind it.
_ZSH = r"""_tmrc_completion() {
    local -a whole whole_shown open open_shown
    local candidate help shown
    while IFS=$'\t' read -r candidate help; do
        shown=$candidate${help:+  -- $help}
        if [[ $candidate == *[=./] ]]; then
            open+=("$candidate") open_shown+=("$shown")
        else
            whole+=("$candidate") whole_shown+=("$shown")
        fi
    done < <(@TMRC@ completion zsh --line "${(j: :)words[1,CURRENT-1]} $QIPREFIX$PREFIX" 2>/dev/null)
    local -a how
    [[ $PREFIX == \~* ]] && how+=(-U)
    [[ "${whole_shown[1]}${open_shown[1]}" == *'  -- '* ]] && how+=(-l)
    (( $#whole )) && compadd -V tmrc $how -d whole_shown -a whole
    (( $#open )) && compadd -V tmrc-open $how -S '' -d open_shown -a open
    (( $#whole + $#open ))
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i; }
compdef _tmrc_completion @PROGRAMS@
"""

_FISH = r"""function __tmrc_completion
    @TMRC@ completion fish --line (commandline -cp | string collect) 2>/dev/null
end
for program in @PROGRAMS@
    complete --command $program --no-files --keep-order --arguments '(__tmrc_completion)'
end
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def script(shell: str, tmrc: str) -> str:
    """The script for `shell`, one of START_FILES; `tmrc` is the name or the path of the command that it calls."""
    text = _SCRIPTS[shell].replace("@PROGRAMS@", " ".join(PROGRAMS))
    return text.replace("@TMRC@", tmrc if tmrc == "tmrc" else shlex.quote(tmrc))


@dataclass(frozen=True)
class Line:
    """A command line up to the cursor: its whole words, and the beginning of the one to complete.

    `before` is the part of that beginning which bash leaves alone, since for it a word starts anew behind `=` or `:`;
    `quoted` says whether a quote is open.
    """

    words: tuple[str, ...]
    incomplete: str
    before: str = ""
    quoted: bool = False


def parse(line: str, breaks: str = "") -> Line:
    """The words of a line, quotes taken away; one that is still open is the last one's."""
    words: list[str] = []
    word, before, quote, opened, escaped, begun = "", "", "", 0, False, False
    for char in line:
        if escaped:
            word, escaped = word + char, False
        elif char == "\\" and quote != "'":
            escaped = begun = True
        elif quote:
            quote, word = ("", word) if char == quote else (quote, word + char)
        elif char in "'\"":
            quote, opened, begun = char, len(word), True
        elif char.isspace():
            words += [word] if begun else []
            word, before, begun = "", "", False
        else:
            word, begun = word + char, True
            before = word if char in breaks else before
    return Line(tuple(words), word, word[:opened] if quote else before, quote != "")
