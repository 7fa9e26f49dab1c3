"""Fill a disk at every writer of a run, and go on once there is space again.

    python -m reliability.full_disk [--only TEXT] [--inject] [--keep]

Each chain is one small recipe. It runs once without a fault: the reference. Then it runs on a small file
system of its own (a tmpfs, which needs the right to mount), which is filled up when the run is about to write
a certain file, so that the operating system itself refuses to write. The filler is deleted, and the same
command runs again, until it meets the next writer; at the end it must finish with the weights and results of
the reference, byte for byte. Where nothing can be mounted, and with --inject, Python raises it instead.

After every fault it is checked that the program ended with a code other than 0; that it printed one sentence
with the file, the space that is free and what to do, and no traceback; that the traceback stands in the file
that it names; and that every finished file and the newest checkpoint are whole.

The last part puts a file in the place of each folder, and lets the disks be read only.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from reliability.tiny_runs import EVALUATE, NAMES, TRAIN, WORDS, pictures, texts

PAGE = 4096
# The disks of a chain: for runs, for hf_ft's caches, and for the cache of `datasets`.
DISKS = ("runs", "cache", "datasets")
# Imported once, before all forks; none of them computes anything when it is imported.
PRELOADED = (
    "matplotlib.backends.backend_agg",
    "sklearn.linear_model",
    "torchvision.transforms.v2",
    "transformers.models.bert.modeling_bert",
    "transformers.models.vit.modeling_vit",
    "peft",
    "hf_ft.report.hub",
    "hf_ft.report.report_content",
    "hf_ft.train.assemble",
    "hf_ft.train.preflight",
)
SIZE = "24m"
# Few enough that all can be used up in no time.
INODES = 4000
# What a program says about a full disk.
SAID = re.compile(
    r"disk is full: (\S+) cannot be written \(.+ of .+ are free at .+\)\. Free some space there"
)


@dataclass(frozen=True)
class Writer:
    """The moment at which a disk is full.

    Args:
        file: the end of the name of the file that cannot be written, as the message must name it.
        event: audit event of Python after which nothing fits on the disk: `open`, `os.mkdir`, `os.rename`.
        at: pattern of the path of that event; default: that of the file, under its temporary name.
        fits: files of the reference that still fit, so that the next one does not.
        disk: one of DISKS.
        inodes: whether the disk can hold no further file, in place of no further byte.
        goes_on: whether the run may do without the file; it must say so.
    """

    file: str
    event: str = "open"
    at: str = ""
    fits: Sequence[str] = ()
    disk: str = "runs"
    inodes: bool = False
    goes_on: str = ""

    @property
    def pattern(self) -> re.Pattern[str]:
        """The path of the event."""
        return re.compile(self.at or rf"[./]{re.escape(Path(self.file).name)}(\.\d+)?$")


@dataclass(frozen=True)
class Chain:
    """One recipe and the writers that meet a full disk, one after the other."""

    name: str
    make: Callable[[Path], dict[str, Any]]
    writers: Sequence[Writer]
    options: Sequence[str] = ()


def checkpoint(step: int, *, frozen: bool = False) -> list[Writer]:
    """List the writers of a checkpoint, in order."""
    at = rf"\.writing-checkpoint-{step}$"
    order = ["random-0.safetensors", "random-0.json", "model.safetensors"]
    # The frozen weights are written once; later checkpoints share their file.
    order += [*(["frozen.safetensors"] if frozen else []), "optimizer.safetensors"]
    folder = f"checkpoints/checkpoint-{step}"
    found = [
        Writer(name, "os.mkdir", at, [f"{folder}/{earlier}" for earlier in order[:place]])
        for place, name in enumerate(order)
    ]
    there = rf"\.writing-checkpoint-{step}/\.?"
    names = ("optimizer.json", "scheduler.json", "trainer_state.json", "recipe.yaml", "identity.json")
    found += [Writer(name, at=rf"{there}{re.escape(name)}(\.\d+)?$") for name in (*names, "complete.json")]
    return found


def _bad_texts(folder: Path) -> dict[str, Any]:
    """140 texts, and one that cannot be used, so that bad.csv is written; four steps an epoch."""
    recipe = texts(folder)
    rows = [
        f"{WORDS[n % 3]} road {' '.join(chr(97 + int(d)) for d in str(n))},{NAMES[n % 3]}" for n in range(140)
    ]
    Path(recipe["data"]["source"]).write_text("\n".join(["text,label", *rows, '"",go', ""]))
    recipe["data"] |= {"on_bad": "skip", "split": {"validation": 12, "test": 12}}
    return {**recipe, "train": {**TRAIN, "global_batch_size": 32}}


def _lora(folder: Path) -> dict[str, Any]:
    return {**texts(folder), "freeze": {"strategy": "lora", "r": 2}, "cache": {"activations": "off"}}


def _cached(folder: Path) -> dict[str, Any]:
    """Pictures that are decoded once, and a frozen body whose activations are cached."""
    recipe = {**pictures(folder, dropout=0.0), "freeze": {"strategy": "head"}, "cache": {"decoded": True}}
    recipe.pop("augment")
    return recipe


def _cached_texts(folder: Path) -> dict[str, Any]:
    return {**texts(folder, dropout=0.0), "freeze": {"strategy": "head"}}


def _parquet(folder: Path) -> dict[str, Any]:
    import pandas

    recipe = texts(folder)
    table = pandas.read_csv(recipe["data"]["source"])
    recipe["data"]["source"] = str(folder / "texts.parquet")
    table.to_parquet(recipe["data"]["source"])
    return recipe


ORIGIN = ("decisions.json", "recipe.yaml", "data.json", "bad.csv", "environment.json")
MODEL = "model/.*new|[.]model[.]new"
CHAINS = (
    Chain(
        "texts, before and in training",
        _bad_texts,
        [
            Writer("/run", "os.mkdir", r"/run/checkpoints$", inodes=True),
            Writer("/.lock", at=r"/run/\.lock$", inodes=True),
            Writer(".owner.json", at=r"\.owner\.json"),
            Writer("input_ids.bin", at=r"input_ids\.bin$", disk="cache"),
            Writer("use", at=r"tokens/.*/\.use", disk="cache"),
            *(Writer(name) for name in ORIGIN),
            Writer("log.jsonl", at=r"/\.log\.jsonl", inodes=True),
            Writer("log.jsonl", at=r"/log\.jsonl$"),
            *checkpoint(4),
            *(one for one in checkpoint(8) if one.file in ("model.safetensors", "complete.json")),
        ],
    ),
    Chain(
        "texts, the result",
        _bad_texts,
        [
            Writer("model/config.json", at=r"\.model\.new-\d+/config\.json", inodes=True),
            Writer("model", at=r"\.model\.new-\d+/config\.json", fits=["model/config.json"]),
            Writer("model", at=r"\.model\.new-\d+/tokenizer_config\.json"),
            Writer("model", at=r"\.model\.new-\d+/task\.json"),
            Writer("predictions.parquet", "os.rename", r"/run/model$"),
            Writer("baselines.parquet", "os.rename", r"/predictions\.parquet$"),
            Writer("results.json"),
            Writer("learning.png", at=r"figures/\.learning\.png"),
            Writer("model.sha256"),
            Writer("verify.json"),
            Writer("report.html"),
            Writer("timing.json"),
            Writer("seal.json"),
        ],
    ),
    Chain(
        "texts, LoRA, profile",
        _lora,
        [
            *(one for one in checkpoint(4, frozen=True) if one.file == "frozen.safetensors"),
            Writer("adapter", "os.mkdir", r"\.adapter\.new-\d+$"),
            Writer("adapter", at=r"\.adapter\.new-\d+/task\.json"),
            Writer("profile.json"),
        ],
        ["--profile"],
    ),
    Chain(
        "pictures, cached",
        _cached,
        [
            Writer("audit", at=r"audit/\.", disk="cache", goes_on="image-classification"),
            Writer("decoded", at=r"decoded/.*\.bin$", disk="cache", goes_on="decoded +not used: .*No space"),
            Writer("decoded", at=r"decoded/.*/\.use", disk="cache", goes_on="decoded +not used: .*No space"),
            Writer(
                "activations", at=r"activations/.*\.bin$", disk="cache", goes_on="activations +not used: "
            ),
            Writer(
                "proof.json", at=r"\.proof\.json", disk="cache", goes_on="activations +not used: .*No space"
            ),
        ],
    ),
    Chain(
        "texts from Parquet",
        _parquet,
        [
            Writer("datasets", "os.mkdir", r"/parquet/.*incomplete", disk="datasets"),
            Writer("datasets", at=r"\.arrow", disk="datasets"),
        ],
    ),
)


# The program, forked from this process, which has imported everything and computed nothing.


def fork(arguments: Sequence[str], log: Path, before: Callable[[], None] | None = None) -> int:
    """Run `hf-ft ARGUMENTS` in a fork of this process; return its exit code.

    Args:
        arguments: of the program.
        log: the file for its output.
        before: is called in the fork before the program.
    """
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        _become(arguments, log, before)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _become(arguments: Sequence[str], log: Path, before: Callable[[], None] | None) -> NoReturn:
    code = 99
    try:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.argv = ["hf-ft", *arguments]
        from hf_ft.cli import main

        if before is not None:
            before()
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def fill(disk: Path, leave: int, *, inodes: bool) -> None:
    """Use up a file system, except for some bytes."""
    if inodes:
        with contextlib.suppress(OSError):
            for number in range(10 * INODES):
                (disk / "filler").mkdir(exist_ok=True)
                os.close(os.open(disk / "filler" / str(number), os.O_CREAT))
        return
    (disk / "filler").mkdir(exist_ok=True)
    about = os.statvfs(disk)
    size = about.f_bavail * about.f_frsize - leave
    if size > 0:
        file = os.open(disk / "filler" / "bytes", os.O_CREAT | os.O_WRONLY)
        os.posix_fallocate(file, 0, size)
        os.close(file)


class Trap:
    """Fills a disk, or raises the error of a full one, at the first event of a writer.

    Args:
        writer: names the event.
        disk: the mount point; paths elsewhere are ignored.
        leave: bytes that stay free.
        inject: whether to raise the error in place of filling the disk.
    """

    def __init__(self, writer: Writer, disk: Path, leave: int, *, inject: bool, sprung: Path):
        self.writer, self.disk, self.leave, self.inject, self.sprung = writer, disk, leave, inject, sprung
        self.done = False

    def __call__(self) -> None:
        """Begin to listen; what a run does without its caches is known before it trains."""
        if self.writer.goes_on:
            from hf_ft.train.trainer import FineTuner

            FineTuner.fit = lambda *given: sys.exit(0)  # type: ignore[method-assign]
        sys.addaudithook(self._hear)

    def _hear(self, event: str, given: tuple[Any, ...]) -> None:
        if self.done or event != self.writer.event:
            return
        path = given[1] if event == "os.rename" else given[0]
        if isinstance(path, bytes | int) or not str(path).startswith(str(self.disk)):
            return
        if event == "open" and not self._writes(given[1], given[2]):
            return
        if self.writer.pattern.search(str(path)):
            self.done = True
            self.sprung.touch()
            if self.inject:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            fill(self.disk, self.leave, inodes=self.writer.inodes)

    @staticmethod
    def _writes(mode: Any, flags: Any) -> bool:
        if isinstance(mode, str):
            return any(letter in mode for letter in "wax+")
        return bool(flags & (os.O_WRONLY | os.O_RDWR))


# The bench: disks, one chain after the other, what is checked


@dataclass
class Outcome:
    """What happened at one writer."""

    writer: Writer
    faults: list[str] = field(default_factory=list)
    reached: bool = True
    seconds: float = 0.0
    said: str = ""

    @property
    def verdict(self) -> str:
        """One word."""
        if not self.reached:
            return "NOT REACHED"
        return "FAILED" if self.faults else "went on" if self.writer.goes_on else "refused"


class Bench:
    """The disks of a chain and its reference run.

    Args:
        chain: what is run.
        base: an empty folder on a disk with space.
        inject: whether errors are injected.
    """

    def __init__(self, chain: Chain, base: Path, *, inject: bool):
        self.chain, self.base, self.inject = chain, base, inject
        self.disks = {name: base / name for name in DISKS}
        self.log, self.sprung = base / "output.txt", base / "sprung"
        given = base / "given"
        given.mkdir()
        made = {"name": "run", "train": dict(TRAIN), "evaluate": EVALUATE, **chain.make(given)}
        self.recipe = base / "recipe.yaml"
        self.recipe.write_text(json.dumps({**made, "output_dir": str(self.run)}))
        self.reference: dict[str, bytes] = {}
        self.sizes: dict[str, int] = {}

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.disks["runs"] / "run"

    def command(self, before: Callable[[], None] | None = None) -> tuple[int, str]:
        """Run the recipe; return the exit code and the output."""
        os.environ["HF_FT_CACHE"] = str(self.disks["cache"])
        code = fork(["run", str(self.recipe), *self.chain.options], self.log, before)
        return code, self.log.read_text(errors="replace")

    def measure(self) -> None:
        """Run without a fault, and keep the result and the sizes of all files."""
        seen: dict[str, int] = {}
        code, said = self.command()
        if code != 0:
            raise SystemExit(f"{self.chain.name}: the reference run failed ({code}):\n{said[-3000:]}")
        for path in self.run.rglob("*"):
            if path.is_file():
                seen[str(path.relative_to(self.run))] = -(-path.stat().st_size // PAGE) * PAGE
        self.sizes, self.reference = seen, self._result()
        self.clear()

    def _result(self) -> dict[str, bytes]:
        names = ("model/model.safetensors", "results.json")
        return {name: (self.run / name).read_bytes() for name in names}

    def clear(self) -> None:
        """Empty the disks, but the mounts stay."""
        for disk in self.disks.values():
            for path in disk.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def free(self) -> None:
        """Delete the fillers."""
        for disk in self.disks.values():
            shutil.rmtree(disk / "filler", ignore_errors=True)

    def size_of(self, name: str) -> int:
        """Return the size of a file of the reference; all checkpoints are of one size."""
        if name in self.sizes:
            return self.sizes[name]
        return next(size for path, size in self.sizes.items() if Path(path).name == Path(name).name)

    def meet(self, writer: Writer) -> Outcome:
        """Run into a full disk at one writer, and check what is left."""
        outcome, begun = Outcome(writer), time.perf_counter()
        self.sprung.unlink(missing_ok=True)
        leave = sum(map(self.size_of, writer.fits))
        before = self.newest()
        trap = Trap(writer, self.disks[writer.disk], leave, inject=self.inject, sprung=self.sprung)
        code, said = self.command(trap)
        self.free()
        outcome.seconds = time.perf_counter() - begun
        outcome.reached = self.sprung.exists()
        if outcome.reached:
            outcome.faults = [*self.judge(writer, code, said), *self.damage(before)]
            if (other := self.run.with_name("run-2")).exists():
                outcome.faults.append(f"the run went to another folder, {other}")
                shutil.rmtree(other)
        if outcome.faults:
            outcome.faults.append(f"output ends with:\n{said[-1500:]}")
        return outcome

    def newest(self) -> int:
        """Return the step of the newest complete checkpoint; 0: there is none."""
        from hf_ft.train import checkpoints

        found, _ = checkpoints.newest(self.run / "checkpoints")
        return 0 if found is None else checkpoints.step_of(found)

    def judge(self, writer: Writer, code: int, said: str) -> list[str]:
        """Check the exit code and the message."""
        faults = ["a traceback was printed"] if "Traceback" in said else []
        if writer.goes_on:
            faults += [f"the run ended with {code}, and could do without this file"] if code else []
            return faults + (
                [] if re.search(writer.goes_on, said) else ["it did not say what it does without"]
            )
        faults += [f"exit code {code}"] if code not in (1, 2) else []
        named = SAID.search(said)
        if named is None:
            return [*faults, "no sentence about the full disk"]
        if not named[1].endswith(writer.file) and writer.file not in named[1]:
            faults.append(f"named {named[1]}, expected {writer.file}")
        log = re.search(r"The traceback is in (\S+)\.$", said, re.MULTILINE)
        is_error_of_hf_ft = log is None and "This happened in" not in said
        if not is_error_of_hf_ft and (log is None or not Path(log[1]).stat().st_size):
            faults.append("the traceback is nowhere")
        return faults

    def damage(self, before: int) -> list[str]:
        """Look for damaged files and lost checkpoints."""
        from hf_ft.errors import HfFtError
        from hf_ft.train import checkpoints

        faults = []
        for path in self.run.glob("*.json"):
            try:
                json.loads(path.read_text())
            except ValueError:
                faults.append(f"{path.name} is damaged")
        found, _ = checkpoints.newest(self.run / "checkpoints")
        step = 0 if found is None else checkpoints.step_of(found)
        if step < before:
            faults.append(f"checkpoint {before} was lost")
        if found is not None:
            try:
                checkpoints.require_best(found)
            except HfFtError as error:
                faults.append(str(error))
        return faults

    def finish(self) -> list[str]:
        """Run the same command with space; return what differs from the reference."""
        code, said = self.command()
        if code != 0 or f"done: {self.run}\n" not in said:
            return [f"the last run ended with {code} and not in {self.run}:\n{said[-2000:]}"]
        found = self._result()
        return [f"{name} differs from the reference" for name in found if found[name] != self.reference[name]]


@dataclass(frozen=True)
class Obstacle:
    """A folder that cannot be used.

    Args:
        name: what is in the way.
        place: where a file lies in place of a folder, below the base; "": none.
        read_only: a disk that can only be read; "": none.
        said: pattern of the message; it also names the folder.
    """

    name: str
    said: str
    place: str = ""
    read_only: str = ""


OBSTACLES = (
    Obstacle("output_dir is a file", r"-> \S+runs/run-2\n", place="runs/run"),
    Obstacle("the folder of output_dir is a file", r"output_dir: \S+ .*runs/up", place="runs/up"),
    Obstacle("the cache is a file", r"cache/file: expected a folder .* HF_FT_CACHE", place="cache/file"),
    Obstacle("the cache of tokens is a file", r"tokens: .*a file lies where a folder", place="cache/tokens"),
    Obstacle("output_dir is read only", r"runs/run\b.*[Rr]ead-only", read_only="runs"),
    Obstacle("the cache is read only", r"cache\b.*(can only be read|written to)", read_only="cache"),
)


def meet_obstacle(bench: Bench, obstacle: Obstacle) -> list[str]:
    """Run with an obstacle; return what is wrong with the answer."""
    bench.clear()
    run, cache = bench.run, bench.disks["cache"]
    if obstacle.place:
        (bench.base / obstacle.place).write_text("precious")
        run = bench.base / "runs/up/run" if obstacle.place.endswith("up") else run
        cache = bench.base / "cache/file" if obstacle.place.endswith("file") else cache
    remount = ["mount", "-o", "remount,{}", str(bench.base / obstacle.read_only)]
    if obstacle.read_only:
        subprocess.run([part.format("ro") for part in remount], check=True)
    os.environ["HF_FT_CACHE"] = str(cache)
    code = fork(["run", str(bench.recipe), f"output_dir={run}"], bench.log)
    if obstacle.read_only:
        subprocess.run([part.format("rw") for part in remount], check=True)
    said = bench.log.read_text(errors="replace")
    faults = ["a traceback was printed"] if "Traceback" in said else []
    faults += [] if re.search(obstacle.said, said) else ["the message does not say what is in the way"]
    # A file in the place of the run folder is kept, and the run goes to a folder beside it.
    expected = (0,) if obstacle.place == "runs/run" else (1, 2)
    faults += [] if code in expected else [f"exit code {code}"]
    if obstacle.place and (bench.base / obstacle.place).read_text() != "precious":
        faults.append("the file was changed")
    return [*faults, f"output ends with:\n{said[-1500:]}"] if faults else []


def run_obstacles(*, inject: bool, keep: bool) -> tuple[int, int]:
    """Run into every obstacle; return how many there were, and how many were met well."""
    base, met = Path(tempfile.mkdtemp(prefix="hf_ft-full-")), []
    with mounted([base / name for name in DISKS], inject=inject):
        os.environ["TMPDIR"] = str(base)
        bench = Bench(Chain("folders", texts, ()), base, inject=inject)
        for obstacle in OBSTACLES:
            if obstacle.read_only and inject:
                continue
            faults = meet_obstacle(bench, obstacle)
            met.append(not faults)
            print(
                f"  {'FAILED' if faults else 'refused' if obstacle.place != 'runs/run' else 'went on':<12}"
                f"{obstacle.name}",
                flush=True,
            )
            for fault in faults:
                print("      " + fault.replace("\n", "\n      "), flush=True)
    if not keep:
        shutil.rmtree(base, ignore_errors=True)
    return len(met), sum(met)


@contextlib.contextmanager
def mounted(folders: Sequence[Path], *, inject: bool) -> Iterator[None]:
    """Mount a small tmpfs at each folder; with `inject` they are plain folders."""
    with contextlib.ExitStack() as stack:
        for folder in folders:
            folder.mkdir()
            if not inject:
                options = f"size={SIZE},nr_inodes={INODES}"
                subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
                stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=False)
        yield


def can_mount() -> bool:
    """Tell whether this process may mount a tmpfs."""
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OSError):
        tried = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], capture_output=True, check=False)
        if tried.returncode == 0:
            subprocess.run(["umount", folder], check=True)
            return True
    return False


def run_chain(chain: Chain, only: str, *, inject: bool, keep: bool) -> tuple[list[Outcome], list[str]]:
    """Run a chain; return what happened at each writer, and what differs at the end."""
    base = Path(tempfile.mkdtemp(prefix="hf_ft-full-"))
    # A link would be resolved in some messages.
    with mounted([base / name for name in DISKS], inject=inject):
        os.environ["HF_DATASETS_CACHE"] = str(base / "datasets")
        os.environ["TMPDIR"] = str(base)
        bench = Bench(chain, base, inject=inject)
        _point_datasets_at(base / "datasets")
        bench.measure()
        outcomes = []
        for writer in chain.writers:
            if only not in f"{chain.name} {writer.file}" or (inject and (writer.fits or writer.inodes)):
                continue
            if writer.goes_on:
                bench.clear()
            outcomes.append(bench.meet(writer))
            _print(outcomes[-1])
        if chain.writers[0].goes_on or any(one.writer.goes_on for one in outcomes):
            bench.clear()
        differing = bench.finish()
    if not keep:
        shutil.rmtree(base, ignore_errors=True)
    return outcomes, differing


def _point_datasets_at(folder: Path) -> None:
    """Let `datasets`, which reads its environment when it is imported, use this cache."""
    import datasets.config

    datasets.config.HF_DATASETS_CACHE = folder
    datasets.config.HF_CACHE_HOME = str(folder)


def _print(outcome: Outcome) -> None:
    writer = outcome.writer
    what = "no inode" if writer.inodes else "no byte"
    print(
        f"  {outcome.verdict:<12}{writer.disk:<9}{what:<9}{writer.file:<28}{outcome.seconds:5.1f} s",
        flush=True,
    )
    for fault in outcome.faults:
        print("      " + fault.replace("\n", "\n      "), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every chain, and print a line for each writer and the counts."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="writers whose chain or file holds TEXT")
    parser.add_argument("--inject", action="store_true", help="raise the error in place of the system")
    parser.add_argument("--keep", action="store_true", help="keep the folders")
    asked = parser.parse_args(arguments)
    inject = asked.inject or not can_mount()
    if inject and not asked.inject:
        print("no tmpfs can be mounted here: the error of a full disk is raised in place of the system")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
    import torch

    for name in PRELOADED:
        importlib.import_module(name)
    torch.set_num_threads(1)
    outcomes: list[Outcome] = []
    differing = []
    chains = [one for one in CHAINS if any(asked.only in f"{one.name} {w.file}" for w in one.writers)]
    for chain in chains:
        print(chain.name, flush=True)
        found, differs = run_chain(chain, asked.only, inject=inject, keep=asked.keep)
        outcomes += found
        differing += [f"{chain.name}: {one}" for one in differs]
        print(
            f"  {'then':<12}" + ("; ".join(differs) or "finished: weights and results byte-equal"), flush=True
        )
    tried = met = 0
    if asked.only in "folders":
        print("folders", flush=True)
        tried, met = run_obstacles(inject=inject, keep=asked.keep)
    counts = {
        word: sum(one.verdict == word for one in outcomes)
        for word in ("refused", "went on", "FAILED", "NOT REACHED")
    }
    print(
        f"{len(outcomes)} writers in {len(chains)} chains: "
        + ", ".join(f"{number} {word}" for word, number in counts.items())
    )
    ended = len(chains) - len({one.partition(":")[0] for one in differing})
    print(f"{ended} of {len(chains)} chains ended byte-equal with their reference")
    print(f"{met} of {tried} obstacles were named")
    return int(bool(differing or counts["FAILED"] or counts["NOT REACHED"] or met < tried))


if __name__ == "__main__":
    sys.exit(main())
