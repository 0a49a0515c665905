"""Which problems need which devices and versions of cuBLASLt."""

from __future__ import annotations

from nvstate._core.aval import Device, OperandType
from nvstate.matmul import table
from nvstate.matmul.arguments import unsupported
from nvstate.matmul.spec import MatmulSpec

# Of each scaling: the least compute capability, the first that no longer has it, the version.
_SCALINGS = {
    "tensor": ((8, 9), (99, 0), 120800),
    "outer": ((9, 0), (10, 0), 120900),
    "1x128": ((9, 0), (10, 0), 120900),
    "128x128": ((9, 0), (10, 0), 120900),
    "mxfp8": ((10, 0), (99, 0), 120800),
    "nvfp4": ((10, 0), (99, 0), 120800),
}
_COMPUTE = {"float32_emulated_bf16x9": 120900, "float64_emulated_fixedpoint": 130200}


def capability(device: Device) -> tuple[int, int]:
    """A CUDA device's compute capability."""
    major, minor = str(device.compute_capability).split(".")
    return int(major), int(minor)


def require(
    spec: MatmulSpec, at: tuple[int, int], version: int, c: OperandType | None = None
) -> None:
    """Refuse what a device or a version of cuBLASLt has not.

    Args:
        spec: of the product.
        at: compute capability of the device.
        version: of cuBLASLt, 130100 being 13.1.0.
        c: type of the operand, as a matrix.

    Raises:
        UnsupportedError: with what is needed and what was found.
    """
    here = f"{at[0]}.{at[1]}"
    for mode in dict.fromkeys((spec.scaling_a, spec.scaling_b)):
        if mode is None:
            continue
        least, end, needed = _SCALINGS[mode]
        if not least <= at < end:
            until = f", below {end[0]}.{end[1]}" if end[0] < 99 else ""
            raise unsupported(
                f'"{mode}" scaling on this device',
                f"compute capability {least[0]}.{least[1]} or newer{until}",
                here,
                "Pass another `block_scaling`, or convert the operands.",
            )
        _version(f'"{mode}" scaling', needed, version)
    if spec.compute_type in _COMPUTE:
        _version(f'compute type "{spec.compute_type}"', _COMPUTE[spec.compute_type], version)
    parts = spec.parts
    if spec.aux_dtype is not None and spec.aux_dtype != spec.result_dtype:
        what = f"gelu_aux of {spec.aux_dtype} with a result of {spec.result_dtype}"
        _version(what, 120800, version)
    if spec.k == 1 and parts.sums in ("bgrada", "bgradb"):
        _version(f'K = 1 with epilog "{spec.epilog}"', 120304, version)
    rows = c.shape[-2] if c is not None and len(c.shape) > 1 else 1
    if spec.n == 1 and spec.m > 1 and c is not None and rows == 1 and parts.bias:
        _version(f'N = 1 with a broadcast `c` and epilog "{spec.epilog}"', 120804, version)
    innermost = spec.a_dtype == "int8" or (spec.a_dtype in table.FP8 and at < (10, 0))
    if innermost:
        for name, flag, wanted in (("a", spec.transpose_a, False), ("b", spec.transpose_b, True)):
            if flag is not wanted:
                do = "Pass `b.mT` with `transpose_b=True`" if wanted else "Pass `a.mT` as `a`"
                raise unsupported(
                    f"K is not innermost in `{name}`",
                    f"{spec.a_dtype} operands [*batch, M, K] and [*batch, N, K]",
                    f"transpose_a={spec.transpose_a}, transpose_b={spec.transpose_b}",
                    f"{do}: inside `jit` the transposition fuses with what makes the operand.",
                )
    if spec.a_dtype == "int8" and (spec.k % 4 or spec.n % 4):
        raise unsupported(
            "int8 matrices of odd extents",
            "K and N multiples of 4",
            f"N={spec.n}, K={spec.k}",
            "Pad them with zeros.",
        )


def _version(what: str, needed: int, found: int) -> None:
    if found < needed:
        text = [f"{v // 10000}.{v // 100 % 100}.{v % 100}" for v in (needed, found)]
        raise unsupported(
            f"{what} needs a newer cuBLASLt",
            f"cuBLASLt {text[0]}",
            text[1],
            "Upgrade the wheel `nvidia-cublas`.",
        )
