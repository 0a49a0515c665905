"""Questions to the library: which algorithms there are, and what they need."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import jax

from nvstate import _native
from nvstate._core import lower, placement
from nvstate._core.aval import Device
from nvstate.matmul import lowering, preferences
from nvstate.matmul.algorithm import Algorithm
from nvstate.matmul.arguments import error, unsupported

if TYPE_CHECKING:
    from nvstate.matmul.plan import MatmulPlan

Call = lower.Several
_RELAXED = {
    "workspace": "a larger `memory_limit`",
    "reduction_scheme_mask": "`reduction_scheme_mask=None`",
    "numerical_impl_mask": "`numerical_impl_mask=None`",
    "max_waves_count": "`max_waves_count=0.0`",
    "alignment": "operands at addresses of 16 bytes",
    "epilog": "no epilog: write it in `jax.numpy`",
}


def buffers(types: Any) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """Types as the native library takes them."""
    return tuple((str(t.dtype), tuple(t.shape)) for t in types)


def settled(call: Call, operands: Any, results: Any, device: int | None) -> lower.Settled:
    """The workspace of the algorithm that will run, and the call with that one named in it.

    Without a GPU here: the limit of the heuristic, which the library asks when it sees the buffers.
    A partitioned program multiplies smaller matrices on each device than are known here.
    """
    limit = bytes_limit(call)
    if device is None:
        return limit, call.attributes
    (one, *_) = candidates(call, buffers(operands), buffers(results), device, 1)
    attributes = dict(call.attributes)
    if not attributes["algorithms"]:
        # The library's own question would be limited by the buffer, so might be answered otherwise.
        attributes |= {"algorithms": one["data"], "problems": tuple(one["problem"])}
    return one["workspace"], tuple(attributes.items())


def bytes_limit(call: Call) -> int:
    """The most bytes of workspace that a call's plan allows."""
    return dict(call.hints).get("memory_limit", preferences.DEFAULT_LIMIT)


@functools.lru_cache(maxsize=256)
def candidates(call: Call, operands: Any, results: Any, device: int, limit: int) -> tuple[Any, ...]:
    """What is pinned for this very problem, else what the heuristic says, best first.

    Raises:
        UnsupportedError: there is none, and why.
    """
    told = lower.attributes_of(call)
    count = len(told["algorithms"]) // 8
    for i in range(count):
        data = told["algorithms"][8 * i : 8 * i + 8].tobytes()
        wanted = tuple(int(n) for n in told["problems"][4 * i : 4 * i + 4])
        own = tuple(_native.cublaslt_layout(told, operands, results)["problem"])
        if wanted != own:
            continue
        checked = _native.cublaslt_check(device, told, operands, results, data=data)
        if checked is None:
            raise refused(device)
        return (checked,)
    found = _native.cublaslt_heuristic(
        device, told, operands, results, workspace=bytes_limit(call), limit=limit
    )
    if not found:
        raise _none(call, operands, results, device)
    return tuple(found)


def refused(device: int) -> Exception:
    """What is said of a pinned algorithm that the library no longer takes."""
    return unsupported(
        "the pinned algorithm does not fit the problem on this device with this cuBLASLt",
        "an algorithm found here",
        f"cuda:{device}, cuBLASLt {version()}",
        "Tune again with `nvstate.autotune`, or plan without `algorithm`.",
    )


def _none(call: Call, operands: Any, results: Any, device: int) -> Exception:
    said = _native.cublaslt_diagnose(
        device, lower.attributes_of(call), operands, results, workspace=bytes_limit(call)
    )
    helps = [_RELAXED[name] for name in said["helps"]]
    return unsupported(
        "cuBLASLt has no algorithm for this product",
        "types, epilog, extents and preferences that it has one for",
        f"{', '.join(f'{d}{list(s)}' for d, s in operands)}: "
        f"{'; '.join(said['reasons']) or 'no reason given'}",
        f"What would help: {', or '.join(helps)}." if helps else "Nothing that was tried helps.",
    )


def version() -> str:
    """Version of cuBLASLt as text."""
    number = _native.cublaslt_version()
    return f"{number // 10000}.{number // 100 % 100}.{number % 100}"


def device_of(plan: MatmulPlan) -> Device | None:
    """The plan's CUDA device, or the first if the plan has no place; None if it is not here."""
    wanted = plan.placement.devices[0] if plan.placement else None
    here = placement.local_devices("cuda")
    return next((d for d in here if wanted in {None, placement.name(d)}), None)


def call_of(plan: MatmulPlan, choices: Any = None) -> tuple[Call, Any, Any]:
    """A plan's call, with the types of its operands and results."""
    spec, chosen = plan.spec, plan.choices if choices is None else choices
    structs = [jax.ShapeDtypeStruct(t.shape, t.dtype) for t in plan.matrices()]
    inner = plan.matrix_spec()

    def run(*operands: Any) -> Any:
        return lowering.cuda(inner, *operands, chosen)

    calls = lower.several_calls(run, *structs)
    if not calls:
        raise error(
            "a product without elements has no algorithms",
            "positive extents",
            f"M={spec.m}, N={spec.n}, K={spec.k}",
            "Leave it to XLA.",
        )
    return calls[0]


def _required(plan: MatmulPlan) -> Device:
    device = device_of(plan)
    if device is None:
        raise unsupported(
            "algorithms are found on a CUDA device",
            "a CUDA device of this process",
            "none",
            "Plan where the product will run. On CPUs there is one way.",
        )
    return device


def algorithms(plan: MatmulPlan, limit: int, choices: Any = None) -> tuple[Algorithm, ...]:
    """The heuristic's candidates for a plan, best first; or what it has pinned."""
    device = _required(plan)
    call, operands, results = call_of(plan, choices)
    found = candidates(call, buffers(operands), buffers(results), device.local_hardware_id, limit)
    return tuple(_algorithm(one, device) for one in found)


def _algorithm(candidate: Any, device: Device) -> Algorithm:
    return Algorithm(
        candidate["data"],
        tuple(candidate["problem"]),
        device.device_kind,
        _native.cublaslt_version(),
        candidate["workspace"],
        candidate["waves"],
    )


def checked(plan: MatmulPlan, algorithm: Algorithm) -> Algorithm:
    """The algorithm, if the library takes it for a plan.

    Raises:
        UnsupportedError: it does not.
    """
    device = _required(plan)
    call, operands, results = call_of(plan)
    told = lower.attributes_of(call)
    found = _native.cublaslt_check(
        device.local_hardware_id, told, buffers(operands), buffers(results), data=algorithm.data
    )
    if found is None:
        raise unsupported(
            "this algorithm does not fit the problem on this device with this cuBLASLt",
            f"one for {device.device_kind}, cuBLASLt {version()}",
            f"one from {algorithm.device or 'elsewhere'}, cuBLASLt {algorithm.version or ''}",
            "Tune again with `nvstate.autotune`, or plan without `algorithm`.",
        )
    return _algorithm(found, device)


def algorithm_ids(plan: MatmulPlan, limit: int = 8) -> tuple[int, ...]:
    """List the numbers of algorithms that may fit a plan's types.

    Args:
        plan: on a CUDA device.
        limit: the most that are listed.

    Returns:
        What `Algorithm.from_id` takes.

    Raises:
        UnsupportedError: no CUDA device.

    Example:
        >>> plan = nvs.matmul.plan(jnp.ones((8, 8)), jnp.ones((8, 8)))
        >>> nvs.matmul.algorithm_ids(plan)
        Traceback (most recent call last):
            ...
        nvstate.errors.UnsupportedError: nvstate.matmul: algorithms are found on a CUDA device
          expected: a CUDA device of this process
          got:      none
        Plan where the product will run. On CPUs there is one way.
    """
    device = _required(plan)
    call, operands, results = call_of(plan)
    return tuple(
        _native.cublaslt_algorithm_ids(
            device.local_hardware_id,
            lower.attributes_of(call),
            buffers(operands),
            buffers(results),
            limit=limit,
        )
    )


def from_id(plan: MatmulPlan, id: int) -> Algorithm:
    """The algorithm of this number, for a plan's problem."""
    device = _required(plan)
    call, operands, results = call_of(plan)
    data = _native.cublaslt_algorithm_init(
        device.local_hardware_id,
        lower.attributes_of(call),
        buffers(operands),
        buffers(results),
        id=id,
    )
    told = lower.attributes_of(call)
    layout = _native.cublaslt_layout(told, buffers(operands), buffers(results))
    kind = device.device_kind
    m, n, k, batch = layout["problem"]
    return Algorithm(data, (m, n, k, batch), kind, _native.cublaslt_version())
