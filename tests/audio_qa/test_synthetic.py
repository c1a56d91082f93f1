"""The synthetic benchmark: reproducible by seed, and only the sound reveals the answer."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio_qa.dataset import read_jsonl
from audio_qa.synthetic.benchmark import (
    CATEGORIES,
    OPTIONS,
    QUESTION_TYPES,
    clip_hashes,
    draw,
    load_split,
    make_benchmark,
)
from audio_qa.synthetic.scene import CLIP_SECONDS, SCENES
from audio_qa.synthetic.waveform import EVENTS, SPEAKERS, TIMBRES, VOWELS, event, note, vowel


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return make_benchmark(tmp_path_factory.mktemp("many"), seed=3, train=600, heldout=200)


def test_it_reads_as_any_dataset_does(benchmark_home):
    questions = read_jsonl(benchmark_home / "train.jsonl")
    assert len(questions) == 60
    assert {q.task for q in questions} == {"sound", "music", "speech"}
    assert {q.category for q in questions} == {kind.name for kind in QUESTION_TYPES}
    assert all(len(q.choices) == OPTIONS and q.answer in q.choices for q in questions)
    wave = soundfile.info(questions[0].audio)
    assert (wave.samplerate, wave.channels, wave.duration) == (16_000, 1, CLIP_SECONDS)


def test_every_domain_has_several_types():
    by_domain = Counter(kind.domain for kind in QUESTION_TYPES)
    assert all(by_domain[domain] >= 3 for domain in ("sound", "music", "speech"))


def test_the_same_seed_makes_the_same_bytes(tmp_path, benchmark_home):
    again = make_benchmark(tmp_path, seed=0, train=60, heldout=20)
    for name in sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file()):
        assert (again / name).read_bytes() == (benchmark_home / name).read_bytes(), name


def test_another_seed_makes_other_clips(tmp_path, benchmark_home):
    other = make_benchmark(tmp_path, seed=1, train=60, heldout=20)
    assert not clip_hashes(load_split(other, "train")) & clip_hashes(load_split(benchmark_home, "train"))


def test_splits_share_no_clip(many):
    train, held_out = clip_hashes(load_split(many, "train")), clip_hashes(load_split(many, "heldout"))
    assert (len(train), len(held_out)) == (600, 200)
    assert not train & held_out


def test_a_narrower_train_split_shares_no_clip_and_leaves_the_held_out_questions_alone(many, tmp_path):
    names = ("first", "instrument")
    narrow = make_benchmark(tmp_path, seed=3, train=600, heldout=200, categories=names)
    train, held_out = load_split(narrow, "train"), load_split(narrow, "heldout")
    assert Counter(q.category for q in train) == dict.fromkeys(names, 300)
    assert {q.category for q in held_out} == {kind.name for kind in QUESTION_TYPES}
    assert not clip_hashes(train) & clip_hashes(held_out)
    assert clip_hashes(held_out) == clip_hashes(load_split(many, "heldout"))
    assert narrow.name != many.name
    # The order of types does not matter, and all types make the same benchmark as none.
    assert make_benchmark(tmp_path, seed=3, train=600, heldout=200, categories=names[::-1]) == narrow
    assert make_benchmark(many.parent, seed=3, train=600, heldout=200, categories=CATEGORIES) == many


def test_an_interrupted_generation_leaves_nothing(tmp_path, monkeypatch):
    def fail(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(soundfile, "write", fail)
    with pytest.raises(KeyboardInterrupt):
        make_benchmark(tmp_path, seed=0, train=40, heldout=10)
    assert list(tmp_path.iterdir()) == []


def chi_square(counts: Counter, cells: int) -> float:
    expected = counts.total() / cells
    return sum((counts[c] - expected) ** 2 / expected for c in counts) + (cells - len(counts)) * expected


def test_the_place_of_the_answer_tells_nothing(many):
    questions = load_split(many, "train")
    places = Counter(q.choices.index(q.answer) for q in questions)
    assert chi_square(places, OPTIONS) < 16.3  # p = 0.001 at 3 degrees of freedom


def test_every_answer_of_a_type_is_as_likely(many):
    questions = load_split(many, "train")
    for kind in QUESTION_TYPES:
        answers = Counter(q.answer for q in questions if q.category == kind.name)
        assert set(answers) <= set(kind.answers)
        assert chi_square(answers, len(kind.answers)) < 22  # p < 0.001 at 5 degrees of freedom and less


def learnt_from_text(train, held_out, feature) -> float:
    """Return the accuracy of the best guess by a feature of the text, learnt on one split, tested on the other."""
    seen: dict[object, Counter] = {}
    for q in train:
        for place, choice in enumerate(q.choices):
            if choice == q.answer:
                seen.setdefault(feature(q), Counter())[(place, choice)] += 1
    right = 0
    for q in held_out:
        counts = seen.get(feature(q), Counter())
        right += max(enumerate(q.choices), key=lambda pc: counts[pc])[1] == q.answer
    return right / len(held_out)


@pytest.mark.parametrize(
    "feature",
    [
        lambda q: q.text,
        lambda q: (q.text, q.choices),
        lambda q: (q.text, frozenset(q.choices)),
        lambda q: (q.category, int(Path(q.audio).stem) % 4),
        lambda q: (q.category, Path(q.audio).stat().st_size),
    ],
    ids=["wording", "options in order", "options", "file name", "file size"],
)
def test_no_guess_from_text_or_file_beats_chance(many, feature):
    accuracy = learnt_from_text(load_split(many, "train"), load_split(many, "heldout"), feature)
    # Chance is 0.25; three standard deviations of 200 guesses are 0.09.
    assert accuracy < 0.34


@pytest.mark.parametrize("kind", QUESTION_TYPES, ids=lambda kind: kind.name)
def test_the_answer_is_a_fact_of_the_clip(kind):
    for index in range(12):
        scene, options, answer = draw(5, "train", index, kind)
        assert scene.facts[kind.name] == answer
        assert answer in options
        assert len(set(options)) == OPTIONS
        assert scene.domain == kind.domain


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_scenes_are_whole_and_never_clip(scene):
    for seed in range(20):
        samples = scene(np.random.default_rng(seed)).samples
        assert samples.dtype == np.float32
        assert samples.shape == (int(CLIP_SECONDS * 16_000),)
        assert 0.2 < np.abs(samples).max() < 1


def loudest(wave) -> float:
    """Return the frequency of the strongest partial, in Hz."""
    return float(np.abs(np.fft.rfft(wave)).argmax() * 16_000 / len(wave))


def test_a_note_has_its_pitch():
    for timbre in TIMBRES:
        wave = note(timbre, 440.0, 0.5)
        assert loudest(wave) == pytest.approx(440, abs=4)


def test_speakers_differ_in_pitch():
    """Pitch is the distance of partials, at which the cepstrum has its peak."""

    def pitch(speaker: str) -> float:
        wave = vowel("a", speaker, 0.4, np.random.default_rng(0)).astype(np.float64)
        cepstrum = np.fft.irfft(np.log(np.abs(np.fft.rfft(wave * np.hanning(len(wave)))) + 1e-3))
        return 16_000 / (int(cepstrum[40:190].argmax()) + 40)

    assert 85 < pitch("man") < 135
    assert 180 < pitch("woman") < 245
    assert 290 < pitch("child") < 390


def test_sounds_can_be_distinguished():
    """For most pairs, spectra of two takes of a sound are nearer to each other than to any other sound."""

    def spectrum(wave) -> np.ndarray:
        bands = np.abs(np.fft.rfft(wave, 4096))[:2048].reshape(64, 32).mean(axis=1)
        return np.log(bands / bands.max() + 1e-4)

    rng = np.random.default_rng(0)
    for names, make in (
        (EVENTS, lambda n: event(n, 0.25, rng)),
        (VOWELS, lambda n: vowel(n, "man", 0.25, rng)),
        (SPEAKERS, lambda n: vowel("a", n, 0.25, rng)),
    ):
        first = {n: np.mean([spectrum(make(n)) for _ in range(8)], axis=0) for n in names}
        second = {n: np.mean([spectrum(make(n)) for _ in range(8)], axis=0) for n in names}
        for n in names:
            nearest = min(names, key=lambda other: float(((first[n] - second[other]) ** 2).sum()))
            assert nearest == n
