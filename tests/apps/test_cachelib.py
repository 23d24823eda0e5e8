"""cachelib, which Flask-Caching uses, as a user with the role cache."""

import pytest
from cachelib.redis import RedisCache

from tests.deployed_redis import Connect


@pytest.mark.usefixtures("no_denials")
def test_cache_stores_counts_and_deletes(connect: Connect) -> None:
    client = connect("pages")
    cache = RedisCache(host=client, key_prefix="pages:")
    assert cache.set("home", {"title": "Home"}, timeout=60)
    assert cache.set_many({"a": 1, "b": 2})
    assert cache.get_many("home", "a", "b") == [{"title": "Home"}, 1, 2]
    assert cache.add("home", "other") is False
    assert (cache.inc("hits", 2), cache.dec("hits")) == (2, 1)
    assert cache.has("home")
    assert cache.delete_many("home", "a", "b", "hits")
    with client.pipeline() as pipeline:
        pipeline.set("pages:x", 1, ex=5)
        pipeline.ttl("pages:x")
        assert pipeline.execute() == [True, 5]
