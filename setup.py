"""Builds the native core.

TOOLPRM_SANITIZE=1 builds it with the address and undefined-behaviour sanitizers, TOOLPRM_WERROR=1
turns warnings into errors, TOOLPRM_DEBUG=1 keeps assertions and symbols.
"""

import os
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension, build_ext
from setuptools import setup


def switched_on(name: str) -> bool:
    return os.environ.get(name, "0") not in ("", "0")


flags = ["-Wall", "-Wextra", "-fvisibility=hidden"]
link_flags = []
if switched_on("TOOLPRM_SANITIZE"):
    flags += ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]
    flags += ["-UNDEBUG", "-fno-omit-frame-pointer"]
    link_flags += ["-fsanitize=address,undefined"]
elif switched_on("TOOLPRM_DEBUG"):
    flags += ["-O0", "-g", "-UNDEBUG"]
else:
    flags += ["-O3", "-DNDEBUG"]
if switched_on("TOOLPRM_WERROR"):
    flags += ["-Werror"]
if os.name == "nt":
    flags, link_flags = ["/O2", "/W3"], []

setup(
    ext_modules=[
        Pybind11Extension(
            "toolprm_lite._core",
            sorted(str(path) for path in Path("csrc").rglob("*.cpp")),
            depends=sorted(str(path) for path in Path("csrc").rglob("*.h")),
            include_dirs=["csrc"],
            cxx_std=17,
            extra_compile_args=flags,
            extra_link_args=link_flags,
        )
    ],
    cmdclass={"build_ext": build_ext},
)
