"""Calls of cuDSS's targets as lowering will make them: attributes, fingerprints and operands."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from nvstate import _native

NAN = float("nan")
MASK = (1 << 64) - 1
LANES = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)


def digest(words):
    """The page's digest, in NumPy, of 64-bit words."""
    words = np.asarray(words)
    words = words if words.dtype == np.uint64 else words.astype(np.int64).view(np.uint64)
    steps = np.arange(1, len(words) + 1, dtype=np.uint64)
    lanes = []
    for lane in LANES:
        z = words + steps * np.uint64(lane)
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
        lanes.append(z.sum(dtype=np.uint64))
    return np.array(lanes, np.uint64)


def reference_digest(values):
    values = np.ascontiguousarray(values)
    step = np.uint32 if values.dtype == np.float32 else np.uint64
    return digest(np.concatenate([np.array([values.size], np.uint64), values.view(step)]))


def attributes(**changes):
    """Attributes of a factorization of a general matrix; None leaves one out."""
    none = np.zeros(2, np.uint64)
    values = {
        "v": 1,
        "phase": "factorize",
        "transposed": 0,
        "owner": 7,
        "ring": "test",
        "pattern": none,
        "reference": none,
        "permutation": none,
        "tree": np.zeros(0, np.uint64),
        "matrix_type": "general",
        "view": "full",
        "reordering": "auto",
        "matching": "none",
        "pivoting": "auto",
        "pivot_threshold": NAN,
        "pivot_epsilon": NAN,
        "refinement_steps": -1,
        "reuse_pivots": 0,
        "deterministic": 0,
        "slots": 2,
        "on_stale": "refactorize",
        "host_threads": 0,
        "hybrid_memory": "",
        "hybrid_execute": 0,
        "nd_levels": -1,
        "nd_unbalance": -1,
        "superpanels": -1,
        "max_lu_nnz": -1,
        "factorization_algorithm": "default",
        "solve_algorithm": "default",
        "pivot_epsilon_algorithm": "default",
        "refinement_tolerance": NAN,
        "register_host_memory": -1,
    }
    return {k: v for k, v in (values | changes).items() if v is not None}


def prints(values):
    """A fingerprint of each row: two lanes of position-dependent words, and whether not finite."""
    parts = jnp.stack([values.real, values.imag], -1) if jnp.iscomplexobj(values) else values
    bits = jax.lax.bitcast_convert_type(parts, jnp.uint32)
    bits = bits.reshape(values.shape[0], math.prod(bits.shape[1:]))
    place = 2 * jnp.arange(bits.shape[1], dtype=jnp.uint32) + 1
    one = jnp.sum(bits * place, axis=1, dtype=jnp.uint32)
    two = jnp.sum((bits ^ (bits >> 13)) * (place ^ 0x9E3779B9), axis=1, dtype=jnp.uint32)
    bad = jnp.any(~jnp.isfinite(values), axis=1).astype(jnp.uint32)
    return jnp.stack([one, two, bad, jnp.zeros_like(bad)], axis=1)


class System:
    """A pattern in SciPy's CSR, and the calls of its plan. Batches are [B, nnz] and [B, k, n]."""

    count = 0

    def __init__(self, a, *, index=np.int32, offset=np.int32, permutation=None, **options):
        a = a.tocsr()
        a.sort_indices()
        self.n, self.nnz = a.shape[0], a.nnz
        self.indptr, self.indices = a.indptr.astype(offset), a.indices.astype(index)
        reference = options.pop("reference", None)
        self.reference = np.zeros(0, a.dtype) if reference is None else np.asarray(reference)
        self.permutation = np.asarray([] if permutation is None else permutation, np.int32)
        self.dtype = a.dtype
        System.count += 1
        words = {"pattern": digest([self.n, self.nnz, *self.indptr, *self.indices])}
        if len(self.reference):
            words["reference"] = reference_digest(self.reference)
        if len(self.permutation):
            words["permutation"] = digest([self.n, *self.permutation])
        self.attributes = attributes(ring=f"{System.count}", owner=System.count, **words, **options)

    def analyze(self):
        return _native.solver_analyze(
            "cudss",
            0,
            self.attributes,
            self.indptr,
            self.indices,
            np.dtype(self.dtype).name,
            permutation=self.permutation,
            reference=self.reference,
        )

    def call(self, results, operands, target="nvstate_cudss_v1", **changes):
        pattern = [self.indptr, self.indices, self.permutation, self.reference]
        types = [jax.ShapeDtypeStruct(dims, dtype) for dims, dtype in results]
        function = jax.ffi.ffi_call(target, types)
        return function(*map(jnp.asarray, pattern), *operands, **(self.attributes | changes))

    def outcome(self, batch):
        return [((batch, 8), np.uint32), ((batch, 8), np.int32)]

    def factorize(self, values, **changes):
        """Ticket and info."""
        operands = [values, prints(values), self.probe(values)]
        return self.call(self.outcome(len(values)), operands, phase="factorize", **changes)

    def solve(self, values, ticket, b, **changes):
        """X."""
        check = jnp.concatenate([ticket, prints(values)], axis=1)
        results = [(b.shape, b.dtype)]
        return self.call(results, [values, check, b], phase="solve", **changes)[0]

    def solve_or_nan(self, values, ticket, b):
        """x, with on_stale="nan" and what XLA makes of the hidden result."""
        check = jnp.concatenate([ticket, prints(values)], axis=1)
        results = [(b.shape, b.dtype), ((len(values), 4), np.uint32)]
        x, held = self.call(results, [values, check, b], phase="solve", on_stale="nan")
        same = jnp.all(held == jnp.concatenate([ticket[:, 4:6], check[:, 8:10]], axis=1), axis=1)
        return jnp.where(same[:, None, None], x, jnp.nan)

    def factorize_solve(self, values, b, **changes):
        """x, ticket and info."""
        results = [(b.shape, b.dtype), *self.outcome(len(values))]
        operands = [values, prints(values), self.probe(values), b]
        return self.call(results, operands, phase="factorize_solve", **changes)

    def probe(self, values):
        """Nothing: the handler itself then computes what a probe must solve."""
        return jnp.zeros((len(values), 0), values.dtype)

    def diagonal(self, values, ticket):
        check = jnp.concatenate([ticket, prints(values)], axis=1)
        results = [((len(values), self.n), values.dtype)]
        return self.call(results, [values, check], phase="diagonal")[0]

    def fused(self, values, b, **changes):
        return self.call([(b.shape, b.dtype)], [values, b], phase="fused", **changes)[0]

    def matrix(self, values, *, transposed=False):
        """What a row of stored values means, as SciPy's CSC."""
        import scipy.sparse as sp

        m = sp.csr_matrix((np.asarray(values), self.indices, self.indptr), (self.n, self.n))
        kind, view = self.attributes["matrix_type"], self.attributes["view"]
        if kind != "general":
            one = sp.tril(m, -1) if view == "lower" else sp.triu(m, 1)
            conjugate = kind in ("hermitian", "hpd")
            m = one + (one.conj().T if conjugate else one.T) + sp.diags(m.diagonal())
        return (m.T if transposed else m).tocsc()

    def expected(self, values, b, *, transposed=False):
        """[k, n] by SciPy's SuperLU in double precision."""
        from scipy.sparse.linalg import splu

        wide = np.result_type(self.dtype, np.float64)
        lu = splu(self.matrix(values, transposed=transposed).astype(wide))
        return lu.solve(np.ascontiguousarray(np.asarray(b).astype(wide).T)).T
