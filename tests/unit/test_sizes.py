"""Sizes have the same meaning as in the program that reads them."""

import pytest

from redoubt.sizes import GIB, MIB, format_size, parse_docker_size, parse_redis_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1gb", GIB),
        ("1GB", GIB),
        ("1g", 10**9),
        ("512mb", 512 * MIB),
        ("512m", 512 * 10**6),
        ("100", 100),
        (4096, 4096),
    ],
)
def test_m_is_decimal_and_mb_binary_to_redis(text: object, size: int) -> None:
    assert parse_redis_size(text) == size


@pytest.mark.parametrize(
    ("text", "size"),
    [("1g", GIB), ("1GB", GIB), ("1GiB", GIB), ("1.5G", GIB * 3 // 2), ("512M", 512 * MIB), ("512 mb", 512 * MIB)],
)
def test_every_unit_is_binary_to_docker(text: object, size: int) -> None:
    assert parse_docker_size(text) == size


@pytest.mark.parametrize("text", ["", "1zb", "gb", "-1gb", "1.5gb", True, None, 1.5])
def test_sizes_that_redis_refuses_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_redis_size(text)


@pytest.mark.parametrize("text", ["", "1zb", "G", "-1G", True, None])
def test_sizes_that_docker_refuses_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_docker_size(text)


@pytest.mark.parametrize("size", [1, 1000, 1024, 1536 * MIB, GIB, 3 * GIB])
def test_a_formatted_size_means_the_same_to_both(size: int) -> None:
    assert parse_redis_size(format_size(size)) == parse_docker_size(format_size(size)) == size
