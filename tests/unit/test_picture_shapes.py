"""Which sizes pictures are trained at, and that pixel art stays pixel art on its way there."""

import numpy as np
import pytest

from client.collection.shapes import cells_of, enlarged, shape_for, shapes_of, to_shape


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def photograph(height: int, width: int) -> np.ndarray:
    y, x = np.indices((height, width))
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 251], axis=2).astype(np.uint8)


@pytest.mark.parametrize("size", [512, 768, 1024])
def test_shapes_have_about_the_bases_area_and_sides_that_every_base_takes(size: int) -> None:
    shapes = shapes_of(size)
    assert shapes[0] == (size, size)
    assert len(shapes) == len(set(shapes)) > 3
    for height, width in shapes:
        assert height % 64 == width % 64 == 0
        assert 0.85 < height * width / size**2 <= 1
        assert (width, height) in shapes


def test_a_small_base_draws_squares() -> None:
    assert shapes_of(32) == ((32, 32),)


@pytest.mark.parametrize(
    ("height", "width", "shape"),
    [(1000, 1000, (512, 512)), (600, 800, (448, 576)), (800, 600, (576, 448)), (100, 900, (384, 640))],
)
def test_a_picture_gets_the_shape_that_is_nearest_to_its_own(height: int, width: int, shape: tuple[int, int]) -> None:
    assert shape_for(height, width, shapes_of(512)) == shape


def test_a_little_is_cropped_and_more_is_padded() -> None:
    nearly = to_shape(photograph(300, 310), (64, 64), (1, 2, 3))
    assert not (nearly == (1, 2, 3)).all(axis=2).any()
    panorama = to_shape(photograph(100, 400), (64, 64), (1, 2, 3))
    assert (panorama[:20] == (1, 2, 3)).all()
    assert not (panorama[32] == (1, 2, 3)).all(axis=1).any()


def test_a_frame_continues_the_colour_that_the_picture_has_in_its_corners() -> None:
    picture = photograph(100, 400)
    picture[[0, 0, -1, -1], [0, -1, 0, -1]] = (9, 8, 7)
    assert (to_shape(picture, (64, 64), (1, 2, 3))[:20] == (9, 8, 7)).all()


@pytest.mark.parametrize("times", [2, 3, 10, 41])
def test_pixel_art_is_found_however_much_it_was_enlarged(times: int) -> None:
    art = noise(24, 24)
    cells = cells_of(enlarged(art, times))
    assert cells is not None
    assert np.array_equal(cells, art)


def test_a_photograph_is_no_pixel_art() -> None:
    assert cells_of(photograph(300, 200)) is None


@pytest.mark.parametrize(("side", "shape", "times"), [(24, 512, 21), (32, 32, 1), (16, 512, 32), (24, 32, 1)])
def test_pixel_art_is_scaled_by_whole_cells(side: int, shape: int, times: int) -> None:
    art = noise(side, side)
    margin = (shape - side * times) // 2
    scaled = to_shape(enlarged(art, 5), (shape, shape))
    assert np.array_equal(scaled[margin : margin + side * times, margin : margin + side * times], enlarged(art, times))


def test_cells_that_would_leave_an_empty_frame_fill_the_shape_instead() -> None:
    filled = to_shape(enlarged(noise(300, 300), 2), (512, 512), (1, 2, 3))
    assert not (filled == (1, 2, 3)).all(axis=2).any()
