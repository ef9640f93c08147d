"""Another machine over ssh: what it is called, a command on it, a folder to it. System programs, no keys of our own.

Nothing is asked for on a terminal, and the host's key must be known: who has never logged in there does so once by
hand, and compares the fingerprint. What reaches the remote shell is quoted here; paths are handed to rsync as they are.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drsn_edge.errors import DrsnError, MissingDependency, MissingDevice, UsageError

_HOST = re.compile(r"(?:[A-Za-z0-9_][\w.+-]*@)?(?:[A-Za-z0-9_][\w.-]*|\[[0-9A-Fa-f:.]+(?:%\w+)?\])")
_SSH_FAILED, _NOT_FOUND = 255, 127


@dataclass(frozen=True)
class Remote:
    """A folder on another machine.

    Attributes:
        host: `user@host`, as ssh takes it.
        folder: Where bundles go; relative ones begin at the home folder.
        port: Of its ssh; None for the usual one, or the one of ssh's configuration.
        identity: Private key.
        config: Another configuration of ssh.
        program: How drsn-edge is called there.
    """

    host: str
    folder: str
    port: int | None = None
    identity: Path | None = None
    config: Path | None = None
    program: str = "drsn-edge"

    @classmethod
    def parse(cls, target: str, **options: object) -> Remote:
        """`user@host:DIR`.

        Raises:
            UsageError: Not of this form, or a host that ssh would take for an option.
        """
        host, colon, folder = target.partition("]:") if target.rpartition("@")[2].startswith("[") else ("", "", "")
        if colon:
            host += "]"
        else:
            host, colon, folder = target.partition(":")
        if not colon or not folder or "\0" in folder or "\n" in folder or _HOST.fullmatch(host) is None:
            raise UsageError("the target is not understood", got=target, expected="user@host:DIR, or host:DIR")
        return cls(host, _anchored(folder), **options)  # type: ignore[arg-type]

    @property
    def ssh(self) -> list[str]:
        """The program and its options, without the host."""
        words = ["ssh", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "ConnectTimeout=15"]
        words += ["-F", str(self.config)] if self.config is not None else []
        words += ["-p", str(self.port)] if self.port is not None else []
        words += ["-i", str(self.identity)] if self.identity is not None else []
        return words

    @property
    def _login(self) -> str:
        """The host as ssh takes it: rsync wants addresses of IPv6 in brackets, ssh without."""
        return self.host.replace("[", "").replace("]", "")

    def path(self, name: str) -> str:
        """A name in the folder."""
        return f"{self.folder.rstrip('/')}/{name}"

    def run(self, words: Sequence[str], *, allowed: Sequence[int] = (0,)) -> subprocess.CompletedProcess[str]:
        """A command there; its words arrive as they are.

        Raises:
            MissingDependency: ssh is not installed here, or the program not there.
            MissingDevice: The machine cannot be reached, or its key is not known.
            DrsnError: Another exit code than those allowed.
        """
        line = " ".join(map(shlex.quote, words))
        done = _call([*self.ssh, "--", self._login, line])
        if done.returncode == _SSH_FAILED:
            raise self._unreachable(done.stderr)
        if done.returncode == _NOT_FOUND:
            raise MissingDependency(
                f"{words[0]} was not found on {self.host}",
                got=_last(done.stderr),
                expected="a program that its shell finds without a terminal",
                hint="install it there, or name it: --remote-program DIR/bin/drsn-edge",
            )
        if done.returncode not in allowed:
            raise DrsnError(
                f"a command failed on {self.host}",
                got=f"{line}: exit code {done.returncode}, {_last(done.stderr)}",
                expected=f"exit code {' or '.join(map(str, allowed))}",
            )
        return done

    def program_words(self, *words: str) -> list[str]:
        """A call of drsn-edge there."""
        program = self.program
        return [_anchored(program) if "/" in program else program, *words]

    def copy(self, source: Path, name: str) -> None:
        """Make the folder's `name` equal to a local folder; what was copied before a break is not copied again.

        Raises:
            MissingDependency: rsync is missing, here or there.
            MissingDevice: The transfer broke off.
        """
        shell = " ".join("'" + word.replace("'", "''") + "'" if re.search(r"[^\w@%+=:,./-]", word) else word
                         for word in self.ssh)  # fmt: skip
        # --protect-args: the remote shell does not see the path. A trailing slash: the contents, not the folder.
        words = ["rsync", "--archive", "--delete", "--partial", "--protect-args", "--no-owner", "--no-group",
                 "--timeout=60", "-e", shell, f"{source.resolve()}/", f"{self.host}:{self.path(name)}/"]  # fmt: skip
        done = _call(words)
        if done.returncode == 0:
            return
        if "Host key verification failed" in done.stderr or "Permission denied (" in done.stderr:
            raise self._unreachable(done.stderr)
        if "rsync: command not found" in done.stderr or "rsync: not found" in done.stderr:
            raise MissingDependency(
                f"copying needs rsync on {self.host}", got=_last(done.stderr), hint="sudo apt install rsync, there"
            )
        raise MissingDevice(
            "the transfer broke off",
            got=f"rsync exit code {done.returncode}: {_last(done.stderr)}",
            expected=f"all of {source} at {self.host}",
            hint="run it again: it goes on where it was; the bundle that was there before is untouched",
        )

    def _unreachable(self, said: str) -> MissingDevice:
        hint = f"try: {shlex.join(['ssh', self._login, 'true'])}"
        if "Host key verification failed" in said:
            hint += "; log in once by hand, and compare the fingerprint of its key"
        elif "Permission denied" in said:
            hint += "; it must work with a key, without a password: ssh-copy-id"
        return MissingDevice(
            f"{self.host} cannot be reached", got=_last(said), expected="a login that asks nothing", hint=hint
        )


def require_programs() -> None:
    """Refuse to begin where ssh or rsync is missing.

    Raises:
        MissingDependency: One is.
    """
    for name, package in (("ssh", "openssh-client"), ("rsync", "rsync")):
        if shutil.which(name) is None:
            raise MissingDependency(
                f"pushing needs the program {name}", got="not on the path", expected=name,
                hint=f"sudo apt install {package}",
            )  # fmt: skip


def _anchored(path: str) -> str:
    """Relative paths begin at the home folder, where ssh starts, and cannot be taken for options."""
    path = path.removeprefix("~/")
    return path if path.startswith(("/", "./")) else f"./{path}"


def _call(words: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    except FileNotFoundError:
        require_programs()
        raise


def _last(text: str) -> str:
    """The last two lines that were said."""
    return " / ".join(line.strip() for line in text.strip().splitlines()[-2:]) or "nothing was said"
