"""The compiled rooms; everything else about the package stands in pyproject.toml."""

import os
from pathlib import Path

from Cython.Build import cythonize
from Cython.Compiler import Options
from setuptools import Extension, setup

cores = os.cpu_count() or 1
flags = ["-O2", "-g0"]
if os.environ.get("FASTCABLE_WERROR"):  # for the tests: every warning of Cython and of the C compiler is an error
    Options.warning_errors = True
    # What Cython writes has unused parameters and functions by design.
    flags += ["-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter", "-Wno-unused-function"]
    flags += ["-Wno-missing-field-initializers"]

setup(
    ext_modules=cythonize(
        [
            Extension(".".join(source.with_suffix("").parts), [str(source)], extra_compile_args=flags)
            for source in sorted(Path("fastcable").rglob("_*.pyx"))
        ],
        language_level=3,
        nthreads=cores,
    ),
    options={"build_ext": {"parallel": cores}},
)
