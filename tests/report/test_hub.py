"""Publishing, over HTTP, with the real huggingface_hub client against tests/hub_server.py."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import tiny
from hub_server import ROOT, Client, ClientError, Hub, Repository
from PIL import Image
from safetensors.torch import load_file, save_file

from hf_ft.errors import PublishError
from hf_ft.report.hub import verified_files
from hf_ft.verification.items import Judgement, judged_files, read_record, write_record
from hf_ft.verification.unsafe_files import check_contents

COLOURS = {"red": (200, 30, 20), "green": (20, 180, 40), "blue": (30, 40, 190)}
PUSH = "from hf_ft.report import hub; hub.push(folder, repo, private)"
ASK = "from hf_ft.report import hub; hub.find_repository(repo, private).note"


@pytest.fixture(scope="module")
def server():
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def client(server, home):
    process = Client(server, home)
    yield process
    process.close()


def write_recipe(folder, **sections):
    """Pictures of three colours, and a recipe that starts from a model of the server."""
    for name, colour in COLOURS.items():
        (folder / "colours" / name).mkdir(parents=True, exist_ok=True)
        for index in range(8):
            shade = tuple(min(255, part + 3 * index) for part in colour)
            Image.new("RGB", (40, 40), shade).save(folder / "colours" / name / f"{index}.png")
    content = {
        "task": "image-classification",
        "output_dir": str(folder / "run"),
        "data": {"source": str(folder / "colours"), "split": {"validation": 6, "test": 6}},
        "model": {"name": "me/base"},
        "train": {
            "num_train_epochs": 2,
            "learning_rate": 0.003,
            "global_batch_size": 6,
            "disable_tqdm": True,
        },
        "evaluate": {"resamples": 100},
        **sections,
    }
    (folder / "colours.yaml").write_text(json.dumps(content))
    return folder / "colours.yaml"


@pytest.fixture(scope="module")
def base(server, tmp_path_factory):
    """A model on the server, as its own save_pretrained wrote it."""
    folder = tmp_path_factory.mktemp("base")
    tiny.saved(tiny.vit(), folder, tiny.image_processor())
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    server.repositories["models", "me/base"] = Repository(commits=[("initial commit", files)])


@pytest.fixture(scope="module")
def finished(server, home, base, tmp_path_factory):
    """Run a recipe while the server dies during the upload; return the command that the run prints."""
    folder = tmp_path_factory.mktemp("published")
    command = [sys.executable, "-m", "hf_ft.run", str(write_recipe(folder)), "publish.repo=me/colours"]
    with server.broken(r"POST /api/models/me/colours/commit/"):
        done = subprocess.run(
            command, env=server.environment(home), cwd=folder, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr[-3000:]
    lost = len(server.model("me/colours").commits)
    retry = re.search(r"publish it with: (.*)", done.stdout)[1]
    again = subprocess.run(
        shlex.split(retry),
        env=server.environment(home),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    return SimpleNamespace(folder=folder / "run", told=done.stdout, lost=lost, retry=retry, again=again)


@pytest.fixture
def copy(finished, tmp_path):
    """The run, for tests that change it."""
    return shutil.copytree(finished.folder, tmp_path / "run")


def test_a_server_that_dies_fails_no_run_and_the_printed_command_publishes_it(finished, server):
    assert finished.lost == 1  # the initial commit of an empty repository
    assert "not published: me/colours: Server disconnected" in finished.told
    assert finished.told.splitlines()[-1].strip() == f"done: {finished.folder}"
    assert read_record(finished.folder).passed
    assert finished.retry.endswith(f"push {finished.folder} --repo me/colours")
    assert finished.again.returncode == 0, finished.again.stderr[-3000:]
    assert finished.again.stdout.startswith(f"{server.url}/me/colours (private, commit ")


def test_the_repository_is_checked_before_training_and_created_private(finished, server):
    told = finished.told
    assert told.index("me will create the private me/colours") < told.index("\ntrain\n")
    assert told.index("\nreport\n") < told.index("\npublish\n")
    made = [asked for asked in server.created if asked["name"] == "colours"]
    assert [(asked["organization"], asked["visibility"]) for asked in made] == [("me", "private")]
    assert server.model("me/colours").private


def test_only_model_and_card_are_uploaded_in_one_commit(finished, server):
    repository = server.model("me/colours")
    assert [message for message, _ in repository.commits] == [
        "initial commit",
        "Model and card of the run run",
    ]
    model = {path.name: path.read_bytes() for path in (finished.folder / "model").iterdir()}
    card = (finished.folder / "card" / "README.md").read_bytes()
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "task.json"} == set(model)
    assert repository.files == {**model, "README.md": card, ".gitattributes": b"*.safetensors lfs"}


def test_the_card_knows_what_the_model_started_from(finished, server):
    from huggingface_hub import ModelCard

    source = json.loads((finished.folder / "model" / "task.json").read_text())["source"]
    assert source["commit"] == server.model("me/base").sha()
    card = ModelCard(server.model("me/colours").files["README.md"].decode())
    assert card.data.base_model == "me/base" and card.data.pipeline_tag == "image-classification"
    assert "https://huggingface.co/me/base" in card.text
    assert str(finished.folder.parent) not in card.content and "source: colours" in card.text


def test_the_pushed_model_answers_like_the_folder(finished, client, tmp_path):
    """The client's cache is empty: from_pretrained, pipeline and Predictor fetch from the server."""
    Image.new("RGB", (50, 50), (210, 40, 30)).save(tmp_path / "picture.png")
    same = client(
        """
from transformers import AutoModelForImageClassification, pipeline
from hf_ft import Predictor
import torch
pixels = torch.rand(2, 3, 32, 32)
logits = [AutoModelForImageClassification.from_pretrained(name)(pixels).logits for name in (local, remote)]
piped = [pipeline("image-classification", model=name)(picture) for name in (local, remote)]
answers = [Predictor.load(name)(picture) for name in (local, remote)]
top = piped[1][0]
[bool(torch.equal(*logits)), piped[0] == piped[1], answers[0] == answers[1],
 top["label"] == answers[1][0]["label"], abs(top["score"] - answers[1][0]["score"]) < 1e-5]
""",
        local=str(finished.folder / "model"),
        remote="me/colours",
        picture=str(tmp_path / "picture.png"),
    )
    assert same == [True] * 5


def test_the_code_of_the_card_runs_unchanged(finished, server, client, tmp_path):
    Image.new("RGB", (50, 50), (210, 40, 30)).save(tmp_path / "picture.png")
    card = server.model("me/colours").files["README.md"].decode()
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert [len(block.splitlines()) for block in blocks] == [3, 3] and "me/colours" in blocks[0]
    for block in blocks:
        printed = client(
            "import contextlib, io, os; os.chdir(folder); out = io.StringIO()\n"
            "with contextlib.redirect_stdout(out): exec(block, {})\n"
            "out.getvalue()",
            folder=str(tmp_path),
            block=block,
        )
        assert "'label':" in printed and "'score':" in printed


def test_pushing_again_changes_nothing(finished, server, client):
    before = list(server.model("me/colours").commits)
    address = client(PUSH, folder=str(finished.folder), repo="colours", private=True)
    assert address.startswith(f"{server.url}/me/colours (private")
    assert server.model("me/colours").commits == before


def test_a_lora_run_publishes_the_merged_model(server, client, base, tmp_path):
    """The adapter beside it is pinned to the commit of its base (transformers 5 has no `_commit_hash`)."""
    answers = client(
        "from hf_ft import Predictor, finetune, load_recipe\n"
        "run = finetune(load_recipe(path, ['publish.repo=me/adapted', 'freeze={strategy: lora, r: 2}']))\n"
        "[Predictor.load(name)(picture)[0]['score'] for name in (f'{run.folder}/adapter', 'me/adapted')]",
        path=str(write_recipe(tmp_path)),
        picture=str(tmp_path / "colours" / "red" / "0.png"),
    )
    assert answers[0] == pytest.approx(answers[1], abs=1e-5)
    repository = server.model("me/adapted")
    assert len(repository.commits) == 2 and repository.private
    assert "adapter_config.json" not in repository.files
    assert b"The lora adapter is merged into these weights" in repository.files["README.md"]
    adapter = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert adapter["revision"] == server.model("me/base").sha()


def test_old_model_files_are_deleted_and_metadata_of_the_owner_are_copied(finished, server, client):
    """A shard or an adapter of an earlier model would be loaded beside or in place of the new weights."""
    card = b"---\nlicense: mit\nlanguage: [en]\npipeline_tag: translation\n---\nOld.\n"
    left = {"model.safetensors.index.json": b"{}", "adapter_config.json": b"{}", "pytorch_model.bin": b"old"}
    kept = {"LICENSE": b"MIT", "figures/curve.json": b"{}"}
    files = {**left, **kept, "README.md": card, "config.json": b"{}"}
    server.repositories["models", "lab/colours"] = Repository(private=True, commits=[("before", files)])
    told = client(PUSH, folder=str(finished.folder), repo="lab/colours", private=True)
    assert told.endswith("deleted files of an earlier model: " + ", ".join(sorted(left)))
    repository = server.model("lab/colours")
    assert len(repository.commits) == 2 and set(kept) < set(repository.files)
    assert not set(left) & set(repository.files)
    header = repository.files["README.md"].decode().split("---")[1]
    assert "license: mit" in header and "- en" in header and "pipeline_tag: image-classification" in header


def test_public_only_where_it_is_asked_for(finished, server, client):
    told = client(PUSH, folder=str(finished.folder), repo="me/open", private=False)
    assert "(public, " in told and not server.model("me/open").private
    assert server.created[-1]["visibility"] == "public"
    with pytest.raises(ClientError, match=r"me/open exists and is public, but the recipe says private"):
        client(PUSH, folder=str(finished.folder), repo="me/open", private=True)
    server.repositories["models", "me/closed"] = Repository(private=True)
    told = client(ASK, repo="me/closed", private=False)
    assert told == "me/closed exists and stays private; me will push a commit to its main branch"


@pytest.mark.parametrize(
    ("token", "repo", "message"),
    [
        (None, "me/new", "PublishError: me/new: nobody is logged in to the Hub; run `hf auth login`"),
        ("hf_wrong", "me/new", "Invalid user token. The token from HF_TOKEN environment variable is invalid"),
        (
            "hf_reads",
            "me/new",
            "the token 'my read token' may not write to 'me'; create a token with write access at http",
        ),
        ("hf_reads", "me/there", "403 Forbidden: Forbidden: you must have write access"),
        ("hf_narrow_reads", "me/new", "the token 'my fineGrained token' may not write to 'me'"),
        ("hf_elsewhere", "me/new", "the token 'my fineGrained token' may not write to 'me'"),
        ("hf_writes", "you/new", "me cannot write to 'you'; expected one of: me, lab"),
        ("hf_writes", "library/new", "me cannot write to 'library'; expected one of: me, lab"),
        ("hf_writes", "me/rows", "me/rows is a dataset; a model needs its own repository"),
        ("hf_writes", "me/page", "me/page is a space; a model needs its own repository"),
        ("hf_writes", "me/before", "me/before: the Hub spells this name me/there; write that"),
        ("hf_writes", "me/a/b", "Repo id must be in the form 'repo_name' or 'namespace/repo_name'"),
    ],
)
def test_a_repository_that_cannot_be_written_is_an_error_before_training(
    server, client, token, repo, message
):
    server.repositories |= {
        ("models", "me/there"): Repository(private=True),
        ("datasets", "me/rows"): Repository(),
        ("spaces", "me/page"): Repository(),
    }
    server.renamed["me/before"] = "me/there"
    made = len(server.created)
    with pytest.raises(ClientError) as caught:
        client(ASK, token, repo=repo, private=True)
    assert message in str(caught.value)
    assert len(server.created) == made


@pytest.mark.parametrize("token", ["hf_writes", "hf_narrow"])
def test_users_with_write_access_pass_the_check(server, client, token):
    server.repositories["models", "me/there"] = Repository(private=True)
    assert client(ASK, token, repo="new", private=True) == "me will create the private me/new"
    assert client(ASK, token, repo="me/there", private=True).startswith("me/there exists and stays private")


@pytest.mark.parametrize(
    ("token", "offline", "message"),
    [
        ("hf_reads", False, "publish.repo: me/new: the token 'my read token' may not write to 'me'"),
        ("hf_writes", True, "publish.repo: me/new: HF_HUB_OFFLINE is set"),
    ],
)
def test_a_run_that_cannot_be_published_does_not_begin(client, tmp_path, token, offline, message):
    with pytest.raises(ClientError) as caught:
        client(
            "import huggingface_hub.constants as constants\n"
            "from hf_ft import check, finetune, load_recipe\n"
            "constants.HF_HUB_OFFLINE = offline\n"
            "try: finetune(load_recipe(path, ['publish.repo=me/new']), verbose=False)\n"
            "finally: constants.HF_HUB_OFFLINE = False",
            token,
            path=str(write_recipe(tmp_path)),
            offline=offline,
        )
    assert message in str(caught.value)
    assert str(caught.value).endswith(
        "or remove publish from the recipe and publish later: hf-ft push RUN --repo me/new"
    )
    assert not (tmp_path / "run").exists()


def test_a_check_asks_the_hub_too(client, base, tmp_path):
    found = client(
        "from hf_ft import check, load_recipe\ncheck(load_recipe(path, ['publish.repo=me/new'])).notes",
        path=str(write_recipe(tmp_path)),
    )
    assert "me will create the private me/new" in found


def test_an_upload_error_is_one_line(finished, server, client):
    with server.broken(r"PUT /storage/", status=403):
        server.verified.clear()
        code = "from hf_ft.recipe.schema import PublishSection as P\nfrom pathlib import Path\n"
        told = client(
            code + "hub.publish(Path(folder), P(repo='me/stored', private=False))",
            folder=str(finished.folder),
        )
    assert len(told) == 2 and told[0].startswith("not published: me/stored: 403 Forbidden")
    assert told[1].endswith(f"push {finished.folder} --repo me/stored --public") and "\n" not in told[0]


def test_only_a_verified_run_is_published(copy):
    assert verified_files(copy) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "task.json",
    ]
    record = json.loads((copy / "verify.json").read_text())
    items = record["items"]
    failed = [{**item, "passed": item["name"] != "reload"} for item in items]
    for kept, message in [
        (failed, "verify.json: reload not passed"),
        (items[:5], "frozen, loss, contents, provenance, pipeline not passed"),
        ([], "source, labels, .* not passed"),
    ]:
        (copy / "verify.json").write_text(json.dumps({**record, "items": kept}))
        with pytest.raises(PublishError, match=message):
            verified_files(copy)
    (copy / "verify.json").unlink()
    with pytest.raises(PublishError, match=r"no verify\.json, or it is damaged; expected a finished run"):
        verified_files(copy)


def test_a_model_that_changed_after_the_gate_is_not_published(copy):
    path = copy / "model" / "model.safetensors"
    tensors = load_file(path)
    name = next(iter(tensors))
    save_file({**tensors, name: tensors[name] + 1e-6}, path, metadata={"format": "pt"})
    with pytest.raises(PublishError, match=r"model\.safetensors changed after the run was verified"):
        verified_files(copy)


@pytest.mark.parametrize("change", ["added", "removed"])
def test_an_added_or_missing_file_is_not_published(copy, change):
    if change == "added":
        (copy / "model" / "notes.txt").write_text("mine")
    else:
        (copy / "model" / "task.json").unlink()
    with pytest.raises(PublishError, match=r"(notes\.txt|task\.json) changed after the run was verified"):
        verified_files(copy)


def test_the_checksums_are_those_that_sha256sum_checks(finished):
    if shutil.which("sha256sum") is None:
        pytest.skip("needs sha256sum of the coreutils")
    done = subprocess.run(
        ["sha256sum", "--check", "model.sha256"],
        cwd=finished.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and done.stdout.count(": OK") == 4


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [("weights.pt", b"\x80\x04old", "is a pickle"), ("notes.txt", b"hf_" + b"a" * 34, "holds a secret")],
)
def test_pickles_and_secrets_are_not_uploaded(copy, server, client, name, content, message):
    """The checksums are rewritten, so only the check of the contents can find the change."""
    (copy / "model" / name).write_bytes(content)
    write_record(copy, Judgement(read_record(copy).items, judged_files(copy)))
    with pytest.raises(ClientError, match=message):
        client(PUSH, folder=str(copy), repo="me/unsafe", private=True)
    assert ("models", "me/unsafe") not in server.repositories


def test_a_card_with_a_secret_is_not_uploaded(copy, server, client):
    data = json.loads((copy / "data.json").read_text())
    data["splits"]["train"]["origin"] = "hf_" + "a" * 34
    (copy / "data.json").write_text(json.dumps(data))
    with pytest.raises(ClientError, match=r"README\.md holds a secret"):
        client(PUSH, folder=str(copy), repo="me/unsafe", private=True)
    assert ("models", "me/unsafe") not in server.repositories


def test_the_published_folder_holds_what_check_contents_allows(finished):
    assert check_contents(finished.folder).endswith("no pickle, no code, no secret")


def launch_two(server, home, folder, token):
    launcher = ["-m", "accelerate.commands.launch", "--config_file", "accelerate_configs/cpu_2proc.yaml"]
    command = [
        sys.executable,
        *launcher,
        "-m",
        "hf_ft.run",
        str(write_recipe(folder)),
        "publish.repo=lab/two",
    ]
    environment = server.environment(home, token)
    return subprocess.run(
        command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False, timeout=280
    )


@pytest.mark.slow
def test_the_same_command_publishes_a_run_that_was_killed_during_its_upload(server, home, base, tmp_path):
    """The run counted as finished before its upload: the same command trained once more, beside it."""
    command = [sys.executable, "-m", "hf_ft.run", str(write_recipe(tmp_path)), "publish.repo=me/killed"]
    process = {"env": server.environment(home), "cwd": tmp_path}
    with server.held(r"POST /api/models/me/killed/commit/") as arrived:
        killed = subprocess.Popen(command, **process)
        assert arrived.wait(240)
        killed.kill()
        killed.wait()
    before = (tmp_path / "run" / "results.json").read_bytes()
    assert (tmp_path / "run" / "report.html").exists() and len(server.model("me/killed").commits) == 1
    again = subprocess.run(command, capture_output=True, text=True, check=False, **process)
    assert again.returncode == 0, again.stderr[-3000:]
    assert (tmp_path / "run" / "seal.json").exists() and not (tmp_path / "run-2").exists()
    assert (tmp_path / "run" / "results.json").read_bytes() == before
    _, files = server.model("me/killed").commits[1]
    for path in (tmp_path / "run" / "model").iterdir():
        assert files[path.name] == path.read_bytes(), path.name


@pytest.mark.slow
@pytest.mark.multi_process
def test_two_processes_stop_alike_where_the_token_may_not_write(server, home, base, tmp_path):
    asked = server.requests.count("GET /api/whoami-v2")
    done = launch_two(server, home, tmp_path, "hf_reads")
    assert done.returncode != 0 and not (tmp_path / "run").exists()
    assert done.stderr.count("may not write to 'lab'") == 2
    assert server.requests.count("GET /api/whoami-v2") == asked + 1


@pytest.mark.slow
@pytest.mark.multi_process
def test_only_one_of_two_processes_publishes(server, home, base, tmp_path):
    done = launch_two(server, home, tmp_path, "hf_writes")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "over 2 process(es)" in (tmp_path / "run" / "verify.json").read_text()
    assert len(server.model("lab/two").commits) == 2
    assert sum(asked["name"] == "two" for asked in server.created) == 1
