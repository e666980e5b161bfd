"""Names of functions in any spelling, what they are about, and random numbers that depend on the
seed and a key alone."""

from __future__ import annotations

import hashlib
import random
import re

from toolprm_lite.tasks.plan_settings import PlanSettings
from toolprm_lite.tasks.problem import Problem

# Words that say nothing of what a function is about.
_COMMON_TEXT = """
    get set search find query fetch retrieve list show look lookup check create make add new
    generate calculate compute update modify delete remove cancel analyze analyse manage convert
    api data info information details detail value result by for of to from in on with and or the
    a an all tool function
"""
COMMON = frozenset(_COMMON_TEXT.split())


def key_of(name: str) -> str:
    """What a name is in any spelling: getWeather, get_weather and GetWeather are one."""
    return "".join(char for char in name.lower() if char.isalnum()) or name.lower()


def words_of(name: str) -> frozenset[str]:
    """The words of a name that say what it is about."""
    split = re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", name)
    words = re.findall(r"[^\W\d_]+", split.lower())
    return frozenset(stem(word) for word in words if word not in COMMON)


def alike(one: frozenset[str], other: frozenset[str]) -> bool:
    """Whether a tool may do what another does, by the words of their names: generatePassword,
    generate_random_password."""
    return one <= other or other <= one


def stem(word: str) -> str:
    """The word without a plural's s."""
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith("ss") else word


def right_names(problem: Problem) -> list[str]:
    """The keys of the functions that are right, each once."""
    return list(dict.fromkeys(key_of(answer["name"]) for answer in problem.answers))


def random_of(settings: PlanSettings, *what: object) -> random.Random:
    """Random numbers that depend on the seed and on `what` they are for."""
    return random.Random(":".join(map(str, (settings.seed, *what))))


def fraction(key: str) -> float:
    """A number in 0 .. 1 that depends on the key alone."""
    digest = hashlib.sha256(key.encode("utf-8", "replace")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
