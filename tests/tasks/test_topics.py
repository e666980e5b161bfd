"""Whether a tool may do what another one does, by their words."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from toolprm_lite.prompt import parse_messages
from toolprm_lite.tasks.offered import by_source, foreign_tools, pools
from toolprm_lite.tasks.plan_settings import PlanSettings
from toolprm_lite.tasks.problem import Problem
from toolprm_lite.tasks.topics import Topics, topic_of, topic_of_tool
from toolprm_lite.tools import Tool

PARAMETERS = {"type": "object", "properties": {"place": {"type": "string"}}}


def tool(name: str, description: str) -> Tool:
    return Tool(name, description, PARAMETERS)


RIGHT = tool("get_weather", "Returns the forecast of temperature and rain for a place.")
SAME = tool("meteo", "Temperature and rain of the coming days.")
ASKED = tool("umbrella_adviser", "Says whether to carry an umbrella.")
OTHERS = [
    tool("play_song", "Plays a song by its title."),
    tool("convert_money", "Converts an amount between currencies."),
    tool("book_table", "Books a table in a restaurant, for a number of guests."),
    tool("send_mail", "Sends a mail to a person."),
]
POOL = [RIGHT, SAME, ASKED, *OTHERS]
QUESTION = "Will it rain in Oslo tomorrow? Should I carry an umbrella?"


def test_topics_are_content_words() -> None:
    assert topic_of("getCities") == topic_of("the city") == topic_of("of a CITY")
    assert topic_of("get_the_of") == frozenset()
    assert topic_of("Booking tables") == topic_of("book_table")


@pytest.mark.parametrize(
    ("offered", "may"),
    [(RIGHT, True), (SAME, True), (ASKED, True), *((other, False) for other in OTHERS)],
    ids=lambda value: getattr(value, "name", None),
)
def test_what_may_answer(offered: Tool, may: bool) -> None:
    topics = Topics(topic_of_tool(one) for one in POOL)
    found = topics.may_answer(topic_of_tool(offered), [topic_of_tool(RIGHT)], [topic_of(QUESTION)])
    assert found == may


def test_rare_words_weigh_more() -> None:
    many = [topic_of(f"place number {n}") for n in range(20)]
    topics = Topics([*many, topic_of("place umbrella")])
    one = topic_of("umbrella place sunshade")
    assert topics.overlap(one, topic_of("umbrella parasol")) > topics.overlap(
        one, topic_of("place parasol")
    )
    assert topics.overlap(one, one) == 1
    assert topics.overlap(one, frozenset()) == 0


def asked(identity: str, source: str, right: Tool, question: str) -> Problem:
    answers = [{"name": right.name, "arguments": {"place": "Oslo"}}]
    return Problem(identity, source, parse_messages(question), [right], answers)


def offered_to(pool: list[Tool], seed: int) -> list[Tool] | None:
    settings = PlanSettings(max_tools=8)
    problem = asked("p", "own", RIGHT, QUESTION)
    known = [problem, *(asked(one.name, "other", one, "x") for one in pool)]
    side = pools(known, dict.fromkeys((p.answers[0]["name"].replace("_", "") for p in known), 0),
                 settings)[0]  # fmt: skip
    topics = Topics(pooled.topic for pooled in side)
    return foreign_tools([problem], by_source(side), topics, 0, random.Random(seed), settings)


def test_refusals_offer_no_tool_that_may_answer() -> None:
    names: set[str] = set()
    for seed in range(20):
        found = offered_to(POOL[1:], seed)
        assert found
        names |= {one.name for one in found}
    assert names == {other.name for other in OTHERS}


def test_no_refusal_where_all_tools_may_answer() -> None:
    assert offered_to([SAME, ASKED], 0) is None
    assert offered_to([SAME, replace(ASKED, description="Tells jokes.", name="joker")], 0)
