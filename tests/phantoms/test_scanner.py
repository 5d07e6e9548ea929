"""The scanner's resolution, noise and file conventions, measured as a physicist would: wires, edges, plates, slabs."""

from dataclasses import replace

import numpy as np
import pytest

from airwaystudy.phantoms.scanner import FWHM, Protocol, sample_slices, scan

PLAIN = Protocol.plain(0.7)
QUIET = replace(PLAIN, noise=0.0)
DRAWN = [Protocol.random(np.random.default_rng(seed), 0.5 + 0.4 * seed / 199) for seed in range(200)]


def seeded(image, protocol, seed=0):
    return scan(image, protocol, np.random.default_rng(seed))


def slab(hu=40.0, shape=(12, 128, 128)):
    return np.full(shape, hu, np.float32)


def width(profile, step):
    """Full width at half maximum, between samples `step` apart."""
    peak = int(profile.argmax())
    above = np.flatnonzero(profile >= profile[peak] / 2)
    first, last = above[0], above[-1]
    left = (profile[first] - profile[peak] / 2) / (profile[first] - profile[first - 1])
    right = (profile[last] - profile[peak] / 2) / (profile[last] - profile[last + 1])
    return (last - first + left + right) * step


def variance(profile, step):
    position = np.arange(len(profile)) * step
    weights = profile / profile.sum()
    return (weights * position**2).sum() - (weights * position).sum() ** 2


# ----------------------------------------------------------------------------------------------------------- resolution


@pytest.mark.parametrize(("sharpness", "promised"), [(0.0, 1.4), (0.5, 1.1), (1.0, 0.8)])
def test_a_wire_is_as_wide_as_promised(sharpness, promised):
    """On a grid so fine that its pixels do not matter."""
    wire = np.zeros((1, 101, 101), np.float32)
    wire[0, 50, 50] = 500_000
    ct = seeded(wire, replace(QUIET, pixel=0.05, sharpness=sharpness))[0].astype(float)
    assert 100 < ct.max() < 3071
    assert width(ct[50], 0.05) == pytest.approx(promised, rel=0.02)
    assert width(ct[:, 50], 0.05) == pytest.approx(promised, rel=0.02)


@pytest.mark.parametrize("pixel", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("sharpness", [0.0, 0.4])
def test_a_wire_spreads_by_its_variance_on_clinical_pixels(pixel, sharpness):
    wire = np.zeros((1, 64, 64), np.float32)
    wire[:, :, 30] = 3000
    protocol = replace(QUIET, pixel=pixel, sharpness=sharpness)
    found = variance(seeded(wire, protocol)[0, 20].astype(float), pixel) + pixel**2 / 12  # and that of the voxel
    assert FWHM * np.sqrt(found) == pytest.approx(1.4 - 0.6 * sharpness, rel=0.01)


@pytest.mark.parametrize(("sharpness", "low", "high"), [(0.0, 0, 0), (0.4, 0, 0), (0.7, 20, 90), (1.0, 90, 130)])
def test_an_edge_overshoots_with_a_sharp_kernel_alone(sharpness, low, high):
    edge = np.zeros((1, 64, 64), np.float32)
    edge[:, :, 20:50] = 1000
    ct = seeded(edge, replace(QUIET, pixel=0.5, sharpness=sharpness))
    assert low <= ct.max() - 1000 <= high
    assert low <= -ct.min() <= high


@pytest.mark.parametrize(("interval", "thickness"), [(0.7, 0.7), (0.7, 1.1), (1.25, 1.25), (1.25, 2.0), (2.5, 2.5)])
def test_a_thin_plate_spreads_by_the_thickness(interval, thickness):
    """Seventeen plates, each in the next rendered plane and the next strip of columns, seen by one slice."""
    protocol = replace(QUIET, interval=interval, thickness=thickness)
    middle = 4 * protocol.steps
    plates = np.zeros((2 * middle + 1, 8, 16 * 17), np.float32)
    for strip in range(17):
        plane = middle - 8 + strip
        if 0 <= plane < len(plates):
            plates[plane, :, 16 * strip : 16 * strip + 16] = 3000
    profile = seeded(plates, protocol)[4, 4, 8::16].astype(float)
    step = interval / protocol.steps
    assert profile.argmax() == 8
    assert profile.sum() == pytest.approx(3000, rel=0.005)
    assert FWHM * np.sqrt(variance(profile, step) + step**2 / 12) == pytest.approx(thickness, rel=0.03)


def test_motion_blurs_a_band_of_slices_and_keeps_their_sum():
    wire = np.zeros((60, 48, 48), np.float32)
    wire[:, 24, 24] = 3000
    still, moved = (seeded(wire, replace(QUIET, motion=motion)).astype(int) for motion in (0, 2.0))
    assert (still == still[0]).all()
    peak = moved.max((1, 2)) / still.max()
    assert peak.min() < 0.7
    assert (peak > 0.99).any()
    assert np.abs(np.diff(peak)).max() < 0.1  # it fades in and out
    assert moved.sum((1, 2)) == pytest.approx(still.sum((1, 2)), rel=0.03)
    assert width(moved[peak.argmin()].sum(0) + moved[peak.argmin()].sum(1), 0.7) > width(still[0].sum(0) * 2, 0.7) * 1.2


# ---------------------------------------------------------------------------------------------------------------- noise


@pytest.mark.parametrize("sharpness", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("interval", "thickness"), [(0.7, 0.7), (0.7, 1.1), (2.5, 2.5)])
def test_noise_is_as_strong_as_the_protocol_says(sharpness, interval, thickness):
    protocol = replace(PLAIN, sharpness=sharpness, interval=interval, thickness=thickness, noise=30.0)
    ct = seeded(slab(shape=(16, 128, 128)), protocol)
    assert ct.std() == pytest.approx(30, rel=0.05)
    assert ct.std((1, 2)) == pytest.approx(np.full(len(ct), 30), rel=0.05)
    assert ct.mean() == pytest.approx(40, abs=0.1)


def spectrum(sharpness, pixel=0.6):
    """Noise power in rings 0.04 / mm wide up to Nyquist's frequency: their middles and their means."""
    ct = seeded(slab(0), replace(PLAIN, pixel=pixel, sharpness=sharpness)).astype(float)
    power = (np.abs(np.fft.fft2(ct)) ** 2).mean(0)
    f = np.fft.fftfreq(128, pixel)
    ring = (np.hypot(f[:, None], f) / 0.04).astype(int)
    return (np.arange(20) + 0.5) * 0.04, np.array([power[ring == i].mean() for i in range(20)])


def test_noise_is_finer_with_a_sharp_kernel():
    peaks = {}
    for sharpness in (0.0, 1.0):
        f, power = spectrum(sharpness)
        peaks[sharpness] = f[power.argmax()]
    assert power[0] < 0.25 * power.max()  # of the sharp one, which keeps the whole ramp
    assert peaks[0.0] < 0.15  # hardly any ramp left: f^0.1 through a Gaussian peaks at sqrt(0.05) / (2 pi sigma) = 0.06
    assert 0.35 < peaks[1.0] < 0.7


@pytest.mark.parametrize(("thickness", "shared"), [(0.7, 0), (1.05, 1 / 3), (1.12, 0.375)])
def test_noise_of_neighbouring_slices_correlates_as_far_as_they_overlap(thickness, shared):
    noise = seeded(slab(0), replace(PLAIN, thickness=thickness)) / PLAIN.noise
    assert (noise[1:] * noise[:-1]).mean() == pytest.approx(shared, abs=0.03)
    assert (noise[2:] * noise[:-2]).mean() == pytest.approx(0, abs=0.03)


def test_noise_is_stronger_behind_much_tissue():
    y, x = np.ogrid[-1:1:160j, -1:1:160j]
    section = np.where(np.hypot(x, y) < 0.9, 40, -1000).astype(np.float32)
    image = np.repeat(section[None], 24, 0)
    image[12:, 40:120, 20:70] = image[12:, 40:120, 90:140] = -860  # below the shoulders: lungs
    noise = seeded(image, PLAIN) - seeded(image, QUIET).astype(float)
    centre, rim = (np.hypot(x, y) < 0.2), (abs(np.hypot(x, y) - 0.8) < 0.08)
    assert noise[:12, centre].std() > 1.05 * noise[:12, rim].std()
    assert noise[:12, centre].std() > 1.1 * noise[12:, centre].std()
    assert noise[image > 0].std() == pytest.approx(PLAIN.noise, rel=0.05)


# ---------------------------------------------------------------------------------------------------- grid, HU and file


@pytest.mark.parametrize(("interval", "steps", "slices"), [(0.7, 1, 20), (0.8, 1, 20), (1.25, 2, 10), (2.5, 4, 5)])
def test_slices_lie_on_the_rendered_planes(interval, steps, slices):
    protocol = replace(QUIET, interval=interval, thickness=interval)
    assert protocol.steps == steps
    assert protocol.spacing == (0.7, 0.7, interval)
    assert protocol.render_spacing == (0.7, 0.7, pytest.approx(interval / steps))
    ramp = slab(0, (20, 17, 30)) + 100 * np.arange(20, dtype=np.float32)[:, None, None]
    ct = seeded(ramp, protocol)
    assert ct.shape == sample_slices(ramp, protocol).shape == (slices, 17, 30)
    assert ct.dtype == np.int16
    inner = slice(2, -2) if slices > 5 else slice(2, -1)  # a slice at an end sees the last plane go on
    assert np.array_equal(ct[inner], sample_slices(ramp, protocol)[inner])


def test_sampled_slices_are_the_planes_at_their_centres():
    mask = np.arange(11)[:, None, None] * np.ones((1, 2, 2), int)
    assert sample_slices(mask, replace(PLAIN, interval=2.5))[:, 0, 0].tolist() == [0, 4, 8]


@pytest.mark.parametrize("sharpness", [0.0, 1.0])
@pytest.mark.parametrize("offset", [0.0, 12.0, -9.0])
def test_a_constant_image_keeps_its_hu_but_for_the_offset(sharpness, offset):
    protocol = replace(QUIET, interval=1.25, thickness=1.9, sharpness=sharpness, offset=offset, motion=1.5)
    assert (seeded(slab(-860, (9, 33, 40)), protocol) == -860 + offset).all()


@pytest.mark.parametrize("lowest", [-1024, -1000])
def test_hu_are_clipped_to_what_a_file_holds(lowest):
    protocol = replace(QUIET, lowest=lowest)
    assert (seeded(slab(-2000), protocol) == lowest).all()
    assert (seeded(slab(40_000), protocol) == 3071).all()
    assert seeded(slab(-1000), replace(PLAIN, lowest=lowest)).min() >= lowest


def test_padding_lies_outside_the_inscribed_circle():
    image = slab(40, (2, 60, 80))
    ct = seeded(image, replace(QUIET, padding=-3024, offset=5.0))
    inside = np.hypot(np.arange(60)[:, None] - 29.5, np.arange(80) - 39.5) <= 30
    assert (ct[:, inside] == 45).all()
    assert (ct[:, ~inside] == -3024).all()
    assert (seeded(image, QUIET) == 40).all()


def test_the_same_generator_gives_the_same_bytes_and_leaves_the_image():
    protocol, image = replace(PLAIN, motion=1.0), slab()
    first, again, other = (seeded(image, protocol, seed) for seed in (3, 3, 4))
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()
    assert (image == 40).all()


# ------------------------------------------------------------------------------------------------------------ protocols


def test_random_protocols_are_plausible():
    for p in DRAWN:
        assert 0.5 <= p.interval <= 2.5
        assert 0.5 <= p.thickness <= 2.5
        assert 1 <= p.thickness / p.interval <= 1.6
        assert 0 <= p.sharpness <= 1
        assert 8 <= p.noise <= 90
        assert p.contrast == 0 or 60 <= p.contrast <= 350
        assert -15 <= p.offset <= 15
        assert p.lowest in (-1024, -1000)
        assert p.padding in (None, -1024, -2000, -3024)
        assert p.motion == 0 or 1 <= p.motion <= 2
        assert p.render_spacing[2] <= 0.8 + 1e-6


def test_random_protocols_vary():
    def share(condition):
        return np.mean([condition(p) for p in DRAWN])

    assert 0.2 < share(lambda p: p.contrast > 0) < 0.4
    assert 0.25 < share(lambda p: p.padding is not None) < 0.45
    assert 0.15 < share(lambda p: p.motion > 0) < 0.35
    assert 0.1 < share(lambda p: p.lowest == -1000) < 0.3
    assert share(lambda p: p.thickness > 1.5) > 0.05
    assert share(lambda p: p.thickness < 1) > 0.3
    assert 0.35 < share(lambda p: p.thickness > p.interval) < 0.65
    assert share(lambda p: p.sharpness > 0.7) > 0.2
    assert share(lambda p: p.sharpness < 0.3) > 0.15
    assert share(lambda p: p.noise > 50) > 0.02
    assert share(lambda p: p.noise < 20) > 0.15


def test_sharp_kernels_are_noisy_and_go_with_thin_slices():
    sharpness, noise, thickness = np.array([(p.sharpness, p.noise, p.thickness) for p in DRAWN]).T
    correlation = np.corrcoef([sharpness, np.log(noise), thickness])
    assert correlation[0, 1] > 0.5
    assert correlation[0, 2] < -0.1
    assert correlation[1, 2] < -0.3


def test_the_same_seed_draws_the_same_protocol():
    assert Protocol.random(np.random.default_rng(5), 0.7) == Protocol.random(np.random.default_rng(5), 0.7)


def test_the_plain_protocol_has_cubic_voxels_and_nothing_odd():
    plain = Protocol.plain(1.0)
    assert plain.spacing == (1, 1, 1)
    assert plain.thickness == 1
    assert 20 <= plain.noise <= 35
    assert (plain.contrast, plain.offset, plain.padding, plain.motion, plain.enhancement) == (0, 0, None, 0, 0)
