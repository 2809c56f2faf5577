from __future__ import annotations

import pytest

from pmilter.cli.scenes import SCENES, Scene


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.title)
def test_message_is_whole_and_needs_no_mending(scene: Scene) -> None:
    header, _, body = scene.message.partition(b"\n\n")

    assert body.endswith(b"\n")
    assert b"\r" not in scene.message
    for name in (b"From", b"To", b"Subject", b"Date", b"Message-ID"):
        # An MTA adds what is missing, and the diff would show that instead of the filter's work.
        assert header.count(b"\n" + name + b": ") + header.startswith(name + b": ") == 1


def test_titles_differ() -> None:
    assert len({scene.title for scene in SCENES}) == len(SCENES) == 4
