"""Publish a verified run on the Hub: its model and its card, in one commit, private unless told otherwise.

Whoever runs this is known to the Hub by `hf auth login` or HF_TOKEN; no token passes through hf_ft. What can
be known before training is asked before training, and nothing that fails here harms the run.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.errors import PublishError, VerifyError
from hf_ft.report.card import FILES, model_card
from hf_ft.verify import CHECKSUMS, ITEMS, check_files, checksums

if TYPE_CHECKING:
    from accelerate import PartialState
    from huggingface_hub import HfApi

    from hf_ft.recipe.schema import PublishSection

# At the top of a repository, transformers would load these of an earlier model beside or instead of ours.
OF_A_MODEL = ("*.safetensors", "*.json", "*.bin", "*.model", "*.jinja", "vocab.txt", "merges.txt")
# What only its owner can say of a model: a new card keeps it.
STATED_BY_OWNER = ("license", "license_name", "license_link", "language")
LOGIN = "run `hf auth login`, or set HF_TOKEN in the environment"


@dataclass(frozen=True)
class Repository:
    """A model repository that this login may write to.

    Args:
        name: namespace/name.
        exists: whether it is there already.
        private: whether it is, or will be, private.
        files: names of the files that are in it.
        note: what is worth saying about it.
    """

    name: str
    exists: bool
    private: bool
    files: tuple[str, ...] = field(default=())
    note: str = ""


def check_publish(section: PublishSection, processes: PartialState) -> list[str]:
    """Make sure, before training, that the result can be published; all processes succeed or fail alike.

    Args:
        section: the recipe's `publish:`.
        processes: the main process asks the Hub, and tells the others.

    Returns:
        What was found, one line; nothing where nothing is to be published.

    Raises:
        PublishError: nobody is logged in, the token may not write there, or the repository is another than
            the recipe says.
    """
    from accelerate.utils import broadcast_object_list

    if section.repo is None:
        return []
    answer: list[Any] = [None]
    if processes.is_main_process:
        try:
            answer = [find_repository(section.repo, section.private).note]
        except PublishError as error:
            advice = f"or take publish out of the recipe, and later: hf-ft push RUN --repo {section.repo}"
            answer = [PublishError(f"publish.repo: {error}; {advice}")]
    found = broadcast_object_list(answer)[0]
    if isinstance(found, PublishError):
        raise found
    return [found]


def publish(run_folder: Path, section: PublishSection) -> list[str]:
    """Publish a finished run; a failure is told, with the command that tries again, and harms nothing.

    Args:
        run_folder: the run.
        section: the recipe's `publish:`, with a repository.
    """
    repo = str(section.repo)
    try:
        return [push(run_folder, repo, section.private)]
    except PublishError as error:
        return [
            f"not published: {error}",
            f"the run itself is complete; publish it with: {retry(run_folder, repo, section.private)}",
        ]


def retry(run_folder: Path, repo: str, private: bool) -> str:
    """Give the command that publishes a run, as a shell takes it."""
    command = ["hf-ft"] if shutil.which("hf-ft") else [sys.executable, "-m", "hf_ft"]
    return shlex.join([*command, "push", str(run_folder), "--repo", repo, *([] if private else ["--public"])])


def push(run_folder: str | Path, repo: str, private: bool = True) -> str:
    """Upload the model folder and the card of a verified run, in one commit.

    Files that an earlier model left at the top of the repository, and that would be loaded in place of the
    new ones, are removed by the same commit. Pushing the same run again changes nothing.

    Args:
        run_folder: a finished run.
        repo: namespace/name, or a name in one's own namespace; made where there is none.
        private: whether to make it private.

    Returns:
        One line: the address, and who can see it.

    Raises:
        PublishError: the run is not what the gate has verified, or the Hub does not take it.
    """
    run_folder = Path(run_folder)
    uploads = {name: run_folder / "model" / name for name in verified_files(run_folder)}
    there = find_repository(repo, private)
    uploads["README.md"] = write_card(run_folder, tuple(uploads.values()), there)
    with _spoken(there.name):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api = HfApi()
        if not there.exists:
            api.create_repo(there.name, private=private, exist_ok=True)
        stale = [
            name
            for name in there.files
            if name not in uploads and "/" not in name and any(fnmatch(name, kind) for kind in OF_A_MODEL)
        ]
        commit = api.create_commit(
            there.name,
            [
                *(CommitOperationAdd(name, path) for name, path in uploads.items()),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=f"Model and card of the run {run_folder.name}",
        )
    seen_by = "private" if there.private else "public"
    removed = f"; removed of an earlier model: {', '.join(stale)}" if stale else ""
    return f"{api.endpoint}/{there.name} ({seen_by}, commit {commit.oid[:8]}){removed}"


def verified_files(run_folder: Path) -> list[str]:
    """Name the files of the model folder, if they are those that the gate has verified.

    Raises:
        PublishError: the gate has not passed this run, or the folder has changed since.
    """
    record = run_folder / "verify.json"
    if not record.is_file():
        raise PublishError(f"{run_folder}: no verify.json; expected a finished run, such as runs/my_recipe")
    passed = {item["name"]: item["passed"] for item in json.loads(record.read_text(encoding="utf-8"))}
    if failed := [name for name in dict.fromkeys([*ITEMS, *passed]) if not passed.get(name)]:
        raise PublishError(f"{record}: {', '.join(failed)} not passed; only a verified run is published")
    if not (run_folder / CHECKSUMS).is_file():
        raise PublishError(f"{run_folder}: no {CHECKSUMS}, so what was verified is not known; run it again")
    lines = (run_folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    verified = {
        name.removeprefix("model/"): digest for digest, _, name in (line.partition("  ") for line in lines)
    }
    found = checksums(run_folder / "model")
    changed = sorted(name for name in verified.keys() | found.keys() if verified.get(name) != found.get(name))
    if changed:
        raise PublishError(
            f"{run_folder / 'model'}: {', '.join(changed)} changed after the run was verified; put back "
            "what was there, or run the recipe again"
        )
    return list(found)


def write_card(run_folder: Path, model: Iterable[Path], repository: Repository) -> Path:
    """Write card/README.md into the run folder, and look for secrets and pickles in all that goes up.

    Args:
        run_folder: the run.
        model: the files of its model.
        repository: where they go.

    Raises:
        PublishError: something in it must not be published.
    """
    kept = _stated_by_owner(repository) if "README.md" in repository.files else {}
    card = run_folder / "card" / "README.md"
    model_card(run_folder, repository.name, kept).save(card)
    try:
        # What the card was written from too: in the card itself, markup may hide a secret from the eye.
        check_files([card, *(run_folder / name for name in FILES), *model], run_folder)
    except VerifyError as error:
        raise PublishError(f"{run_folder}: {error}") from error
    return card


def _stated_by_owner(repository: Repository) -> dict[str, Any]:
    with _spoken(repository.name):
        from huggingface_hub import ModelCard

        data = ModelCard.load(repository.name, ignore_metadata_errors=True).data
        return {key: data.get(key) for key in STATED_BY_OWNER if data.get(key) is not None}


def find_repository(repo: str, private: bool) -> Repository:
    """Ask the Hub who this is, what is at this name, and whether a model may be written there.

    Args:
        repo: namespace/name, or a name in one's own namespace.
        private: whether the repository is to be private.

    Raises:
        PublishError: it may not, or something else is there.
    """
    with _spoken(repo):
        from huggingface_hub import HfApi, is_offline_mode
        from huggingface_hub.errors import RepositoryNotFoundError
        from huggingface_hub.utils import validate_repo_id

        validate_repo_id(repo)
        if is_offline_mode():
            raise PublishError(f"{repo}: the Hub cannot be asked offline; unset HF_HUB_OFFLINE")
        api = HfApi()
        who = api.whoami()
        repo = repo if "/" in repo else f"{who['name']}/{repo}"
        try:
            about = api.model_info(repo)
        except RepositoryNotFoundError:
            _check_free(api, who, repo)
            kind = "private" if private else "public"
            return Repository(repo, False, private, note=f"{repo} will be made, {kind}, by {who['name']}")
        if about.id != repo:
            raise PublishError(f"{repo}: its name on the Hub is {about.id}; write that")
        api.auth_check(repo, write=True)
    if private and not about.private:
        raise PublishError(
            f"{repo} exists and is public, and private was asked for; make it private on the Hub, choose "
            "another name, or say private: false (--public)"
        )
    kept = "private" if about.private else "public"
    note = f"{repo} exists and stays {kept}; its main branch gets a commit by {who['name']}"
    files = tuple(sibling.rfilename for sibling in about.siblings or ())
    return Repository(repo, True, bool(about.private), files, note)


def _check_free(api: HfApi, who: Mapping[str, Any], repo: str) -> None:
    """Refuse a name that this login may not make a model repository of."""
    for kind in ("dataset", "space"):
        if api.repo_exists(repo, repo_type=kind):
            raise PublishError(
                f"{repo} is a {kind}, and a model needs a repository of its own; choose another name"
            )
    namespace = repo.partition("/")[0]
    groups = [
        group["name"] for group in who.get("orgs", ()) if group.get("roleInOrg") not in ("read", "no_access")
    ]
    if namespace not in (who["name"], *groups):
        writable = ", ".join([who["name"], *groups])
        raise PublishError(
            f"{repo}: {who['name']} cannot write to {namespace!r}; expected one of: {writable}"
        )
    token = who.get("auth", {}).get("accessToken", {})
    fine = token.get("fineGrained", {})
    rights = [
        scope["permissions"] for scope in fine.get("scoped", ()) if scope["entity"].get("name") == namespace
    ]
    narrow = token.get("role") == "fineGrained" and not any("repo.write" in right for right in rights)
    if token.get("role") == "read" or narrow:
        raise PublishError(
            f"{repo}: the token {token.get('displayName', '')!r} may not write to {namespace!r}; make one "
            f"that may at {api.endpoint}/settings/tokens, and {LOGIN}"
        )


@contextlib.contextmanager
def _spoken(repo: str) -> Iterator[None]:
    """Turn whatever the Hub, the network or the upload says into one line."""
    from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise PublishError(f"{repo}: nobody is logged in to the Hub; {LOGIN}") from error
    # hf_xet and the upload threads raise RuntimeError, a malformed answer ValueError.
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        raise PublishError(f"{repo}: {' '.join(str(cause).split())[:400]}") from error
