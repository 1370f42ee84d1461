import tests.shapes  # noqa: F401  (what --jaxtyping-packages names; jaxtyping imports `tests` alone)
