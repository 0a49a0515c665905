"""Calls of the matmul target as lowering will make them: attributes, and the types of buffers."""

import numpy as np

EPILOGS = (
    *("none", "relu", "gelu", "bias", "relu_bias", "gelu_bias", "relu_aux", "relu_aux_bias"),
    *("gelu_aux", "gelu_aux_bias", "drelu", "drelu_bgrad", "dgelu", "dgelu_bgrad"),
    *("bgrada", "bgradb"),
)


def attributes(nb=0, **changes):
    """Attributes of a plain row-major product; None leaves one out."""
    values = {
        "v": 1,
        "owner": 7,
        "batch": nb,
        "layout_a": np.arange(nb + 2),
        "layout_b": np.arange(nb + 3),
        "layout_c": np.arange(nb + 2) if changes.get("c") else np.array([], np.int64),
        "layout_d": np.arange(nb + 2),
        "conjugate_a": 0,
        "conjugate_b": 0,
        "compute_type": "float32",
        "scale_type": "float32",
        "epilog": "none",
        "c": 0,
        "c_type": "",
        "scalars": 0,
        "alpha": np.array([1.0, 0.0]),
        "beta": np.array([1.0 if changes.get("c") else 0.0, 0.0]),
        "scaling_a": "none",
        "scaling_b": "none",
        "scaling_d_out": "none",
        "scale_c": 0,
        "scale_d": 0,
        "scale_aux": 0,
        "result_amax": 0,
        "aux_amax": 0,
        "fast_accumulation": 0,
        "sm_count": 0,
        "reduction_mask": 7,
        "impl_mask": -1,
        "max_waves": 0.0,
        "algorithms": np.array([], np.uint64),
        "problems": np.array([], np.int64),
    }
    return {k: v for k, v in (values | changes).items() if v is not None}


def types(m, n, k, batch=(), dtype="float32", **options):
    """The operands and results of such a call, by `options` that say what differs.

    `a`, `b`, `c`, `bias`, `aux` and `grad` are batch dimensions if not `batch`; `c` may be
    (batch, rows).
    """
    epilog = options.get("epilog", "none")

    def dims(name, *rest):
        return (*options.get(name, batch), *rest)

    mask = "relu" in epilog
    aux = (
        ("uint8", dims("aux", m, -(-n // 128) * 16))
        if mask
        else (dtype, dims("aux", m, -(-n // 8) * 8))
    )
    operands = [(dtype, dims("a", m, k)), (dtype, dims("b", 1, k, n))]
    if "c" in options:
        c_batch, rows = options["c"]
        operands.append((dtype, (*c_batch, rows, n)))
    if epilog.endswith("bias"):
        operands.append((dtype, dims("bias", 1, n)))
    if epilog.startswith(("drelu", "dgelu")):
        operands.append(aux)
    results = [(dtype, (*batch, m, n))]
    if "_aux" in epilog:
        results.append(aux)
    if "bgrad" in epilog:
        results.append((dtype, dims("grad", m) if epilog == "bgrada" else dims("grad", 1, n)))
    return operands, results
