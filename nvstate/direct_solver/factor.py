"""Factor, a factorization as a value: a plan, values, and a ticket to what the engine keeps."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nvstate._core import aval, dtypes

if TYPE_CHECKING:
    from nvstate.direct_solver.plan import SolverPlan

STATUS = ("ok", "perturbed", "breakdown", "not definite", "not finite")


class Numerics(NamedTuple):
    """What a factorization found in its values; arrays, also under `jit`.

    Attributes:
        status: int32 [], 0 ok; 1 perturbed: some pivots were replaced, and solutions are refined;
            2 breakdown: singular, or pivoting failed, where `matching="product"` may help; 3 not
            definite; 4 not finite. From 2 on x is NaN; with 1 that x is too which refinement does
            not bring to half of the digits. How good another is, tells `backward_error`.
        perturbed_pivots: int32 [].
        inertia: int32 [2], positive and negative eigenvalues; -1 where the engine has none.
        failing_pivot: int32 [], of a matrix that is not definite; -1 for none.
        lu_nnz: int64 [] with 64-bit types, else int32 [], which stops at its largest; entries of
            the factors, 0 if unknown.
    """

    status: Any
    perturbed_pivots: Any
    inertia: Any
    failing_pivot: Any
    lu_nnz: Any


jax.export.register_namedtuple_serialization(
    Numerics, serialized_name="nvstate.direct_solver.Numerics"
)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Factor:
    """A factorization, as a value: from `factorize`, for `solve`. A pytree.

    The values suffice to make it again: the ticket only spares that, as long as the engine's
    factorization is kept. So a factor may be indexed, sent, saved and differentiated.

    Attributes:
        plan: the plan, with its leaves.
        values: dtype [nnz], in the order of the stored entries.
        ticket: uint32 [8], which of the engine's factorizations these values' is.
        words: int32 [8], of which `info` is made.
    """

    plan: SolverPlan
    values: Any
    ticket: Any
    words: Any

    @property
    def info(self) -> Numerics:
        """What the factorization found in the values."""
        words = self.words
        low, high = words[..., 5], words[..., 6]
        if dtypes.is_enabled("float64"):
            lu_nnz = (high.astype("int64") << 32) | (low.astype("int64") & 0xFFFFFFFF)
        else:
            lu_nnz = jnp.where((high == 0) & (low >= 0), low, np.int32(2**31 - 1))
        return Numerics(words[..., 0], words[..., 1], words[..., 2:4], words[..., 4], lu_nnz)

    def __repr__(self) -> str:
        spec, words = self.plan.spec, self.words
        said = f"{spec.dtype}[{spec.n},{spec.n}] with {spec.nnz} entries, {spec.matrix_type}"
        if not aval.is_array(words) or isinstance(words, jax.ShapeDtypeStruct):
            return f"Factor({said})"
        batch = words.shape[:-1]
        said += f", batch {list(batch)}" if batch else ""
        if not aval.is_traced(words):
            worst = int(np.asarray(words)[..., 0].max(initial=0))
            said += f", {STATUS[worst] if 0 <= worst < len(STATUS) else f'status {worst}'}"
        return f"Factor({said})"


jax.tree_util.register_dataclass(
    Factor, data_fields=["plan", "values", "ticket", "words"], meta_fields=[]
)
jax.export.register_pytree_node_serialization(
    Factor,
    serialized_name="nvstate.direct_solver.Factor",
    serialize_auxdata=lambda _: b"",
    deserialize_auxdata=lambda _: (),
)
