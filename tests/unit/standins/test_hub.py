"""The loopback hub, asked by the real `huggingface_hub`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.standins.hub import Fault, FaultKind, LoopbackHub
from tests.standins.real_tasks import build_real_task_repos, mmlu_subjects

REPO = "acme/model"
CONTENT = bytes(range(256)) * 40


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    root = tmp_path / "hub"
    for folder, text in ((REPO, "main"), (f"{REPO}@v1", "v1")):
        repo = root / "models" / folder
        (repo / "sub").mkdir(parents=True)
        (repo / "config.json").write_text(f'{{"revision": "{text}"}}')
        (repo / "sub" / "weights.bin").write_bytes(CONTENT)
    with LoopbackHub(root) as running:
        yield running


@pytest.fixture
def api(hub: LoopbackHub) -> HfApi:
    return HfApi(endpoint=hub.url, token=False)


def test_info_and_tree_list_the_files(api: HfApi) -> None:
    info = api.model_info(REPO)
    assert info.id == REPO
    assert sorted(s.rfilename for s in info.siblings or []) == ["config.json", "sub/weights.bin"]
    tree = {entry.path for entry in api.list_repo_tree(REPO, recursive=True)}
    assert tree == {"config.json", "sub", "sub/weights.bin"}
    (entry,) = api.get_paths_info(REPO, ["sub/weights.bin", "absent"])
    assert getattr(entry, "size", None) == len(CONTENT)
    assert api.list_repo_refs(REPO).branches[0].target_commit == info.sha


def test_a_snapshot_is_the_repository(api: HfApi, tmp_path: Path) -> None:
    folder = Path(api.snapshot_download(REPO, cache_dir=tmp_path / "cache"))
    assert (folder / "sub" / "weights.bin").read_bytes() == CONTENT
    assert folder.name == api.model_info(REPO).sha


def test_revisions_are_kept_apart(api: HfApi, tmp_path: Path) -> None:
    pinned = api.model_info(REPO, revision="v1").sha
    assert pinned != api.model_info(REPO).sha
    for revision in ("v1", pinned):
        path = api.hf_hub_download(REPO, "config.json", revision=revision, cache_dir=tmp_path)
        assert "v1" in Path(path).read_text()


def test_a_range_is_answered_with_a_part(hub: LoopbackHub) -> None:
    url = f"{hub.url}/{REPO}/resolve/main/sub/weights.bin"
    part = httpx.get(url, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, CONTENT[10:20])
    assert part.headers["Content-Range"] == f"bytes 10-19/{len(CONTENT)}"
    head = httpx.head(url)
    assert head.headers["Content-Length"] == str(len(CONTENT))
    assert head.headers["ETag"] == part.headers["ETag"]
    assert "X-Repo-Commit" in head.headers


def test_files_outside_the_repository_are_not_served(hub: LoopbackHub) -> None:
    (hub.root / "secret").write_text("secret")
    url = f"{hub.url}/{REPO}/resolve/main/..%2F..%2F..%2Fsecret"
    assert httpx.get(url).status_code == 404


@pytest.mark.parametrize(
    ("repo", "file", "revision", "error"),
    [
        ("acme/none", "config.json", None, RepositoryNotFoundError),
        (REPO, "absent.json", None, RemoteEntryNotFoundError),
        (REPO, "config.json", "v9", RevisionNotFoundError),
    ],
)
def test_what_is_not_there(
    api: HfApi, tmp_path: Path, repo: str, file: str, revision: str | None, error: type[Exception]
) -> None:
    with pytest.raises(error):
        api.hf_hub_download(repo, file, revision=revision, cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (FaultKind.GATED, GatedRepoError),
        (FaultKind.MISSING, RepositoryNotFoundError),
    ],
)
def test_a_refused_repository(
    hub: LoopbackHub, api: HfApi, tmp_path: Path, kind: FaultKind, error: type[Exception]
) -> None:
    hub.fail(REPO, Fault(kind))
    with pytest.raises(error):
        api.hf_hub_download(REPO, "config.json", cache_dir=tmp_path)
    hub.heal(REPO)
    assert Path(api.hf_hub_download(REPO, "config.json", cache_dir=tmp_path)).exists()


@pytest.mark.parametrize(("token", "status"), [(None, 401), ("hf_stranger", 403), ("hf_loopback", 200)])
def test_a_gate_opens_for_its_token(hub: LoopbackHub, token: str | None, status: int) -> None:
    hub.fail(REPO, Fault(FaultKind.GATED))
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    assert httpx.get(f"{hub.url}/{REPO}/resolve/main/config.json", headers=headers).status_code == status
    assert HfApi(endpoint=hub.url, token=False).model_info(REPO).gated == "auto"


def test_a_broken_hub_answers_500_as_often_as_told(hub: LoopbackHub, api: HfApi) -> None:
    hub.fail(REPO, Fault(FaultKind.ERROR, times=1))
    with pytest.raises(HfHubHTTPError) as caught:
        api.model_info(REPO)
    assert caught.value.response.status_code == 500
    assert api.model_info(REPO).id == REPO


def _get(hub: LoopbackHub, **options: Any) -> httpx.Response:
    return httpx.get(f"{hub.url}/{REPO}/resolve/main/sub/weights.bin", **options)


def test_bytes_that_are_missing(hub: LoopbackHub) -> None:
    hub.fail(REPO, Fault(FaultKind.TRUNCATED, path="sub/*", times=1))
    hub.fail(REPO, Fault(FaultKind.CUT, path="sub/*", times=1))
    assert _get(hub).content == CONTENT[: len(CONTENT) // 2]
    with pytest.raises(httpx.RemoteProtocolError):
        _get(hub)
    assert _get(hub).content == CONTENT
    assert hub.requests == [f"GET /{REPO}/resolve/main/sub/weights.bin"] * 3


def test_a_silent_hub(hub: LoopbackHub) -> None:
    hub.fail(REPO, Fault(FaultKind.STALL))
    with pytest.raises(httpx.ReadTimeout):
        _get(hub, timeout=0.3)


def test_the_real_tasks_have_their_data_sets(tmp_path: Path) -> None:
    pytest.importorskip("lm_eval")
    import pyarrow.parquet as pq

    build_real_task_repos(tmp_path, mmlu_items=1, gsm8k_items=1, hellaswag_items=1)
    subjects = mmlu_subjects()
    assert len(set(subjects)) == 57
    mmlu = tmp_path / "datasets" / "cais" / "mmlu"
    assert {path.name for path in mmlu.iterdir() if path.is_dir()} == set(subjects)
    dev = pq.read_table(mmlu / subjects[0] / "dev-00000-of-00001.parquet").to_pylist()
    assert len(dev) == 5
    assert all(len(row["choices"]) == 4 and 0 <= row["answer"] < 4 for row in dev)
