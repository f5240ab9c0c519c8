"""The whole way from files to batches, on real pictures."""

from __future__ import annotations

import numpy as np
import pytest

from tercet.data import ImageFrontEnd, Manifest, PKSampler, SampleStore, read_data, split_identities


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "front_end", "identities", "rows"),
    [
        ("faces/orl", ImageFrontEnd(112, 92, 1), 40, 400),
        ("faces/lfw_a", ImageFrontEnd(112, 112, 1), 2111, 5442),
        ("retrieval/grocery_store", ImageFrontEnd(96, 96, 3), 81, 5421),
    ],
)
def test_real_pictures_become_batches(shared_data, name, front_end, identities, rows):
    manifest = read_data(shared_data / name, suffixes=front_end.SUFFIXES)
    assert (len(manifest), len(manifest.identities), manifest.skipped) == (rows, identities, ())
    some = Manifest(manifest.root, manifest.rows[:400])
    split = split_identities(some, seed=0)
    with SampleStore.read(some.of(split.train), front_end) as store:
        assert store.manifest.skipped == ()
        sampler = PKSampler(store.manifest.labels, identities_per_batch=8, samples_per_identity=4, seed=0)
        batch = sampler.batch(3)
        assert len(set(store.manifest.labels[batch])) == sampler.identities_per_batch
        x_BCHW = front_end.normalise(store.take(batch))
        assert x_BCHW.shape == (len(batch), *front_end.shape)
        spread = x_BCHW.flatten(1).std(1)
        assert bool((spread > 0.05).all()), "a picture came out blank"
        assert np.unique(store.hashes).size == len(store)
