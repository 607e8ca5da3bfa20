"""Memory that is used again must be nobody else's."""

import itertools
import threading

import pytest
import torch

import fastgan
from fastgan import memory

N = 1 << 18  # a megabyte of float32


@pytest.fixture(autouse=True)
def nothing_kept():
    memory.reset()
    yield
    memory.reset()


def place(x):
    return x.untyped_storage().data_ptr()


def test_what_nobody_holds_serves_again():
    x = torch.empty(N)
    first = memory.empty_like(x)
    at = place(first)
    assert place(memory.empty_like(x)) != at  # still held
    del first
    again = memory.empty_like(x)
    assert place(again) == at
    assert again.shape == x.shape and again.dtype == x.dtype and again.is_contiguous()


HOLDERS = {
    "a view": lambda t: t[5:9],
    "a detached tensor": lambda t: t.detach(),
    "another dtype's view": lambda t: t.view(torch.int32),
    "a NumPy array": lambda t: t.numpy(),
    "a NumPy view": lambda t: t.numpy()[3:],
    "a DLPack capsule": lambda t: torch.utils.dlpack.to_dlpack(t),
    "the storage": lambda t: t.untyped_storage(),
    "a graph": lambda t: (torch.ones(N, requires_grad=True) * t).sum(),
    "a gradient": lambda t: setattr(p := torch.nn.Parameter(torch.empty_like(t)), "grad", t) or p,
}


@pytest.mark.parametrize("holder", HOLDERS)
def test_memory_that_somebody_reads_is_left_alone(holder):
    x = torch.empty(N)
    held = memory.empty_like(x).fill_(3.0)
    at = place(held)
    holds = HOLDERS[holder](held)
    del held
    assert place(memory.empty_like(x)) != at
    del holds
    assert place(memory.empty_like(x)) in (at, place(memory.empty_like(x)))


def test_memory_of_another_process_is_left_to_it():
    x = torch.empty(N)
    sent = memory.empty_like(x)
    sent.share_memory_()
    at = place(sent)
    del sent
    assert place(memory.empty_like(x)) != at


def test_a_resized_storage_is_not_taken():
    x = torch.empty(N)
    held = memory.empty_like(x)
    held.untyped_storage().resize_(16)
    del held
    assert memory.empty_like(x).untyped_storage().nbytes() == 4 * N


def test_layout_and_dtype_are_those_of_empty_like():
    x = torch.empty(4, 16, 64, 64).to(memory_format=torch.channels_last)
    for dtype in (None, torch.float64):
        del_me = memory.empty_like(x, dtype)
        assert del_me.stride() == x.stride() and del_me.dtype == (dtype or x.dtype)
        del del_me
        again = memory.empty_like(x, dtype)
        assert again.stride() == x.stride() and again.shape == x.shape


def test_no_more_is_kept_than_stated():
    for k in range(100):
        memory.empty_like(torch.empty(N + 1024 * k))
    kept = memory._kept.__dict__
    assert sum(size * len(storages) for size, storages in kept.items()) <= memory.MOST
    memory.empty_like(torch.empty(memory.MOST))  # four times that, and not kept
    assert sum(size * len(storages) for size, storages in kept.items()) <= memory.MOST


def test_each_thread_has_its_own():
    x, places = torch.empty(N), []

    def take():
        places.append(place(memory.empty_like(x)))
        barrier.wait()

    barrier = threading.Barrier(2)
    threads = [threading.Thread(target=take) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert place(memory.empty_like(x)) not in places or len(set(places)) == 2


def test_made_in_inference_mode_it_serves_outside():
    x = torch.empty(N)
    with torch.inference_mode():
        memory.empty_like(x)
    y = memory.empty_like(x).fill_(1.0).requires_grad_()
    assert (y * 2).sum().backward() is None and y.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_kept_by_the_caller_stay_as_they_are(monkeypatch, dtype):
    """Ten calls, all results held: none is written over. Then none held: the memory is the same every time."""
    monkeypatch.setattr("fastgan.operators.chosen", "torch")
    logits = [torch.randn(2 * N, generator=torch.Generator().manual_seed(k)).to(dtype) for k in range(11)]
    kept = [fastgan.discriminator_value_and_grad(a, b).grads for a, b in itertools.pairwise(logits)]
    copies = [[grad.clone() for grad in grads] for grads in kept]
    for a, b in itertools.pairwise(logits):
        fastgan.discriminator_value_and_grad(b, a)
    for grads, copied in zip(kept, copies):
        assert all(torch.equal(grad, copy) for grad, copy in zip(grads, copied))
    del kept, grads
    memory.reset()
    places = {
        tuple(place(grad) for grad in fastgan.discriminator_value_and_grad(a, b).grads)
        for a, b in itertools.pairwise(logits)
    }
    assert len(places) == 1


def test_a_parameters_gradient_is_not_copied(monkeypatch):
    """Autograd takes a gradient over as `.grad` as long as no other tensor is it."""
    monkeypatch.setattr("fastgan.operators.chosen", "torch")
    real, fake = (torch.randn(N, requires_grad=True) for _ in range(2))
    for _ in range(3):
        real.grad = fake.grad = None
        fastgan.discriminator_loss(real, fake).backward()
    kept = [storage.data_ptr() for storages in memory._kept.__dict__.values() for storage in storages]
    assert place(real.grad) in kept and place(fake.grad) in kept
