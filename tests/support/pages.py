"""What pages of Markdown show: commands for a shell, programs in Python, and commands and options within sentences."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

USAGE = re.compile(r"[\[\]|]|\.\.\.")


@dataclass(frozen=True)
class Shown:
    """Something that a page shows: kind "command", "python", or "span" for what stands in a sentence."""

    page: str
    line: int
    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def shown(path: Path, page: str) -> list[Shown]:
    """All that a page shows, in its order."""
    found: list[Shown] = []
    lines = path.read_text().splitlines()
    number, paragraph, began = 0, [], 1

    def end_paragraph() -> None:
        text = "\n".join(paragraph)
        for match in re.finditer(r"(?<!`)`([^`]+)`(?!`)", text):
            line = began + text.count("\n", 0, match.start())
            found.append(Shown(page, line, "span", " ".join(match[1].split())))
        paragraph.clear()

    while number < len(lines):
        line = lines[number]
        fence = re.match(r"(\s*)```(\w*)", line)
        if fence:
            end_paragraph()
            start = number + 2
            end = next(i for i in range(number + 1, len(lines)) if lines[i].strip() == "```")
            block = [text.removeprefix(fence[1]) for text in lines[number + 1 : end]]
            number = end + 1
            if fence[2] in ("sh", "bash", "shell", "console"):
                found += commands(block, page, start)
            elif fence[2] == "python":
                found.append(Shown(page, start, "python", "\n".join(block)))
        else:
            if not paragraph:
                began = number + 1
            if line.strip():
                paragraph.append(line)
            else:
                end_paragraph()
            number += 1
    end_paragraph()
    return found


def commands(block: list[str], page: str, start: int) -> Iterator[Shown]:
    """The commands of a block of lines."""
    index = 0
    while index < len(block):
        line, text = start + index, block[index].removeprefix("$ ")
        while text.endswith("\\") and index + 1 < len(block):
            index += 1
            text = text[:-1] + block[index]
        index += 1
        if text.strip() and not text.lstrip().startswith("#"):
            yield Shown(page, line, "command", text)


def words(text: str) -> list[list[str]]:
    """The words of the commands in a line, of each behind && or a pipe."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="&;|<>" if not USAGE.search(text) else "&;<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    parts: list[list[str]] = [[]]
    for word in lexer:
        if word in ("&&", ";", "|", "||"):
            parts.append([])
        else:
            parts[-1].append(word)
    return [part for part in parts if part]


def alternatives(part: list[str]) -> list[list[str]]:
    """A usage as commands, one for every a|b in it: [A|B] is either, and `...` nothing."""
    choices = [word.strip("[]").split("|") for word in part if word.strip("[]") != "..."]
    most = max(map(len, choices))
    chosen = [tuple(choice[min(n, len(choice) - 1)] for choice in choices) for n in range(most)]
    if any(word.startswith("[") for word in part):  # and without what may be left away
        inside, kept = False, []
        for word in part:
            inside = inside or word.startswith("[")
            if not inside:
                kept.append(word.split("|"))
            inside = inside and not word.endswith("]")
        chosen.append(next(product(*kept)))
    return [list(words) for words in dict.fromkeys(chosen)]
