"""MatmulSpec, the product as data."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from nvstate._core.aval import OperandType
from nvstate._core.spec import Spec, digest
from nvstate.matmul import arguments, epilog as epilogs, scaling, table
from nvstate.matmul.arguments import ComputeType, Epilog, ScaleType, Scaling

OPERAND = "operand"  # of alpha and beta: an array of every call


class MatmulResult(NamedTuple):
    """The results of a product that has more than D; None where the epilog gives none.

    Attributes:
        d: [*batch, M, N].
        relu_aux: uint8 [*batch, M, 16·⌈N/128⌉]; bit n, low bit first, is z > 0.
        gelu_aux: [*batch, M, 8·⌈N/8⌉]; z, what lies beyond N is unspecified.
        drelu_bgrad: [*batch, N]; Σ_m D.
        dgelu_bgrad: [*batch, N]; Σ_m D.
        bgrada: [*batch of a, M]; Σ_k op(A).
        bgradb: [*batch of b, N]; Σ_k op(B).
        result_amax: float32 []; max abs(f(z)).
        gelu_aux_amax: float32 []; max abs(z).
        d_out_scale: the scales of a D of 8 bits or less under block scaling.
    """

    d: Any
    relu_aux: Any = None
    gelu_aux: Any = None
    drelu_bgrad: Any = None
    dgelu_bgrad: Any = None
    bgrada: Any = None
    bgradb: Any = None
    result_amax: Any = None
    gelu_aux_amax: Any = None
    d_out_scale: Any = None


jax.export.register_namedtuple_serialization(
    MatmulResult, serialized_name="nvstate.matmul.MatmulResult"
)


@dataclasses.dataclass(frozen=True)
class MatmulSpec(Spec):
    """D = f(α s_a s_b op(A) op(B) + β C + bias); whatever precedes the matrices is batch.

    Attributes:
        m: rows of op(A) and D; 1 for an `a` of one axis.
        n: columns of op(B) and D; 1 for a `b` of one axis.
        k: columns of op(A), rows of op(B).
        a_dtype: of `a`.
        b_dtype: of `b`.
        c_dtype: of `c`; None without it.
        result_dtype: of D.
        compute_type: what products are summed in.
        scale_type: of α and β.
        alpha: a number as text, or "operand".
        beta: the same; None without `c`.
        epilog: what is done to the sum; None: nothing.
        aux_dtype: of gelu_aux; None without it.
        transpose_a: whether `a` is stored [..., K, M].
        transpose_b: whether `b` is stored [..., N, K].
        conjugate_a: whether `a` is conjugated.
        conjugate_b: whether `b` is conjugated.
        scaling_a: which elements of `a` share a scale; None: there are no scales.
        scaling_b: the same of `b`.
        scale_d: whether D is multiplied with a scale.
        scale_aux: whether gelu_aux is.
        result_amax: whether max abs(f(z)) is a result.
        aux_amax: whether max abs(z) is.
        inplace: whether D takes the memory of `c`.
        vectors: "a", "b" or "ab": the operands of one axis, which D does not have.
    """

    m: int
    n: int
    k: int
    a_dtype: str
    b_dtype: str
    c_dtype: str | None
    result_dtype: str
    compute_type: ComputeType
    scale_type: ScaleType
    alpha: str = "1.0"
    beta: str | None = None
    epilog: Epilog | None = None
    aux_dtype: str | None = None
    transpose_a: bool = False
    transpose_b: bool = False
    conjugate_a: bool = False
    conjugate_b: bool = False
    scaling_a: Scaling | None = None
    scaling_b: Scaling | None = None
    scale_d: bool = False
    scale_aux: bool = False
    result_amax: bool = False
    aux_amax: bool = False
    inplace: bool = False
    vectors: str = ""

    @functools.cached_property
    def parts(self) -> epilogs.Parts:
        """The epilog, taken apart."""
        return epilogs.parts(self.epilog)

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the operands, in the order of a call: those of this problem."""
        there = {
            "a": True,
            "b": True,
            "c": self.c_dtype is not None,
            "bias": self.parts.bias,
            "relu_aux": self.parts.takes == "relu_aux",
            "gelu_aux": self.parts.takes == "gelu_aux",
            "alpha": self.alpha == OPERAND,
            "beta": self.beta == OPERAND,
            "scale_a": self.scaling_a is not None,
            "scale_b": self.scaling_b is not None,
            "scale_d": self.scale_d,
            "scale_aux": self.scale_aux,
        }
        return tuple(name for name, is_there in there.items() if is_there)

    @functools.cached_property
    def result_names(self) -> tuple[str, ...]:
        """Names of the results, in the order of `MatmulResult`."""
        there = {
            "d": True,
            self.parts.gives: True,
            self.parts.sums: True,
            "result_amax": self.result_amax,
            "gelu_aux_amax": self.aux_amax,
            "d_out_scale": self.scaling_d is not None,
        }
        return tuple(name for name in MatmulResult._fields if there.get(name))

    @property
    def family(self) -> int:
        """Shared by a product, its derivatives and its batches."""
        return digest("matmul", sorted((self.m, self.n, self.k)))

    @property
    def bias_dtype(self) -> str:
        """Dtype of the bias."""
        return table.bias_type(self.result_dtype, self.c_dtype, self.a_dtype)

    @property
    def scaling_d(self) -> Scaling | None:
        """How a D of 8 bits or less is scaled under block scaling, with scales as a result."""
        blocks = self.scaling_a in ("mxfp8", "nvfp4") and self.result_dtype in table.NARROW
        return self.scaling_a if blocks else None

    def core(self, name: str) -> tuple[int, ...]:
        """Shape of an operand or result, without its batch; of `c`, where it is full."""
        m, n, k = self.m, self.n, self.k
        if name == "a":
            return (k,) if "a" in self.vectors else (k, m) if self.transpose_a else (m, k)
        if name == "b":
            return (k,) if "b" in self.vectors else (n, k) if self.transpose_b else (k, n)
        if name in ("c", "d"):
            return ("a" not in self.vectors) * (m,) + ("b" not in self.vectors) * (n,)
        if name in ("relu_aux", "gelu_aux"):
            return (m, epilogs.aux_length(name, n))
        if name == "scale_a":
            return scaling.packed_shape(self.scaling_a or "tensor", m, k)
        if name == "scale_b":
            return scaling.packed_shape(self.scaling_b or "tensor", n, k)
        if name == "d_out_scale":
            return scaling.packed_shape(self.scaling_d or "tensor", m, n)
        if name in ("bias", "drelu_bgrad", "dgelu_bgrad", "bgradb"):
            return (n,)
        return (m,) if name == "bgrada" else ()

    def dtype(self, name: str) -> str:
        """Dtype of an operand or result."""
        if name in ("a", "b", "c"):
            return getattr(self, f"{name}_dtype")
        if name in ("alpha", "beta"):
            return self.scale_type
        if name in ("scale_a", "scale_b"):
            return scaling.dtype_of(getattr(self, f"scaling_{name[-1]}"))
        if name == "d_out_scale":
            return scaling.dtype_of(self.scaling_d or "tensor")
        if name.startswith("scale") or name.endswith("amax"):
            return "float32"
        if name == "relu_aux":
            return "uint8"
        if name == "gelu_aux":
            return str(self.aux_dtype)
        return self.bias_dtype if name == "bias" else self.result_dtype

    def batch(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The batch axes of an operand of this shape; of `c`, those beyond D's matrix."""
        return tuple(shape[: max(len(shape) - len(self.core(name)), 0)])

    def batches(self, shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
        """The batch axes of D, from the shapes of the operands by name."""
        having = ("a", "b", "c", "bias", "relu_aux", "gelu_aux")
        return np.broadcast_shapes(
            *(self.batch(name, shape) for name, shape in shapes.items() if name in having)
        )

    def result_shapes(self, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Shapes of the results by name, from those of the operands."""
        batch = self.batches(shapes)
        own = {"bgrada": "a", "bgradb": "b"}  # sums over an operand have its batch axes
        return {
            name: ()
            if name.endswith("amax")
            else (
                *(self.batch(own[name], shapes[own[name]]) if name in own else batch),
                *self.core(name),
            )
            for name in self.result_names
        }

    def result_types(self, types: tuple[OperandType, ...]) -> dict[str, OperandType]:
        """Types of the results by name, from those of the operands."""
        shapes = {name: t.shape for name, t in zip(self.names, types, strict=True)}
        is_open = any(t.open for t in types)
        return {
            name: OperandType(shape, self.dtype(name), is_open and not name.endswith("amax"))
            for name, shape in self.result_shapes(shapes).items()
        }

    def open_types(self) -> tuple[OperandType, ...]:
        """Operands with any batch axes."""
        single = ("alpha", "beta", "scale_d", "scale_aux")
        return tuple(
            OperandType(
                self.core(name),
                self.dtype(name),
                name not in single and getattr(self, f"scaling_{name[-1]}", None) != "tensor"
                if name.startswith("scale")
                else name not in single,
            )
            for name in self.names
        )

    def accepts(self, planned: tuple[OperandType, ...], got: tuple[OperandType, ...]) -> bool:
        """Equal types; of a plan made from a spec alone, any batch axes that broadcast."""
        if planned == got:
            return True
        if not any(t.open for t in planned):
            return False
        shapes = {name: t.shape for name, t in zip(self.names, got, strict=True)}
        for name, t in zip(self.names, got, strict=True):
            core = self.core(name)
            if t.dtype != self.dtype(name):
                return False
            if name == "c":
                continue
            if name in ("alpha", "beta", "scale_d", "scale_aux"):
                if t.size != 1 or len(t.shape) > 1:
                    return False
            elif t.shape[len(t.shape) - len(core) :] != core:
                return False
        try:
            d = self.result_shapes(shapes)["d"]
            full = self.c_dtype is None or np.broadcast_shapes(d, shapes["c"]) == d
        except ValueError:
            return False
        return full and not (self.inplace and shapes["c"] != d)

    def keywords(self) -> dict[str, Any]:
        """The keywords of `spec` that say this problem, but for those that are arrays."""
        narrow = self.scaling_a is not None
        said: dict[str, Any] = {
            "alpha": None if self.alpha == OPERAND else arguments.number(self.alpha),
            "beta": None if self.beta in (OPERAND, None) else arguments.number(self.beta),
            "epilog": self.epilog,
            "compute_type": self.compute_type,
            "scale_type": self.scale_type,
            "result_dtype": self.result_dtype,
            "aux_dtype": self.aux_dtype if self.parts.gives == "gelu_aux" else None,
            "block_scaling": (self.scaling_a, self.scaling_b) if narrow else None,
        }
        flags = ("transpose_a", "transpose_b", "conjugate_a", "conjugate_b")
        for name in (*flags, "result_amax", "aux_amax", "inplace"):
            said[name] = getattr(self, name)
        return {k: v for k, v in said.items() if v is not None}
