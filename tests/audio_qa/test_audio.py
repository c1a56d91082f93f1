"""Clips from real files: samples match the file, and a bad file is a clear error."""

import pickle
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audio_qa.audio import SAMPLE_RATE, AudioError, AudioInfo, load_audio, probe, silence_like

AMPLITUDE = 0.4
FREQUENCY = 700.0


def tone(seconds: float, rate: int, amplitude: float = AMPLITUDE) -> npt.NDArray[np.float32]:
    time = np.arange(round(seconds * rate)) / rate
    return (amplitude * np.sin(2 * np.pi * FREQUENCY * time)).astype(np.float32)


def write_tone(path: Path, seconds: float = 1.0, rate: int = SAMPLE_RATE, channels: int = 1) -> Path:
    soundfile.write(path, np.repeat(tone(seconds, rate)[:, None], channels, axis=1), rate)
    return path


def assert_one_line_naming(error: AudioError, path: Path) -> None:
    assert str(path) in str(error)
    assert "\n" not in str(error)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_a_tone_keeps_its_pitch_and_loudness(tmp_path: Path, extension: str, rate: int, channels: int) -> None:
    if extension == "mp3" and channels > 2:
        pytest.skip("mp3 has at most two channels")
    path = write_tone(tmp_path / f"tone.{extension}", rate=rate, channels=channels)
    clip = load_audio(path, max_seconds=30, too_long="refuse")
    assert clip.samples.dtype == np.float32
    assert clip.samples.ndim == 1
    assert abs(len(clip.samples) - SAMPLE_RATE) <= 0.01 * SAMPLE_RATE
    assert clip.seconds == pytest.approx(1.0, abs=0.01)
    assert not clip.truncated
    middle = clip.samples[4000:12000]
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert np.argmax(spectrum) * SAMPLE_RATE / len(middle) == pytest.approx(FREQUENCY, abs=2)
    lossy = extension in ("ogg", "mp3")
    # Vorbis keeps only the lows of the sixth channel, a subwoofer's: there, five of six channels have the tone.
    share = 5 / 6 if extension == "ogg" and channels == 6 and rate >= 44_100 else 1
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(AMPLITUDE * share, rel=0.05 if lossy else 0.002)


def test_resampling_leaves_no_alias(tmp_path: Path) -> None:
    time = np.arange(48_000) / 48_000
    soundfile.write(tmp_path / "high.wav", 0.5 * np.sin(2 * np.pi * 11_000 * time), 48_000)
    clip = load_audio(tmp_path / "high.wav", max_seconds=None, too_long="refuse")
    assert np.abs(clip.samples[1000:-1000]).max() < 1e-3


def test_channels_are_averaged_or_the_first_is_taken(tmp_path: Path) -> None:
    left, right = tone(0.5, SAMPLE_RATE), np.full(SAMPLE_RATE // 2, 0.2, np.float32)
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.stack([left, right], axis=1), SAMPLE_RATE, subtype="FLOAT")
    mean = load_audio(path, max_seconds=None, too_long="refuse").samples
    first = load_audio(path, max_seconds=None, too_long="refuse", channels="first").samples
    np.testing.assert_allclose(mean, (left + right) / 2, atol=1e-7)
    np.testing.assert_array_equal(first, left)


def test_a_clip_that_is_too_long_is_refused_with_both_lengths(tmp_path: Path) -> None:
    path = write_tone(tmp_path / "long.wav", seconds=2.5)
    with pytest.raises(AudioError, match=r"2\.50 s.*2 s") as caught:
        load_audio(path, max_seconds=2, too_long="refuse")
    assert_one_line_naming(caught.value, path)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rate=st.sampled_from([8_000, 16_000, 22_050, 44_100, 48_000]),
    seconds=st.floats(0.02, 1.5),
    limit=st.floats(0.01, 1.6),
)
def test_a_truncated_clip_is_the_beginning_of_the_whole(
    tmp_path: Path, rate: int, seconds: float, limit: float
) -> None:
    path = write_tone(tmp_path / "clip.wav", seconds=seconds, rate=rate)
    whole = load_audio(path, max_seconds=None, too_long="refuse")
    cut = load_audio(path, max_seconds=limit, too_long="truncate")
    assert cut.seconds == whole.seconds
    assert cut.truncated == (whole.seconds > limit)
    if cut.truncated:
        assert len(cut.samples) == min(round(limit * SAMPLE_RATE), len(whole.samples))
    else:
        assert len(cut.samples) == len(whole.samples)
    np.testing.assert_allclose(cut.samples, whole.samples[: len(cut.samples)], atol=1e-5)


def test_a_clip_of_exactly_the_limit_is_whole(tmp_path: Path) -> None:
    path = write_tone(tmp_path / "exact.wav", seconds=2.0, rate=44_100)
    assert not load_audio(path, max_seconds=2.0, too_long="refuse").truncated


def test_silence_has_the_same_length(tmp_path: Path) -> None:
    clip = load_audio(write_tone(tmp_path / "tone.wav", seconds=2), max_seconds=1, too_long="truncate")
    silence = silence_like(clip)
    assert silence.samples.shape == clip.samples.shape
    assert silence.samples.dtype == np.float32
    assert not silence.samples.any()
    assert (silence.seconds, silence.truncated) == (clip.seconds, True)


@pytest.mark.parametrize("extension", ["wav", "flac", "ogg", "mp3"])
def test_probe_reads_the_header(tmp_path: Path, extension: str) -> None:
    path = write_tone(tmp_path / f"tone.{extension}", seconds=1.5, rate=44_100, channels=2)
    assert probe(path) == AudioInfo(1.5, 44_100, 2, extension.upper())


@pytest.mark.parametrize("name", ["text.wav", "text.mp3", "text.raw", "text.txt"])
def test_what_is_not_audio_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("no sound in here\n" * 100)
    for read in (probe, lambda p: load_audio(p, max_seconds=None, too_long="refuse")):
        with pytest.raises(AudioError, match="not readable as audio") as caught:
            read(path)
        assert_one_line_naming(caught.value, path)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.wav", tmp_path):
        with pytest.raises(AudioError, match="no such file") as caught:
            probe(path)
        assert_one_line_naming(caught.value, path)


def test_the_error_survives_the_way_between_processes(tmp_path: Path) -> None:
    with pytest.raises(AudioError) as caught:
        probe(tmp_path / "nowhere.wav")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_name_with_a_line_break_stays_on_one_line(tmp_path: Path) -> None:
    with pytest.raises(AudioError) as caught:
        probe(tmp_path / "two\nlines.wav")
    assert "\n" not in str(caught.value)


def test_a_file_without_samples_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.wav"
    soundfile.write(path, np.zeros(0, np.float32), SAMPLE_RATE)
    for read in (probe, lambda p: load_audio(p, max_seconds=None, too_long="refuse")):
        with pytest.raises(AudioError, match="no samples"):
            read(path)


def test_a_file_too_short_for_a_sample_is_refused(tmp_path: Path) -> None:
    path = write_tone(tmp_path / "short.wav", seconds=1 / 48_000, rate=48_000)
    with pytest.raises(AudioError, match="too short"):
        load_audio(path, max_seconds=None, too_long="refuse")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("channel", [0, 1])
def test_samples_that_are_not_finite_are_refused(tmp_path: Path, value: float, channel: int) -> None:
    sound = np.zeros((1000, 2), np.float32)
    sound[500, channel] = value
    soundfile.write(tmp_path / "bad.wav", sound, SAMPLE_RATE, subtype="FLOAT")
    with pytest.raises(AudioError, match="not finite"):
        load_audio(tmp_path / "bad.wav", max_seconds=None, too_long="refuse", channels="first")


@pytest.mark.parametrize("extension", ["flac", "ogg", "mp3"])
def test_a_file_truncated_in_transfer_is_refused(tmp_path: Path, extension: str) -> None:
    path = write_tone(tmp_path / f"tone.{extension}", seconds=3)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError) as caught:
        load_audio(path, max_seconds=30, too_long="refuse")
    assert_one_line_naming(caught.value, path)


@pytest.mark.parametrize(
    "options",
    [
        {"max_seconds": 0, "too_long": "refuse"},
        {"max_seconds": 1, "too_long": "cut"},
        {"max_seconds": 1, "too_long": "refuse", "channels": "left"},
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="must be"):
        load_audio(write_tone(tmp_path / "tone.wav"), **options)
