"""A GPU that is not there: a training step runs on it to its end, and what would fail or wait on a real one is found.

Tensors on ``cuda`` are torch's fake ones, with a shape, a type and a device but no values, so that mixing devices is
an error as on a real GPU. Tensors of the host stay real. Where the host asks the device for a value, or for a shape
that depends on values, it is told something invented, and the question is kept in ``PretendedCuda.waits``.
"""

import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from itertools import count
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import denseteacher
from denseteacher.ops import anchors
from denseteacher.pseudo_labels import flip_ensemble

ROWS = 5
"""Of every result whose number of rows a GPU would have to tell."""
_INVENTED = {bool: True, int: 3, float: 0.5}
_OWN_CODE = (str(Path(denseteacher.__file__).parent), str(Path(__file__).parents[1]))
_GPU = torch.device("cuda", 0)
_TASKS = count()
"""Numbers of calls of ``backward``."""


class PretendedCuda(TorchDispatchMode):
    """Sends what is on the GPU to a ``FakeTensorMode``, which must be active too, and leaves the rest to the CPU."""

    def __init__(self):
        super().__init__()
        self.waits = Counter()
        """How often the host waited, by place in the code and reason."""
        self.updated = 0
        """Parameters that an optimizer has had a gradient for."""
        self._pinned = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        onto = kwargs.get("device")
        onto = None if onto is None else torch.device(onto).type
        touched = any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs)))
        if not touched and onto != "cuda":
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        special = _SPECIAL.get(func._schema.name)
        if special is not None:
            return special(self, func, args, kwargs)
        return func(*args, **kwargs)

    def wait(self, reason):
        """Notes that the host waits here."""
        frame = sys._getframe(1)
        while frame is not None and (
            frame.f_code.co_filename == __file__ or not frame.f_code.co_filename.startswith(_OWN_CODE)
        ):
            frame = frame.f_back
        place = "?" if frame is None else f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_name}"
        self.waits[f"{place}: {reason}"] += 1

    def pin_memory(self, tensor, *_, **__):
        """In place of ``Tensor.pin_memory``: a copy whose memory counts as pinned."""
        with unset_fake_temporarily():
            pinned = tensor.clone()
        self._pinned[pinned.untyped_storage().data_ptr()] = pinned  # alive, or another could get its memory
        return pinned

    def is_pinned(self, tensor, *_, **__):
        """In place of ``Tensor.is_pinned``."""
        return tensor.numel() == 0 or tensor.untyped_storage().data_ptr() in self._pinned

    def receive(self, tensor, non_blocking):
        """Looks at how a tensor of the host goes to the GPU."""
        if not (non_blocking and self.is_pinned(tensor)):
            self.wait("copy of memory that is not pinned" if non_blocking else "blocking copy")


def _to_copy(gpu, func, args, kwargs):
    source, onto = args[0], kwargs.get("device")
    if not isinstance(source, FakeTensor):
        gpu.receive(source, kwargs.get("non_blocking"))
        with unset_fake_temporarily():
            like = func(source, **(kwargs | {"device": "meta", "non_blocking": False}))
        return torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=onto)
    if onto is None or torch.device(onto).type == "cuda":
        return func(*args, **kwargs)
    gpu.wait("copy to the host")
    with unset_fake_temporarily():
        return torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype)


def _copy(gpu, func, args, kwargs):
    target, source = args[:2]
    if not isinstance(target, FakeTensor):
        gpu.wait("copy to the host")
        return target
    if not isinstance(source, FakeTensor):
        gpu.receive(source, (args[2:] or [kwargs.get("non_blocking")])[0])
    return func(*args, **kwargs)


def _item(gpu, func, args, kwargs):
    gpu.wait("value")
    dtype = args[0].dtype
    return _INVENTED[bool if dtype == torch.bool else float if dtype.is_floating_point else int]


def _nonzero(gpu, func, args, kwargs):
    gpu.wait("nonzero")
    return torch.zeros(ROWS, args[0].ndim, dtype=torch.int64, device=args[0].device)


def _nms(gpu, func, args, kwargs):
    gpu.wait("nms")
    return torch.zeros(ROWS, dtype=torch.int64, device=args[0].device)


def _unique_consecutive(gpu, func, args, kwargs):
    gpu.wait("unique_consecutive")
    counts = torch.ones(ROWS, dtype=torch.int64, device=args[0].device)
    return args[0].new_zeros(ROWS), torch.zeros_like(args[0], dtype=torch.int64), counts


def _index(gpu, func, args, kwargs):
    """Reading or writing at index tensors, of which a mask is as many as it has dimensions, of unknown length."""
    indices, masks = [], 0
    for index in args[1]:
        if index is not None and index.dtype in (torch.bool, torch.uint8):
            masks += 1
            indices += [torch.zeros(ROWS, dtype=torch.int64, device=index.device)] * index.ndim
        else:
            indices.append(index)
    if any(index is not None and not isinstance(index, FakeTensor) and index.ndim for index in args[1]):
        gpu.wait("index from the host")
    if not masks:
        return func(*args, **kwargs)
    if masks == 1 and len(args) > 2 and args[2].numel() == 1:
        return func(*args, **kwargs)  # one value for all is written by masked_fill, which need not know how many
    gpu.wait("mask as an index")
    return func(args[0], indices, *args[2:], **kwargs)


def _fused_step(gpu, func, args, kwargs):
    """What an optimizer's kernel does for all parameters at once: here only the devices are looked at."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor) and leaf.ndim]
    found = {tensor.device for tensor in tensors}
    if found != {_GPU}:
        raise RuntimeError(f"{func} expects all tensors to be on the same device, not on {found}")
    gpu.updated += len(args[0])


_SPECIAL = {
    "aten::_to_copy": _to_copy,
    "aten::copy_": _copy,
    "aten::_local_scalar_dense": _item,
    "aten::nonzero": _nonzero,
    "aten::unique_consecutive": _unique_consecutive,
    "aten::index": _index,
    "aten::_unsafe_index": _index,
    "aten::index_put": _index,
    "aten::index_put_": _index,
    "aten::_index_put_impl_": _index,
    "aten::_fused_sgd_": _fused_step,
    "aten::_fused_adamw_": _fused_step,
    "torchvision::nms": _nms,
}
"""Operations that a fake tensor can't answer, or answers although a GPU would be waited for."""


@torch.no_grad()
def backward(tensors, *_, **__):
    """In place of ``torch.autograd.backward``, whose engine asks a GPU for its streams: node by node, in its order."""
    task = next(_TASKS)
    with patch.object(torch._C, "_current_graph_task_id", lambda: task):  # or a checkpoint runs again for every tensor
        _backward([tensors] if isinstance(tensors, Tensor) else tensors)


def _backward(roots):
    given = {}
    for root in roots:
        _give(given, root.grad_fn, root.output_nr, torch.ones_like(root))
    for node in _in_order(list(given)):
        gradients = given.pop(node, None)
        if gradients is None:  # nothing that it leads to was differentiated
            continue
        if hasattr(node, "variable"):
            leaf, gradient = node.variable, gradients[0]
            leaf.grad = gradient if leaf.grad is None else leaf.grad + gradient
            continue
        found = node(*gradients)
        found = found if isinstance(found, tuple) else (found,)
        for (following, place), gradient in zip(node.next_functions, found, strict=True):
            if following is not None and gradient is not None:
                _give(given, following, place, gradient)


def _give(given, node, place, gradient):
    """Adds a gradient to what a node is given, in the form that the node's own output had."""
    wanted = node._input_metadata[place]
    if gradient.device != wanted.device and gradient.ndim:
        raise RuntimeError(f"{node.name()} gets a gradient on device {gradient.device}, not on {wanted.device}")
    gradient = gradient.sum_to_size(wanted.shape).to(wanted.dtype)
    own = given.setdefault(node, [None] * len(node._input_metadata))
    own[place] = gradient if own[place] is None else own[place] + gradient


def _in_order(roots):
    """All nodes of a graph, each before those that its gradients go to."""
    order, seen, stack = [], set(), [(node, False) for node in roots]
    while stack:
        node, done = stack.pop()
        if done:
            order.append(node)
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(following, False) for following, _ in node.next_functions if following is not None]
    return order[::-1]


def _swap(first, second):
    """In place of ``torch.utils.swap_tensors``, which refuses tensors that a fake mode has an eye on."""
    first.__class__, second.__class__ = second.__class__, first.__class__
    own, other = dict(first.__dict__), dict(second.__dict__)
    for tensor, values in ((first, other), (second, own)):
        tensor.__dict__.clear()
        tensor.__dict__.update(values)
    torch._C._swap_tensor_impl(first, second)


@contextmanager
def pretended_cuda():
    """torch with one pretended GPU; what a real one and its caches hold stays untouched."""
    mode = PretendedCuda()
    stubs = {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "get_device_capability": lambda *_: (9, 0),
        "get_device_name": lambda *_: "NVIDIA H100 80GB HBM3",
        "is_bf16_supported": lambda including_emulation=True: True,
        "max_memory_allocated": lambda *_: 0,
        "synchronize": lambda *_: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda *_: None,
    }
    swapping = torch.__future__.get_swap_module_params_on_conversion()
    with ExitStack() as stack:
        enter = stack.enter_context
        # first, since it asks whether there is a real GPU, and if not makes torch do without its driver
        enter(FakeTensorMode(allow_non_fake_inputs=True, allow_fallback_kernels=False))
        for name, stub in stubs.items():
            enter(patch.object(torch.cuda, name, stub))
        enter(patch.object(fake_tensor, "init_gpu_context", lambda *_: None, create=True))
        enter(patch.object(Tensor, "pin_memory", lambda tensor, *_, **__: mode.pin_memory(tensor)))
        enter(patch.object(Tensor, "is_pinned", lambda tensor, *_, **__: mode.is_pinned(tensor)))
        enter(patch.object(torch.autograd, "backward", backward))
        enter(patch.object(torch.utils, "swap_tensors", _swap))
        for module, name in ((anchors, "_location_anchors"), (anchors, "_box_anchors")):
            enter(patch.object(module, name, anchors._kept(getattr(module, name).__wrapped__)))
        enter(patch.object(flip_ensemble, "_grid", lru_cache(flip_ensemble._grid.__wrapped__)))
        torch.__future__.set_swap_module_params_on_conversion(True)  # a module's parameters become fake where they are
        stack.callback(torch.__future__.set_swap_module_params_on_conversion, swapping)
        enter(mode)
        yield mode
