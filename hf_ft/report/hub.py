"""Publish a verified run on the Hub: its model and its card, in one commit, private by default.

huggingface_hub reads the token of `hf auth login` or HF_TOKEN; hf_ft never handles tokens. Permissions and
names are checked before training. A failure to publish does not change the run folder.
"""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_ft.causes import explain
from hf_ft.errors import PublishError, VerifyError
from hf_ft.report.card import FILES, model_card
from hf_ft.storage.atomic import write_text
from hf_ft.storage.file_hash import checksums
from hf_ft.verification.items import ITEMS, RECORD, read_record
from hf_ft.verification.unsafe_files import check_files

if TYPE_CHECKING:
    from accelerate import PartialState
    from huggingface_hub import HfApi

    from hf_ft.recipe.schema import PublishSection

# Patterns of model files at the top of a repository. Files of an earlier model that match are deleted,
# because transformers might load them instead of the new ones.
MODEL_FILES = ("*.safetensors", "*.json", "*.bin", "*.model", "*.jinja", "vocab.txt", "merges.txt")
# Metadata of the card that the owner of a model sets on the Hub; a new card copies them.
OWNER_METADATA = ("license", "license_name", "license_link", "language")
LOGIN = "run `hf auth login`, or set HF_TOKEN in the environment"


@dataclass(frozen=True)
class Repository:
    """A model repository that this login may write to.

    Args:
        name: namespace/name.
        exists: whether the repository already exists.
        private: whether it is, or will be, private.
        files: names of its files.
        note: a line for the console.
    """

    name: str
    exists: bool
    private: bool
    files: tuple[str, ...] = field(default=())
    note: str = ""


def check_publish(section: PublishSection, processes: PartialState) -> list[str]:
    """Check before training that the model can be published; all processes get the same result.

    Args:
        section: the recipe's section `publish`.
        processes: the main process asks the Hub and sends the answer to the others.

    Returns:
        One line about the repository; empty where `publish.repo` is not set.

    Raises:
        PublishError: nobody is logged in, the token may not write to the repository, or the repository is
            public although the recipe says private.
    """
    from accelerate.utils import broadcast_object_list

    if section.repo is None:
        return []
    answer: list[Any] = [None]
    if processes.is_main_process:
        try:
            answer = [find_repository(section.repo, section.private).note]
        except PublishError as error:
            advice = (
                f"or remove publish from the recipe and publish later: hf-ft push RUN --repo {section.repo}"
            )
            answer = [PublishError(f"publish.repo: {error}; {advice}")]
    found = broadcast_object_list(answer)[0]
    if isinstance(found, PublishError):
        raise found
    return [found]


def publish(run_folder: Path, section: PublishSection) -> list[str]:
    """Publish a finished run; on failure, return the reason and the command that publishes the run later.

    Args:
        run_folder: the folder of the run.
        section: the recipe's section `publish`, with a repository.

    Returns:
        Lines for the console.
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
    """Return the shell command that publishes a run."""
    command = ["hf-ft"] if shutil.which("hf-ft") else [sys.executable, "-m", "hf_ft"]
    return shlex.join([*command, "push", str(run_folder), "--repo", repo, *([] if private else ["--public"])])


def push(run_folder: str | Path, repo: str, private: bool = True) -> str:
    """Upload the model folder and the card of a verified run, in one commit.

    The same commit deletes files of an earlier model at the top of the repository that could be loaded in
    place of the new ones. A second push of the same run changes nothing.

    Args:
        run_folder: the folder of a finished run.
        repo: namespace/name, or a name in the user's own namespace; created if it does not exist.
        private: whether a new repository is private.

    Returns:
        One line: the address of the repository, its visibility and the commit.

    Raises:
        PublishError: the gate has not passed the files of the run, or the Hub refuses the upload.
    """
    run_folder = Path(run_folder)
    uploads = {name: run_folder / "model" / name for name in verified_files(run_folder)}
    there = find_repository(repo, private)
    uploads["README.md"] = write_card(run_folder, tuple(uploads.values()), there)
    with _hub_errors(there.name):
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

        api = HfApi()
        if not there.exists:
            api.create_repo(there.name, private=private, exist_ok=True)
        stale = [
            name
            for name in there.files
            if name not in uploads and "/" not in name and any(fnmatch(name, kind) for kind in MODEL_FILES)
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
    removed = f"; deleted files of an earlier model: {', '.join(stale)}" if stale else ""
    return f"{api.endpoint}/{there.name} ({seen_by}, commit {commit.oid[:8]}){removed}"


def verified_files(run_folder: Path) -> list[str]:
    """List the files of the model folder after checking that the gate has verified exactly these files.

    Raises:
        PublishError: the gate has not passed this run, or a file has changed since.
    """
    record = read_record(run_folder)
    if record is None:
        raise PublishError(
            f"{run_folder}: no verify.json, or it is damaged; expected a finished run, such as runs/my_recipe"
        )
    passed = {item.name: item.passed for item in record.items}
    if failed := [name for name in dict.fromkeys([*ITEMS, *passed]) if not passed.get(name)]:
        raise PublishError(
            f"{run_folder / RECORD}: {', '.join(failed)} not passed; only a run that passed the gate can be "
            "published"
        )
    verified = {
        name.removeprefix("model/"): digest
        for name, digest in record.files.items()
        if name.startswith("model/")
    }
    found = checksums(run_folder / "model")
    changed = sorted(name for name in verified.keys() | found.keys() if verified.get(name) != found.get(name))
    if changed:
        raise PublishError(
            f"{run_folder / 'model'}: {', '.join(changed)} changed after the run was verified; restore the "
            "verified files, or run the recipe again"
        )
    return list(found)


def write_card(run_folder: Path, model: Iterable[Path], repository: Repository) -> Path:
    """Write card/README.md into the run folder, and search all uploads for secrets and pickles.

    Args:
        run_folder: the folder of the run.
        model: the files of its model.
        repository: the repository to upload to.

    Raises:
        PublishError: a file holds a secret or a pickle.
    """
    kept = _owner_metadata(repository) if "README.md" in repository.files else {}
    card = run_folder / "card" / "README.md"
    content = model_card(run_folder, repository.name, kept).content
    try:
        write_text(card, content)
    except OSError as error:
        raise PublishError(explain(error)) from error
    try:
        # Check the sources of the card too: escaped markup in the card could hide a secret from the search.
        check_files([card, *(run_folder / name for name in FILES), *model], run_folder)
    except VerifyError as error:
        raise PublishError(f"{run_folder}: {error}") from error
    return card


def _owner_metadata(repository: Repository) -> dict[str, Any]:
    with _hub_errors(repository.name):
        from huggingface_hub import ModelCard

        data = ModelCard.load(repository.name, ignore_metadata_errors=True).data
        return {key: data.get(key) for key in OWNER_METADATA if data.get(key) is not None}


def find_repository(repo: str, private: bool) -> Repository:
    """Ask the Hub who is logged in, whether the repository exists, and whether the user may write to it.

    Args:
        repo: namespace/name, or a name in the user's own namespace.
        private: whether the repository should be private.

    Raises:
        PublishError: the user may not write to it, or it is not a model repository with this visibility.
    """
    with _hub_errors(repo):
        from huggingface_hub import HfApi, is_offline_mode
        from huggingface_hub.errors import RepositoryNotFoundError
        from huggingface_hub.utils import validate_repo_id

        validate_repo_id(repo)
        if is_offline_mode():
            raise PublishError(f"{repo}: HF_HUB_OFFLINE is set, so the Hub cannot be reached; unset it")
        api = HfApi()
        who = api.whoami()
        repo = repo if "/" in repo else f"{who['name']}/{repo}"
        try:
            about = api.model_info(repo)
        except RepositoryNotFoundError:
            _check_name_is_available(api, who, repo)
            kind = "private" if private else "public"
            return Repository(repo, False, private, note=f"{who['name']} will create the {kind} {repo}")
        if about.id != repo:
            raise PublishError(f"{repo}: the Hub spells this name {about.id}; write that")
        api.auth_check(repo, write=True)
    if private and not about.private:
        raise PublishError(
            f"{repo} exists and is public, but the recipe says private; make it private on the Hub, choose "
            "another name, or write private: false (--public)"
        )
    kind = "private" if about.private else "public"
    note = f"{repo} exists and stays {kind}; {who['name']} will push a commit to its main branch"
    files = tuple(sibling.rfilename for sibling in about.siblings or ())
    return Repository(repo, True, bool(about.private), files, note)


def _check_name_is_available(api: HfApi, who: Mapping[str, Any], repo: str) -> None:
    """Refuse a name for which this user cannot create a model repository."""
    for kind in ("dataset", "space"):
        if api.repo_exists(repo, repo_type=kind):
            raise PublishError(f"{repo} is a {kind}; a model needs its own repository, choose another name")
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
            f"{repo}: the token {token.get('displayName', '')!r} may not write to {namespace!r}; create a "
            f"token with write access at {api.endpoint}/settings/tokens, and {LOGIN}"
        )


@contextlib.contextmanager
def _hub_errors(repo: str) -> Iterator[None]:
    """Turn every error of the Hub, the network or the upload into a PublishError of one line."""
    from huggingface_hub.errors import HTTPError, LocalTokenNotFoundError

    try:
        yield
    except LocalTokenNotFoundError as error:
        raise PublishError(f"{repo}: nobody is logged in to the Hub; {LOGIN}") from error
    # hf_xet and the upload threads raise RuntimeError, a malformed answer ValueError.
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        cause = error.__cause__ if isinstance(error, RuntimeError) and error.__cause__ else error
        raise PublishError(f"{repo}: {' '.join(str(cause).split())[:400]}") from error
