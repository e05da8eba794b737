"""Paths as a user types them."""

import pwd
from pathlib import Path

import pytest

from ccsi.errors import UserError
from ccsi.io.paths import absolute, expand, home
from ccsi.tracking.weights_and_biases import has_key, portable


@pytest.fixture
def unknown_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's user: an id without an entry in /etc/passwd, and no HOME."""

    def nobody(*_: object) -> None:
        raise KeyError("uid not found")

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    monkeypatch.setattr(pwd, "getpwnam", nobody)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.chdir(tmp_path)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    monkeypatch.chdir(tmp_path)
    assert expand("~/a b", "k") == tmp_path / "me" / "a b" and expand("~", "k") == home() == tmp_path / "me"
    assert (expand("a/~b", "k"), absolute("a", "k")) == (Path("a/~b"), tmp_path / "a")
    assert expand("~root/x", "k") == Path(pwd.getpwnam("root").pw_dir) / "x"
    with pytest.raises(
        UserError, match=r"^k=~no-such-user/x: there is no user no-such-user here; expected a full path"
    ):
        expand("~no-such-user/x", "k")
    Path("~draft").touch()
    assert expand("~draft", "k") == Path("~draft")
    for empty in ("", "a\0b"):
        with pytest.raises(UserError, match=r"^k='.*': expected a path"):
            expand(empty, "k")


@pytest.mark.usefixtures("unknown_user")
def test_a_home_that_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    assert home() is None and expand("a", "k") == Path("a")
    with pytest.raises(
        UserError, match=r"^k=~/a: the home folder is unknown here \(HOME is not set\); expected a full"
    ):
        expand("~/a", "k")
    assert not has_key()
    assert portable({"run_dir": "/tmp/x", "n": 1}) == {"run_dir": "/tmp/x", "n": 1}


@pytest.mark.parametrize(
    ("folder", "shown"),
    [
        ("/", {"a": "/tmp/x", "b": "/", "c": "~/y"}),
        ("", {"a": "/tmp/x", "b": "/", "c": "~/y"}),
        ("tmp", {"a": "/tmp/x", "b": "/", "c": "~/y"}),
        ("/tmp", {"a": "~/x", "b": "/", "c": "~/y"}),
        ("/tmp/", {"a": "~/x", "b": "/", "c": "~/y"}),
    ],
)
def test_an_odd_home_does_not_spoil_what_wandb_is_told(
    folder: str, shown: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", folder)
    always = {"d": "/var/tmp/x", "e": "/tmpfs/x", "f": "tmp", "g": "/tmp-2"}
    assert portable({"a": "/tmp/x", "b": "/", "c": "~/y"} | always) == shown | always
