"""Upload and download of run folders: the Hugging Face hub, or a server with the same interface.

A run is data: settings and safetensors files. A repository that contains anything else is refused before any file is
downloaded, so that no code can be downloaded with a run.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from mxsplicer.errors import InputError
from mxsplicer.splicer.run import RUN_FILES, Run, load_run
from mxsplicer.system.files import atomic_write, check_free

_NEEDED = ("config.json", "model.safetensors")
_OF_GIT = (".gitattributes",)  # every repository of the hub has one; it is not fetched


class Hub(Protocol):
    """The methods of ``huggingface_hub.HfApi`` that are used."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any:
        """Create a repository."""

    def upload_folder(
        self, *, repo_id: str, folder_path: Path, allow_patterns: list[str], commit_message: str
    ) -> object:
        """Upload the files of a folder in one commit."""

    def list_repo_files(self, repo_id: str, *, revision: str | None) -> list[str]:
        """Return the paths of a repository."""

    def hf_hub_download(self, repo_id: str, filename: str, *, revision: str | None, local_dir: Path) -> object:
        """Download one file into a folder."""


def push(path: str | Path, repository: str, *, public: bool = False, encoder: str = "", hub: Hub | None = None) -> str:
    """Upload a run folder to a repository of the hub, ``user/name``, which is created if needed.

    Parameters
    ----------
    path
        Run folder, or a result that contains one. Its model card and settings name the slides it was trained on.
    public
        Whether a new repository is visible to everyone; an existing one stays as it is.
    encoder
        As for :func:`mxsplicer.load_run`.
    hub
        ``huggingface_hub.HfApi()`` by default, which logs in by ``hf auth login`` or ``HF_TOKEN``.

    Returns
    -------
    The name of the repository.
    """
    run = load_run(path, encoder=encoder)  # nobody should fetch what cannot be opened
    assert run.path is not None
    hub = hub or _hub()
    with _explained(repository):
        hub.create_repo(repository, private=not public, exist_ok=True)
        hub.upload_folder(
            repo_id=repository,
            folder_path=run.path,
            allow_patterns=list(RUN_FILES),
            commit_message=f"mxsplicer run: {run.method}, {len(run.markers)} markers",
        )
    return repository


def pull(
    repository: str,
    path: str | Path,
    *,
    revision: str | None = None,
    overwrite: bool = False,
    encoder: str = "",
    hub: Hub | None = None,
) -> Run:
    """Download a run from a repository of the hub into the folder ``path``, and open it.

    Parameters
    ----------
    revision
        Branch, tag or commit; the newest by default.
    encoder
        As for :func:`mxsplicer.load_run`.
    hub
        As for :func:`push`.

    Raises
    ------
    InputError
        If the repository contains files that do not belong to a run, or a run that cannot be opened; no file is left.
    """
    path = Path(path)
    check_free(path, overwrite=overwrite)
    hub = hub or _hub()
    with _explained(repository):
        files = sorted(set(hub.list_repo_files(repository, revision=revision)) - set(_OF_GIT))
    _check_files(repository, files)
    with atomic_write(path) as temporary:
        with _explained(repository):
            for file in files:
                hub.hf_hub_download(repository, file, revision=revision, local_dir=temporary / "fetched")
        for file in files:
            (temporary / "fetched" / file).replace(temporary / file)
        shutil.rmtree(temporary / "fetched")  # with the notes that the client leaves next to the files
        load_run(temporary, encoder=encoder)
    return load_run(path, encoder=encoder)


def _check_files(repository: str, files: list[str]) -> None:
    strange = [file for file in files if file not in RUN_FILES]
    missing = [file for file in _NEEDED if file not in files]
    if missing:
        msg = f"repository {repository!r} is not a run of mxsplicer: it lacks {' and '.join(missing)}."
        raise InputError(msg)
    if strange:
        msg = (
            f"repository {repository!r} contains files that do not belong to a run: {', '.join(strange[:5])}"
            f"{', ...' if len(strange) > 5 else ''}. Nothing was downloaded."
        )
        raise InputError(msg)


def _hub() -> Hub:
    try:
        from huggingface_hub import HfApi
    except ImportError as error:
        msg = "push and pull need the package huggingface_hub."
        raise InputError(msg, "Install it: pip install 'mxsplicer[hub]'.") from error
    return HfApi(library_name="mxsplicer")


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # the client raises what its HTTP library raises, whichever that is
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        msg = f"the hub refused repository {repository!r} ({type(error).__name__}: {reason})."
        remedy = "Names are USER/NAME; a private repository needs `hf auth login` or HF_TOKEN."
        raise InputError(msg, remedy) from error
