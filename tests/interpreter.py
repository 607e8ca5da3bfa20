"""Make Triton's interpreter five times faster for the tests: do once what it repeats at each call. No result changes,
except those of a reduction with a combine function, which is a tree here, as on a GPU."""

import inspect

import numpy as np
from triton.language import core
from triton.runtime import interpreter


def _patch_once(patch):
    """Skip the patch if the caller has made it: Triton patches the whole language at each call of a device function."""

    def patched(fn):
        modules = [value for value in fn.__globals__.values() if value in (interpreter.tl, core)]
        if modules and not any(core.is_builtin(module.load) for module in modules):
            return interpreter._LangPatchScope()
        return patch(fn)

    return patched


def _cached(find):
    """Cache the results: Triton builds its table of dtypes at each lookup."""
    known = {}

    def found(of):
        if type(of) is not core.dtype:  # pointers and blocks have no hash
            return find(of)
        if of.name not in known:
            known[of.name] = find(of)
        return known[of.name]

    return found


def _reduce_as_tree(self, inputs):
    """Combine halves of whole arrays: Triton calls the combine function once for each element, in Python."""
    whole = self.axis is None
    arrays = [np.ravel(x.handle.data) if whole else np.moveaxis(x.handle.data, self.axis, 0) for x in inputs]
    dtypes = [x.dtype for x in inputs]
    while (n := arrays[0].shape[0]) > 1:
        half = n // 2  # blocks are powers of two
        sides = [self.to_tensor(a[part], t) for part in (slice(half), slice(half, n)) for a, t in zip(arrays, dtypes)]
        combined = self.combine_fn.fn(*sides)
        combined = combined if isinstance(combined, (tuple, core.tuple)) else (combined,)
        arrays = [np.asarray(x.handle.data).reshape(half, *a.shape[1:]) for x, a in zip(combined, arrays)]
    outputs = []
    for x, a, dtype in zip(inputs, arrays, dtypes):
        data = a[0]
        if self.keep_dims:
            data = data.reshape([1] * len(x.shape)) if whole else np.expand_dims(data, self.axis)
        outputs.append(self.to_tensor(data, dtype))
    return outputs


def _masks_stay_masks(splat):
    """Keep the comparison of two scalars boolean: Triton 3.9 makes it an integer, which it refuses as a mask."""

    def spread(self, ret_ty, arg):
        if arg.data.dtype != np.bool_:
            return splat(self, ret_ty, arg)
        return interpreter.TensorHandle(np.full(ret_ty.shape, arg.data), core.int1)

    return spread


def speed_up():
    """Replace the functions that this version of Triton has."""
    splat = getattr(getattr(interpreter, "InterpreterBuilder", None), "create_splat", None)
    if splat is not None and list(inspect.signature(splat).parameters) == ["self", "ret_ty", "arg"]:
        interpreter.InterpreterBuilder.create_splat = _masks_stay_masks(splat)
    if hasattr(interpreter, "_LangPatchScope") and hasattr(interpreter, "_patch_lang"):
        interpreter._patch_lang = _patch_once(interpreter._patch_lang)
    if hasattr(interpreter, "_get_np_dtype"):
        interpreter._get_np_dtype = _cached(interpreter._get_np_dtype)
    interpreter.ReduceOps.generic_reduce = _reduce_as_tree
