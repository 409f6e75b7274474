"""Windows meet without a jump, and a clip retold by a perfect tokenizer is the clip."""

import pytest
import torch

from daps.data.gait import gait
from daps.motion import pose_features
from daps.robot.stream import FADE, retold, stitched
from robot.states import Perfect


def test_a_stitched_window_goes_on_where_the_frames_lead_and_ends_as_itself() -> None:
    generator = torch.Generator().manual_seed(0)
    before, window = (torch.randn(3, n, 36, generator=generator) for n in (2, 32))
    joined = stitched(before, window)
    expected = 2 * before[:, 1] - before[:, 0]  # where the last two frames lead
    expected[:, :3] = before[:, 1, :3]  # velocities stay
    torch.testing.assert_close(joined[:, 0], expected)
    assert torch.equal(joined[:, FADE:], window[:, FADE:])
    correction = (joined - window)[:, :, 5]
    assert bool((correction.diff(dim=1).abs() <= correction[:, :1].abs() * 0.2).all())  # no new jumps
    assert torch.equal(stitched(before, window, 0), window)
    with pytest.raises(ValueError, match="before: wants at least 2 frames, got 1"):
        stitched(before[:, :1], window)


def test_a_perfect_tokenizer_retells_a_clip() -> None:
    walk = torch.from_numpy(gait(0, 100))
    told = retold(Perfect(), walk, fade=0, batch=2)
    assert told.shape == (96, 36)
    torch.testing.assert_close(told[:, :3], walk[:96, :3], rtol=0, atol=2e-5)
    torch.testing.assert_close(told[:, 7:], walk[:96, 7:], rtol=0, atol=2e-6)
    with pytest.raises(ValueError, match="wants at least a window of 32 frames, got 20"):
        retold(Perfect(), walk[:20])


def test_stitching_takes_the_jumps_out() -> None:
    walk = torch.from_numpy(gait(1, 128))
    jumps = []
    for fade in (0, FADE):
        features = pose_features(retold(Perfect(0.1), walk, fade=fade))[:, 7:]
        bends = features[2:] - 2 * features[1:-1] + features[:-2]
        jumps.append(float(bends[[30, 62, 94]].abs().max()))
    assert jumps[1] < 0.3 * jumps[0]
