"""Files from and to the Hugging Face hub, with its many refusals as one line each."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rmeeto
from rmeeto.errors import OutputError, RmeetoError, SettingsError, WeightsError
from rmeeto.hub.bundle import CONFIG, WEIGHTS
from rmeeto.models.origins import Origin

_DEFAULT = "main"
# What a disk refuses; every other OSError here is the network's.
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR)
_LOG_IN = "log in with `hf auth login` or set HF_TOKEN"


@dataclass(frozen=True)
class Hub:
    """Which hub, as whom, and where its files are kept.

    Attributes:
        endpoint: address of the hub or a mirror; None takes the environment's HF_ENDPOINT, or huggingface.co.
        token: who asks; None takes the one of `hf auth login` or HF_TOKEN.
        cache_dir: where downloaded files stay; None takes the environment's HF_HOME.
        timeout: seconds to wait for the first answer.
    """

    endpoint: str | None = None
    token: str | None = field(default=None, repr=False)
    cache_dir: Path | str | None = None
    timeout: float = 10.0

    @property
    def address(self) -> str:
        """The endpoint that is asked."""
        from huggingface_hub import constants

        return (self.endpoint or constants.ENDPOINT).rstrip("/")


class _Missing(Exception):
    """The repository is there and the file is not."""


def fetch_bundle(place: str, hub: Hub) -> Path:
    """The folder of a model on the hub, downloaded if it is not on this machine yet.

    Args:
        place: owner/name, or owner/name@revision.
        hub: where to ask.

    Raises:
        WeightsError: it cannot be had.
    """
    repo, _, revision = place.partition("@")
    config = fetch(repo, CONFIG, hub, revision=revision or _DEFAULT)
    # The commit of the first file, so that both are of one version.
    return fetch(repo, WEIGHTS, hub, revision=config.parent.name).parent


def fetch_published(origin: Origin, hub: Hub) -> Path:
    """A published weight file, downloaded if it is not on this machine yet; its ending is looked up if need be.

    Raises:
        WeightsError: it cannot be had.
    """
    try:
        return _fetch(origin.repo, origin.file, hub, _DEFAULT)
    except _Missing as error:
        names = files_of(origin.repo, hub)
        found = next((name for name in names if Path(name).name.startswith(f"{origin.file}.")), None)
        if found is None:
            raise WeightsError(str(error)) from None
        return fetch(origin.repo, found, hub)


def fetch(repo: str, file: str, hub: Hub, *, revision: str = _DEFAULT) -> Path:
    """One file of a repository, downloaded if it is not on this machine yet.

    Raises:
        WeightsError: it cannot be had.
    """
    try:
        return _fetch(repo, file, hub, revision)
    except _Missing as error:
        raise WeightsError(str(error)) from None


def files_of(repo: str, hub: Hub) -> list[str]:
    """Names of all files of a repository, in order.

    Raises:
        WeightsError: it cannot be asked.
    """
    with _told(f"the files of {repo}", repo, hub):
        return sorted(_api(hub).list_repo_files(repo))


def upload(files: Mapping[str, bytes | Path], repo: str, hub: Hub, *, message: str, private: bool) -> str:
    """Put files into a repository in one commit; the repository is made if it is not there.

    Args:
        files: name in the repository -> content, or the file that has it.
        repo: owner/name.
        hub: where to.
        message: of the commit.
        private: whether a new repository is seen by its owner alone.

    Returns:
        the repository's address.

    Raises:
        WeightsError: the hub cannot be reached or refuses.
    """
    from huggingface_hub import CommitOperationAdd

    with _told(f"upload to {repo}", repo, hub, cure=f"check the network and {_LOG_IN}, then push again"):
        api = _api(hub)
        made = api.create_repo(repo, private=private, exist_ok=True)
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=data) for name, data in files.items()]
        api.create_commit(made.repo_id, operations, commit_message=message)
        return str(made)


def _fetch(repo: str, file: str, hub: Hub, revision: str) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import LocalEntryNotFoundError

    where: dict[str, Any] = {"repo_id": repo, "filename": file, "revision": revision}
    how: dict[str, Any] = {"token": hub.token, **_library()}
    with _told(f"{file} of {repo}", repo, hub):
        try:
            # Asked first by a call that does not repeat itself: without a network the download tries for 23 seconds.
            get_hf_file_metadata(hf_hub_url(**where, endpoint=hub.endpoint), timeout=hub.timeout, **how)
        except _transport_errors() as error:
            if getattr(error, "response", None) is not None:
                raise
            try:
                return Path(hf_hub_download(**where, cache_dir=hub.cache_dir, local_files_only=True))
            except LocalEntryNotFoundError:
                raise error from None
        kept: dict[str, Any] = {"cache_dir": hub.cache_dir, "etag_timeout": hub.timeout}
        return Path(hf_hub_download(**where, **how, **kept, endpoint=hub.endpoint))


@contextmanager
def _told(what: str, repo: str, hub: Hub, cure: str | None = None) -> Iterator[None]:
    """Tell what the hub or the network refuses in one line; `cure` is for a network that is not there."""
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    try:
        yield
    except HFValidationError:
        raise SettingsError(f"{repo!r} is not a repository's name; write owner/name, or owner/name@revision") from None
    except HfHubHTTPError as error:
        line = _refusal(error, what, repo, hub)
        raise (_Missing(line) if isinstance(error, EntryNotFoundError) else WeightsError(line)) from None
    except _transport_errors() as error:
        if isinstance(error, RmeetoError):
            raise
        if getattr(error, "errno", None) in _OF_THE_DISK:
            line = f"cannot keep {what}: {_line(error)}; free some space, or name another place with HF_HOME"
            raise OutputError(line) from None
        raise WeightsError(_unreachable(error, what, hub, cure or _by_hand(repo))) from None


def _refusal(error: Any, what: str, repo: str, hub: Hub) -> str:
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return f"{what}: its owner gives access on request; ask at {hub.address}/{repo}, then {_LOG_IN}"
    if isinstance(error, RepositoryNotFoundError):
        return f"{what}: no repository {repo} at {hub.address}, or it is private; check the name, or {_LOG_IN}"
    if isinstance(error, RevisionNotFoundError):
        return f"{what}: the repository has no such revision; leave out what follows the @, or name a branch or commit"
    if isinstance(error, EntryNotFoundError):
        return f"{what}: the repository has no such file; see {hub.address}/{repo}/tree/main for those it has"
    status = error.response.status_code
    cure = f"check your rights there, or {_LOG_IN}" if status in (401, 403) else "try again later"
    return f"{what}: {hub.address} answered {status} ({_line(error)}); {cure}"


def _unreachable(error: Any, what: str, hub: Hub, cure: str) -> str:
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OfflineModeIsEnabled):
        return f"{what}: HF_HUB_OFFLINE forbids to ask {hub.address}; unset it, or {cure}"
    return f"{what}: {hub.address} cannot be reached ({_line(error)}); {cure}"


def _by_hand(repo: str) -> str:
    return (
        f"set HF_ENDPOINT to a mirror, or download it by hand from https://huggingface.co/{repo} and use "
        "`rmeeto convert`; no copy of it is on this machine"
    )


def _transport_errors() -> tuple[type[Exception], ...]:
    """What a broken network raises: the HTTP library's base error, whichever library the hub's client uses."""
    from huggingface_hub.errors import HfHubHTTPError

    return (HfHubHTTPError.__mro__[1], OSError)


def _api(hub: Hub) -> Any:
    from huggingface_hub import HfApi

    return HfApi(endpoint=hub.endpoint, token=hub.token, **_library())


def _library() -> dict[str, str]:
    return {"library_name": "rmeeto", "library_version": rmeeto.__version__}


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
