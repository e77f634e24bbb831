"""What may strike a run, and what has to come of it: a fault is a function of the run's Scene."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from diffrec_jax.training.checkpoints import Checkpoints

LONGEST_S = 240
"""A process that takes longer hangs."""
DATA = ["--dataset=synthetic", "--synthetic_users=300", "--synthetic_items=150", "--synthetic_interactions=6000"]
TRAINING = [
    "--batch_size=25", "--epochs=24", "--eval_every=3", "--patience=0", "--checkpoint_every_steps=7", "--nobaseline",
]  # fmt: skip
MODELS = {
    "diffrec": ["--model=diffrec", "--dims=16"],
    "lt_diffrec": ["--model=lt_diffrec", "--dims=8", "--in_dims=12", "--num_groups=2"],
}


class FailedError(AssertionError):
    """The run did not survive: what went wrong."""


@dataclass
class Process:
    """A finished process."""

    code: int
    output: str


@dataclass
class Scene:
    """One run that a fault strikes."""

    model: str
    path: Path
    rng: np.random.Generator
    expected: dict[str, Any]
    """Results of the undisturbed run."""
    duration_s: float
    """Of that one."""
    said: list[str] = field(default_factory=list)
    """The last line of each process that did not end well."""

    @property
    def flags(self) -> list[str]:
        """Of the run."""
        return [*DATA, *TRAINING, *MODELS[self.model], f"--run_dir={self.path}", "--resume"]

    @property
    def checkpoints(self) -> Checkpoints:
        """Of the run."""
        return Checkpoints(self.path / "checkpoints")

    def whole_steps(self) -> list[int]:
        """Steps whose checkpoints are whole."""
        return [step for step in self.checkpoints.steps() if self.checkpoints.damage(step) is None]

    def begin(self, *flags: str, limit: Callable[[], None] | None = None) -> subprocess.Popen:
        """Starts the run, or goes on with it."""
        command = [sys.executable, "-m", "experiments.train", *self.flags, *flags]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", preexec_fn=limit
        )

    def end(self, process: subprocess.Popen) -> Process:
        """Waits for it.

        Raises:
          FailedError: it hangs, or ends with a traceback.
        """
        try:
            output = process.communicate(timeout=LONGEST_S)[0]
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise FailedError(f"hangs: {process.communicate()[0][-300:]}") from error
        if "Traceback" in output or "Fatal Python error" in output:
            raise FailedError(f"traceback: {output[-1500:]}")
        if process.returncode > 0:
            self.said.append((output.strip().splitlines() or [""])[-1])
        return Process(process.returncode, output)

    def random_moment(self, process: subprocess.Popen) -> None:
        """Waits for any time within the run."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.rng.uniform(0.02, 0.98) * self.duration_s)

    def strike(self, *numbers: signal.Signals) -> tuple[Process, int]:
        """Signals at a random moment: how the process ended, and the newest whole checkpoint before."""
        process = self.begin()
        self.random_moment(process)
        before = max(self.whole_steps(), default=0)
        for number in numbers:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(number)
            time.sleep(0.05)
        ended = self.end(process)
        if max(self.whole_steps(), default=0) < before:
            raise FailedError(f"lost: the checkpoint of step {before} is gone or damaged")
        return ended, before

    def interrupted(self) -> None:
        """A run that was killed after it had saved some checkpoints."""
        process = self.begin()
        deadline = time.monotonic() + LONGEST_S
        while len(self.checkpoints.steps()) < 3 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(self.rng.uniform(0, 0.5))
        process.kill()
        process.communicate()

    def resume(self, *flags: str, code: int = 0) -> Process:
        """Goes on with the run; its results, if it ends well, have to be those of the undisturbed one.

        Raises:
          FailedError: they are not, or it ends with another code.
        """
        ended = self.end(self.begin(*flags))
        if ended.code != code:
            raise FailedError(f"ends with {ended.code}, not {code}: {ended.output[-600:]}")
        if code == 0:
            results = json.loads((self.path / "results.json").read_text())
            wrong = [key for key in self.expected if results[key] != self.expected[key]]
            if wrong:
                raise FailedError(f"wrong: {', '.join(wrong)} differ from the undisturbed run")
        return ended

    def some_file(self, step: int) -> Path:
        """A file of a checkpoint that is not empty."""
        files = sorted(path for path in (self.path / "checkpoints" / str(step)).rglob("*") if path.is_file())
        return files[self.rng.integers(len(files))]


def kill(scene: Scene) -> str:
    """Without a chance to save."""
    scene.strike(signal.SIGKILL)
    scene.resume()
    return "resumed"


def stop(number: signal.Signals) -> Callable[[Scene], str]:
    """A signal that asks for the end."""

    def fault(scene: Scene) -> str:
        ended, before = scene.strike(number)
        at_once = 130 if number == signal.SIGINT and "saving a checkpoint" not in ended.output else 75
        if ended.code not in (0, 75, at_once):  # before and after a training, Ctrl-C ends a script at once
            raise FailedError(f"ends with {ended.code}: {ended.output[-600:]}")
        if "stopped at step" in ended.output:
            step = int(ended.output.split("stopped at step ")[1].split()[0])
            if max(scene.whole_steps()) < max(step, before):
                raise FailedError(f"lost: step {step} is not in a checkpoint")
        scene.resume()
        return f"exit {ended.code}, resumed" if ended.code else "had finished"

    return fault


def ctrl_c_twice(scene: Scene) -> str:
    """The second one ends the process at once."""
    ended, _ = scene.strike(signal.SIGINT, signal.SIGINT)
    if ended.code not in (0, 75, 130):
        raise FailedError(f"ends with {ended.code}: {ended.output[-600:]}")
    scene.resume()
    return "exit 130 or 75, resumed"


def freeze(scene: Scene) -> str:
    """As a batch system suspends a job."""
    process = scene.begin()
    scene.random_moment(process)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGSTOP)
        time.sleep(scene.rng.uniform(0.5, 3))
        process.send_signal(signal.SIGCONT)
    if scene.end(process).code:
        raise FailedError("does not go on")
    scene.resume()
    return "went on"


def stop_often(scene: Scene) -> str:
    """A machine that is taken away again and again."""
    for _ in range(4):
        scene.strike((signal.SIGTERM, signal.SIGKILL)[scene.rng.integers(2)])
    scene.resume()
    return "resumed"


def flip_bit(path: Path, rng: np.random.Generator) -> None:
    """Any one of a file."""
    content = bytearray(path.read_bytes())
    if content:
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(content))


def damage(change: Callable[[Scene, int], None]) -> Callable[[Scene], str]:
    """Damages the newest checkpoint of an interrupted run."""

    def fault(scene: Scene) -> str:
        scene.interrupted()
        steps = scene.whole_steps()
        change(scene, steps[-1])
        detected = scene.checkpoints.damage(steps[-1]) is not None
        if not detected:
            raise FailedError("not detected")
        ended = scene.resume()
        if "passed over" not in ended.output:
            raise FailedError("nothing was said of it")
        return "passed over, resumed from the one before"

    return fault


def cut(scene: Scene, step: int) -> None:
    """A file loses its end."""
    path = scene.some_file(step)
    while not path.stat().st_size:
        path = scene.some_file(step)
    os.truncate(path, int(scene.rng.integers(path.stat().st_size)))


def delete(scene: Scene, step: int) -> None:
    """A file is gone."""
    path = scene.some_file(step)
    while path.name == "manifest.json":  # without it, it is no step
        path = scene.some_file(step)
    path.unlink()


def swap(scene: Scene, step: int) -> None:
    """Each has the arrays of the other."""
    folder = scene.path / "checkpoints"
    other = folder / str(scene.whole_steps()[-2])
    (folder / str(step) / "state").rename(folder / "aside")
    (other / "state").rename(folder / str(step) / "state")
    (folder / "aside").rename(other / "state")


def empty_step(scene: Scene) -> str:
    """As a process leaves it that is killed before it writes."""
    scene.interrupted()
    (scene.path / "checkpoints" / "99999").mkdir()
    scene.resume()
    return "not taken for one, resumed"


def all_damaged(scene: Scene) -> str:
    """There is nothing to go on from."""
    scene.interrupted()
    for step in scene.whole_steps():
        flip_bit(scene.some_file(step), scene.rng)
    scene.resume("--resume=must", code=2)
    scene.resume()
    return "exit 2 with --resume=must; else from the start"


def best_damaged(scene: Scene) -> str:
    """Of a run that was finished but for its results."""
    process = scene.begin()
    scene.end(process)
    best = int(json.loads((scene.path / "results.json").read_text())["best_epoch"] * 12)
    (scene.path / "results.json").unlink()
    flip_bit(scene.some_file(best), scene.rng)
    scene.resume()
    return "made again"


def torn_log(scene: Scene) -> str:
    """The log of metrics ends anywhere."""
    scene.interrupted()
    path = scene.path / "metrics.jsonl"
    content = path.read_bytes()
    kept = content[: int(scene.rng.integers(len(content)))]
    path.write_bytes(kept + (scene.rng.bytes(40) if scene.rng.random() < 0.5 else b""))
    scene.resume()
    return "resumed"


def damaged_file(name: str) -> Callable[[Scene], str]:
    """A file that is no JSON any more."""

    def fault(scene: Scene) -> str:
        scene.interrupted()
        path = scene.path / name
        kept = path.read_bytes() if path.exists() else None
        path.write_text('{"torn')
        scene.resume(code=2)
        path.unlink() if kept is None else path.write_bytes(kept)
        scene.resume()
        return "exit 2; put right, resumed"

    return fault


def other_setting(scene: Scene) -> str:
    """A run is resumed with a flag that contradicts it."""
    scene.interrupted()
    scene.resume("--lr=0.5", code=2)
    scene.resume()
    return "refused, resumed"


def other_data(scene: Scene) -> str:
    """A run is resumed on data of another fingerprint."""
    scene.interrupted()
    scene.resume("--synthetic_interactions=5990", code=2)
    scene.resume()
    return "refused, resumed"


@contextlib.contextmanager
def file_system(folder: Path, size: str) -> Iterator[Callable[[str], object] | None]:
    """A small one mounted on a folder, and what remounts it with other options; None where none can be mounted."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        yield None
        return
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def full_disk(scene: Scene) -> str:
    """A small file system; where none can be mounted, a limit on the size of files."""
    with file_system(scene.path.parent, f"{scene.rng.integers(20, 400)}k") as remount:
        limit = (int(scene.rng.integers(200, 20_000)), resource.RLIM_INFINITY)
        process = scene.begin(limit=None if remount else lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
        ended = scene.end(process)
        if ended.code not in (0, 2):
            raise FailedError(f"ends with {ended.code}: {ended.output[-600:]}")
        if remount:
            remount("size=1g")
            if any(scene.checkpoints.damage(step) for step in scene.checkpoints.steps()):
                raise FailedError(f"lost: a checkpoint is damaged, whole are {scene.whole_steps()}")
        scene.resume()
        return "exit 2, resumed with room"


def read_only(scene: Scene) -> str:
    """A file system that can only be read when the run goes on; where none can be mounted, as if the disk were full."""
    with file_system(scene.path.parent, "1g") as remount:
        if remount is None:
            return full_disk(scene)
        scene.interrupted()
        before = scene.whole_steps()
        remount("ro")
        scene.resume(code=2)
        remount("rw")
        if scene.whole_steps() != before:
            raise FailedError("lost: other checkpoints than before")
        scene.resume()
        return "exit 2, resumed when it can be written"


def file_in_the_way(scene: Scene) -> str:
    """The run directory cannot be used."""
    scene.path.mkdir()
    (scene.path / "checkpoints").write_text("not a folder")
    scene.resume(code=2)
    shutil.rmtree(scene.path)
    scene.resume()
    return "refused, then as ever"


def second_process(scene: Scene) -> str:
    """Both are started with --resume."""
    first = scene.begin()
    deadline = time.monotonic() + LONGEST_S
    while not (scene.path / "run.lock").exists() and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    second = scene.end(scene.begin())
    if second.code == 0 and "is finished" not in second.output:
        raise FailedError("two processes worked in one directory")
    if scene.end(first).code:
        raise FailedError("the first did not end well")
    scene.resume()
    return "the second is refused"


def wrong_times(scene: Scene) -> str:
    """The clock of the machine jumped: files are of the past and of the future."""
    scene.interrupted()
    for path in scene.path.rglob("*"):
        moment = float(scene.rng.choice([0, 4e9]))
        os.utime(path, (moment, moment))
    scene.resume()
    return "resumed"


FAULTS: dict[str, Callable[[Scene], str]] = {
    "kill -9 at a random moment": kill,
    "SIGTERM at a random moment": stop(signal.SIGTERM),
    "Ctrl-C at a random moment": stop(signal.SIGINT),
    "Ctrl-C twice": ctrl_c_twice,
    "frozen for some seconds": freeze,
    "killed or stopped four times": stop_often,
    "a bit of the newest checkpoint flipped": damage(lambda scene, step: flip_bit(scene.some_file(step), scene.rng)),
    "a file of it cut short": damage(cut),
    "a file of it deleted": damage(delete),
    "arrays of two checkpoints swapped": damage(swap),
    "an empty folder of a later step": empty_step,
    "every checkpoint damaged": all_damaged,
    "the best checkpoint damaged": best_damaged,
    "metrics.jsonl cut short, or with noise": torn_log,
    "config.json torn": damaged_file("config.json"),
    "results.json torn": damaged_file("results.json"),
    "resumed with another setting": other_setting,
    "resumed with other data": other_data,
    "disk full": full_disk,
    "a file system that is read-only": read_only,
    "a file where checkpoints belong": file_in_the_way,
    "a second process in the directory": second_process,
    "file times in the past and the future": wrong_times,
}
