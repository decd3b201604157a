"""The Dockerfile as data, and its RUN steps as a shell outside of docker can run them below a folder."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[1]
DOCKERFILE = ROOT / "Dockerfile"
FOLDERS = ("/src", "/dist", "/opt/zoetrope", "/cache", "/models", "/var/lib/apt")
"""What the steps touch: these are moved below the folder; a step that names another is refused."""
_ABSOLUTE = re.compile(r"(?<![\w./:}-])/[\w.][\w./-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One FROM and what follows it: pairs of an instruction's name and its value, continuations joined."""

    name: str
    base: str
    instructions: tuple[tuple[str, str], ...]

    def values(self, name):
        """The values of all instructions of that name, in order."""
        return [value for instruction, value in self.instructions if instruction == name]

    def last(self, name):
        """The value that counts when an instruction may stand several times."""
        return self.values(name)[-1]

    def exec_form(self, name):
        """The words of an ENTRYPOINT, CMD or HEALTHCHECK; fails for the shell form."""
        return json.loads(self.last(name).partition("[")[1] + self.last(name).partition("[")[2])

    def pairs(self, name):
        """All key=value pairs of the ENV or LABEL instructions."""
        words = [word for value in self.values(name) for word in shlex.split(value)]
        return dict(word.split("=", 1) for word in words)

    def arguments(self):
        """The build arguments with a default."""
        return dict(value.split("=", 1) for value in self.values("ARG") if "=" in value)


def read(path=DOCKERFILE):
    """The global build arguments, and the stages by name in their order."""
    with path.open("rb") as file:
        structure = DockerfileParser(fileobj=file).structure
    instructions = [(each["instruction"], each["value"]) for each in structure]
    instructions = [pair for pair in instructions if pair[0] != "COMMENT"]
    starts = [index for index, (name, _) in enumerate(instructions) if name == "FROM"]
    stages = {}
    for start, end in zip(starts, [*starts[1:], None], strict=True):
        base, keyword, name = instructions[start][1].split()
        assert keyword == "AS"
        stages[name] = Stage(name=name, base=base, instructions=tuple(instructions[start + 1 : end]))
    settings = dict(value.split("=", 1) for name, value in instructions[: starts[0]] if name == "ARG")
    return settings, stages


def ignored(path, patterns):
    """Whether .dockerignore keeps a path out: the last pattern that it, or a folder it is in, meets."""
    parents = [str(path), *map(str, path.parents)][:-1]
    verdict = False
    for pattern in patterns:
        plain = pattern.removeprefix("!").rstrip("/")
        if any(_meets(parent, plain) for parent in parents):
            verdict = not pattern.startswith("!")
    return verdict


def _meets(path, pattern):
    """`*` stays within a folder, a leading `**/` matches any number of them, none too."""
    if pattern.startswith("**/"):
        return fnmatch.fnmatch(path.rpartition("/")[2], pattern[3:])
    return path.count("/") == pattern.count("/") and fnmatch.fnmatch(path, pattern)


def context():
    """The files that docker would be sent, relative to the project's root."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    assert patterns[0] == "*", "only what is named is sent"
    named = [ROOT / pattern[1:] for pattern in patterns if pattern.startswith("!")]
    found = [file for path in named for file in ([path] if path.is_file() else path.rglob("*"))]
    files = [file.relative_to(ROOT) for file in found if file.is_file()]
    return [file for file in files if not ignored(file, patterns)]


def copy_context(target):
    """Does what `COPY . .` does."""
    for file in context():
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, target / file)


def moved(text, root):
    """The text with the folders of the image below `root`; refuses an absolute path outside of them."""

    def below(match):
        path = match[0]
        if not any(path == folder or path.startswith(folder + "/") for folder in FOLDERS):
            raise AssertionError(f"a step would touch {path}")
        return str(root) + path

    return _ABSOLUTE.sub(below, text)


def run(step, root, arguments, directory=None, **environment):
    """Runs a RUN step with `/bin/sh -c`, as docker does, but for its mounts.

    A mount of a stage's folder is that folder below `root`, and pip has its own cache; so nothing is lost.
    """
    command = moved(re.sub(r"^(--mount=\S+\s+)*", "", step), root)
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=directory or root,
        env={**os.environ, **arguments, **environment},
        capture_output=True,
        text=True,
        timeout=280,
    )
