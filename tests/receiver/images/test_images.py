"""Fashion-MNIST files and image folders, good and bad."""

import gzip
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from receiver.bundles.bundle import find_bundle
from receiver.images.fashion_mnist import FASHION_MNIST_IMAGES, load_fashion_mnist, sample_indices
from receiver.images.files import load_image, load_image_folder, load_images, read_image, save_image
from sdr.errors import InputError

GREY = (1, 6, 5)


def write_idx(path: Path, data: np.ndarray, header: bytes | None = None, extra: bytes = b"") -> None:
    if header is None:
        header = struct.pack(">BBBB", 0, 0, 8, data.ndim) + struct.pack(f">{data.ndim}I", *data.shape)
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header + data.tobytes() + extra)


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small stand-in would be refused, so this one has the true number of (empty but for one) test images."""
    folder = tmp_path_factory.mktemp("fashion")
    count = FASHION_MNIST_IMAGES["test"]
    images = np.zeros((count, 28, 28), np.uint8)
    images[7, 3, 4], images[7, 27, 0] = 255, 51
    write_idx(folder / "t10k-images-idx3-ubyte.gz", images)
    write_idx(folder / "t10k-labels-idx1-ubyte.gz", np.arange(count, dtype=np.uint8) % 10)
    return folder


def copy_of(fashion: Path, tmp_path: Path) -> Path:
    for path in fashion.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_images_are_scaled_and_padded_to_32x32(fashion: Path) -> None:
    images, labels = load_fashion_mnist("test", fashion)
    assert images.shape == (10_000, 1, 32, 32) and images.dtype == torch.float32
    assert images[7, 0, 5, 6] == 1 and images[7, 0, 29, 2] == pytest.approx(0.2)
    assert images.sum() == pytest.approx(1.2)
    assert labels.shape == (10_000,) and labels[:11].tolist() == [*range(10), 0]


def test_the_environment_names_the_folder(fashion: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OTA_FASHION_MNIST", str(fashion))
    assert load_fashion_mnist("test")[0][7, 0, 5, 6] == 1
    with pytest.raises(InputError, match="dataset-fashion-mnist"):
        load_fashion_mnist("test", tmp_path)


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(InputError, match=r"'valid'.*train, test"):
        load_fashion_mnist("valid")


IMAGES_FILE, LABELS_FILE = "t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"


@pytest.mark.parametrize("name", [IMAGES_FILE, LABELS_FILE])
def test_missing_cut_and_foreign_files_are_one_line(fashion: Path, tmp_path: Path, name: str) -> None:
    folder = copy_of(fashion, tmp_path)
    path = folder / name
    good = path.read_bytes()
    for content in (good[: len(good) // 2], b"not gzip at all", good[:-8], b""):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"^[^\n]*Reinstall dataset-fashion-mnist\.$"):
            load_fashion_mnist("test", folder)
    path.unlink()
    with pytest.raises(InputError, match="is missing"):
        load_fashion_mnist("test", folder)


def test_a_header_that_claims_other_sizes_is_refused_before_reading(fashion: Path, tmp_path: Path) -> None:
    folder = copy_of(fashion, tmp_path)
    huge = struct.pack(">BBBBIII", 0, 0, 8, 3, 2**31, 2**15, 2**15)
    write_idx(folder / IMAGES_FILE, np.zeros(10, np.uint8), header=huge)
    with pytest.raises(InputError, match="is not an IDX file"):
        load_fashion_mnist("test", folder)


def test_too_long_files_and_foreign_labels_are_refused(fashion: Path, tmp_path: Path) -> None:
    folder = copy_of(fashion, tmp_path)
    write_idx(folder / LABELS_FILE, np.full(10_000, 10, np.uint8))
    with pytest.raises(InputError, match="label 10"):
        load_fashion_mnist("test", folder)
    write_idx(folder / LABELS_FILE, np.zeros(10_000, np.uint8), extra=b"x")
    with pytest.raises(InputError, match="10001 bytes"):
        load_fashion_mnist("test", folder)


def png(path: Path, shape: tuple[int, int, int] = GREY, seed: int = 0) -> torch.Tensor:
    pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels[0] if shape[0] == 1 else pixels.transpose(1, 2, 0)).save(path)
    return torch.from_numpy(pixels / np.float32(255))


@pytest.mark.parametrize("shape", [GREY, (3, 6, 5)])
def test_saving_and_loading_round_trips(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    image = png(tmp_path / "a.png", shape)
    torch.testing.assert_close(load_image(tmp_path / "a.png", shape), image)
    save_image(tmp_path / "b.png", image)
    torch.testing.assert_close(load_image(tmp_path / "b.png", shape), image)
    save_image(tmp_path / "c.png", image * 4 - 2)
    torch.testing.assert_close(
        load_image(tmp_path / "c.png", shape), (image * 4 - 2).clamp(0, 1), rtol=0, atol=0.51 / 255
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png", "c.png"]


def test_colour_becomes_grey_and_grey_becomes_colour(tmp_path: Path) -> None:
    Image.new("RGB", (5, 6), (255, 0, 0)).save(tmp_path / "red.png")
    assert load_image(tmp_path / "red.png", GREY)[0, 0, 0] == pytest.approx(76 / 255)
    png(tmp_path / "grey.png")
    colour = load_image(tmp_path / "grey.png", (3, 6, 5))
    assert colour.shape == (3, 6, 5) and torch.equal(colour[0], colour[2])


def test_a_folder_is_read_in_the_order_of_names_without_hidden_files(tmp_path: Path) -> None:
    second, first = png(tmp_path / "b.png", seed=1), png(tmp_path / "a.PNG", seed=2)
    (tmp_path / ".hidden").write_text("x")
    ids, images = load_image_folder(tmp_path, GREY)
    assert ids == ["a", "b"]
    torch.testing.assert_close(images, torch.stack([first, second]))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "notes.txt").write_text("hello"), "notes.txt is not an image"),
        (lambda folder: (folder / "sub").mkdir(), "sub is not an image"),
        (lambda folder: (folder / "z.png").write_text("hello"), "z.png is no image of PNG"),
        (lambda folder: (folder / "z.png").write_bytes((folder / "a.png").read_bytes()[:60]), "z.png can't be read"),
        (lambda folder: png(folder / "z.png", (1, 5, 5)), "5x5 pixels, but 5x6"),
        (lambda folder: png(folder / "a.bmp"), "several images called 'a'"),
        (lambda folder: (folder / "a.png").unlink(), "is empty"),
    ],
)
def test_bad_folders_are_one_line(tmp_path: Path, spoil, says: str) -> None:
    png(tmp_path / "a.png")
    spoil(tmp_path)
    with pytest.raises(InputError, match=f"^[^\n]*{says}[^\n]*$"):
        load_image_folder(tmp_path, GREY)


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not a folder"):
        load_image_folder(tmp_path / "nothing", GREY)


def test_sample_indices_are_balanced_distinct_and_reproducible() -> None:
    labels = torch.arange(1000) % 10
    drawn = sample_indices(labels, 64, torch.Generator().manual_seed(1))
    assert drawn == sample_indices(labels, 64, torch.Generator().manual_seed(1)) == sorted(set(drawn))
    assert sorted(torch.bincount(labels[drawn]).tolist()) == [6] * 6 + [7] * 4
    with pytest.raises(InputError, match="fewer samples"):
        sample_indices(labels, 1001, torch.Generator())


def test_the_shipped_samples_are_the_held_out_images_they_say() -> None:
    ids, images = load_image_folder(find_bundle() / "samples", (1, 32, 32))
    test_images, labels = load_fashion_mnist("test")
    indices = [int(name.removeprefix("fm")) for name in ids]
    assert len(ids) == 64
    torch.testing.assert_close(images, test_images[indices])
    assert set(torch.bincount(labels[indices], minlength=10).tolist()) == {6, 7}


def test_an_image_is_turned_as_its_exif_orientation_says(tmp_path: Path) -> None:
    upright = np.zeros((4, 6, 3), np.uint8)
    upright[0, 0] = 255
    # Orientation 6: the camera was turned; rows and columns change places when it is shown.
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(upright).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png", 3)
    assert image.shape == (3, 6, 4) and float(image[0, 0, 3]) == 1 and float(image.sum()) == 3
    assert read_image(tmp_path / "a.png", 3, (6, 4)).shape == (3, 6, 4)
    with pytest.raises(InputError, match="is 4x6 pixels, but 6x4 are needed"):
        read_image(tmp_path / "a.png", 3, (4, 6))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_white(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    picture.putpixel((1, 0), (0, 0, 0, 255))
    picture.convert(mode).save(tmp_path / "a.png")
    expected = torch.tensor([1.0, 0.0]).expand(3, 1, 2)
    torch.testing.assert_close(read_image(tmp_path / "a.png", 3), expected, rtol=0, atol=0.02)
    torch.testing.assert_close(read_image(tmp_path / "a.png", 1), expected[:1], rtol=0, atol=0.02)


def test_16_bits_are_scaled_and_not_cut(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257 * 100, 65535]], np.uint16)).save(tmp_path / "a.png")
    expected = torch.tensor([[0.0, 100 / 255, 1.0]])
    torch.testing.assert_close(read_image(tmp_path / "a.png", 1)[0], expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(read_image(tmp_path / "a.png", 3)[2], expected, rtol=0, atol=1e-5)


def test_cmyk_is_read_as_colour(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red = read_image(tmp_path / "a.jpg", 3).mean(dim=(1, 2))
    assert red[0] > 0.9 and red[1] < 0.1 and red[2] < 0.1


def test_an_embedded_profile_is_converted_to_srgb(tmp_path: Path) -> None:
    lab = ImageCms.createProfile("LAB")
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    plain = Image.new("RGB", (2, 2), (100, 150, 200))
    plain.save(tmp_path / "plain.png")
    plain.save(tmp_path / "tagged.png", icc_profile=srgb.tobytes())
    # A profile of another kind of pixels can't be used, and is passed over.
    plain.save(tmp_path / "odd.png", icc_profile=ImageCms.ImageCmsProfile(lab).tobytes())
    first, tagged, odd = (read_image(tmp_path / f"{name}.png", 3) for name in ("plain", "tagged", "odd"))
    torch.testing.assert_close(tagged, first, rtol=0, atol=1.1 / 255)
    assert torch.equal(odd, first)


def test_a_swapped_profile_swaps_the_colours(tmp_path: Path) -> None:
    # The red and blue primaries of sRGB change places in the profile's tags, so red is shown as blue.
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    Image.new("RGB", (2, 2), (255, 0, 0)).save(tmp_path / "a.png", icc_profile=bytes(profile))
    shown = read_image(tmp_path / "a.png", 3)[:, 0, 0]
    assert shown[2] > 0.95 and shown[0] < 0.05


def test_an_image_that_claims_to_be_huge_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))
    with pytest.raises(InputError, match="9000x9000 pixels, at most 50 million"):
        read_image(tmp_path / "a.png", 3)


def test_images_of_different_sizes_are_read_but_not_stacked(tmp_path: Path) -> None:
    png(tmp_path / "a.png", (3, 6, 5))
    png(tmp_path / "b.png", (3, 4, 9))
    ids, images = load_images(tmp_path, (3, None, None))
    assert ids == ["a", "b"] and [tuple(image.shape) for image in images] == [(3, 6, 5), (3, 4, 9)]
    with pytest.raises(InputError, match="a is 5x6 pixels and b 9x4"):
        load_image_folder(tmp_path, (3, None, None))


def test_deep_pixels_are_right_or_refused(tmp_path: Path) -> None:
    ramp = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)
    path = tmp_path / "a.tif"
    for stored in ((ramp * 65535).round().astype("<u2"), (ramp * 65535).round().astype(">u2"), ramp):
        Image.fromarray(stored).save(path)
        torch.testing.assert_close(read_image(path, 1)[0], torch.from_numpy(ramp), rtol=0, atol=1e-5)
    for stored in ((ramp * 255).astype(np.int32), (ramp * 65535).astype(np.int32), ramp * 255, ramp - 0.5):
        Image.fromarray(stored).save(path)
        with pytest.raises(InputError, match=r"a\.tif .*8 or 16 bits"):
            read_image(path, 1)
    for hole in (np.nan, np.inf):
        Image.fromarray(np.where(ramp > 0.5, np.float32(hole), ramp)).save(path)
        with pytest.raises(InputError, match=r"a\.tif holds NaN or infinite"):
            read_image(path, 3)


def test_lab_is_refused_in_grey_and_in_colour(tmp_path: Path) -> None:
    Image.new("LAB", (3, 2), (120, 10, 10)).save(tmp_path / "a.tif")
    for channels in (1, 3):
        with pytest.raises(InputError, match="CIELAB"):
            read_image(tmp_path / "a.tif", channels)


def test_transparent_16_bits_lie_on_white(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257, 65535]], np.uint16)).save(tmp_path / "a.png", transparency=257)
    assert read_image(tmp_path / "a.png", 1)[0, 0].tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("kind", ["GIF", "ICO", "TGA", "EPS", "SPIDER", "PCX", "DDS"])
def test_formats_that_are_not_listed_are_refused_whatever_they_are_called(tmp_path: Path, kind: str) -> None:
    picture = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    content = io.BytesIO()  # by a name, Pillow would take .png for SPIDER's from now on
    picture.convert({"SPIDER": "F", "DDS": "RGB"}.get(kind, "L")).save(content, format=kind)
    (tmp_path / "a.png").write_bytes(content.getvalue())
    with pytest.raises(InputError, match=r"a\.png is no image of PNG, JPEG"):
        read_image(tmp_path / "a.png", 1)


@pytest.mark.parametrize("orientation", [*range(1, 9), 0, 99])
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_every_orientation_is_undone(tmp_path: Path, orientation: int, suffix: str) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.zeros((16, 24), np.uint8)
    pixels[:8, :8], pixels[8:, :8] = 255, 120
    Image.fromarray(pixels).convert("RGB").save(tmp_path / f"a{suffix}", exif=exif, quality=100)
    with Image.open(tmp_path / f"a{suffix}") as stored:
        expected = np.asarray(ImageOps.exif_transpose(stored).convert("L"), np.float32) / 255
    found = read_image(tmp_path / f"a{suffix}", 1)[0].numpy()
    assert found.shape == expected.shape and np.abs(found - expected).max() < 0.02


def test_many_files_take_time_in_proportion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No step looks through all names for each name: names are compared a few times each, however many there are."""
    import receiver.images.files as files

    compared = 0

    class Stem(str):
        def __eq__(self, other: object) -> bool:
            nonlocal compared
            compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    names = [Stem(f"i{index:05d}") for index in range(2000)]
    for name in names:
        (tmp_path / f"{name}.png").touch()
    monkeypatch.setattr(files, "load_image", lambda path, shape: torch.zeros(1, 2, 2))
    monkeypatch.setattr(type(tmp_path), "stem", property(lambda path: Stem(path.name.removesuffix(".png"))))
    assert len(load_images(tmp_path, (1, 2, 2))[0]) == 2000
    assert compared < 10 * 2000
