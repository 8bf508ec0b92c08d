"""What a load consists of: graphs, texts, and who tweets what."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import pytest

from loadtest import graphs, texts
from loadtest.graphs import Graph, GraphError
from loadtest.loader import STRETCH, Plan
from loadtest.texts import TextError, Writer


class TestRead:
    def test_edges_once_each_in_their_order(self, tmp_path: Path) -> None:
        path = tmp_path / "graph.txt"
        path.write_text("# from to\n% konect\n\n7 2\n2\t7\n7,9\n7 2\n5 5\n  9 2 1.5 1234\n")
        graph = graphs.read(path)
        assert list(graph.edges) == [(7, 2), (2, 7), (7, 9), (9, 2)]
        assert list(graph.nodes) == [2, 7, 9], "a node that only follows itself is nobody"

    @pytest.mark.parametrize("line", ["1", "a b", "1 b", "1.5 2", "-1 2", "1;2", "1 " + "9" * 13, "\ufffd\ufffd"])
    def test_a_line_that_is_no_edge_is_named(self, tmp_path: Path, line: str) -> None:
        path = tmp_path / "graph.txt"
        path.write_text(f"1 2\n{line}\n")
        with pytest.raises(GraphError, match=r"graph\.txt:2: expected two node numbers"):
            graphs.read(path)

    @pytest.mark.parametrize("content", [b"", b"# 1 2\n", b"3 3\n", b"\n\n"])
    def test_a_file_without_an_edge(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "graph.txt"
        path.write_bytes(content)
        with pytest.raises(GraphError, match="holds no edge"):
            graphs.read(path)

    def test_a_file_that_is_no_text(self, tmp_path: Path) -> None:
        path = tmp_path / "graph.txt"
        path.write_bytes(bytes(range(256)))
        with pytest.raises(GraphError, match="expected two node numbers"):
            graphs.read(path)


class TestGenerate:
    def test_the_same_for_the_same_seed(self) -> None:
        assert graphs.generate(50, 3, 1) == graphs.generate(50, 3, 1)
        assert graphs.generate(50, 3, 1) != graphs.generate(50, 3, 2)

    def test_nearly_everybody_follows_the_celebrities(self) -> None:
        followers = Counter(followed for _, followed in graphs.generate(200, 3).edges)
        assert all(followers[star] > 150 for star in (1, 2, 3))
        assert followers[100] < 50

    @pytest.mark.parametrize(("users", "celebrities"), [(2, 0), (2, 2), (3, 1), (100, 100)])
    def test_nobody_follows_oneself_or_twice(self, users: int, celebrities: int) -> None:
        graph = graphs.generate(users, celebrities)
        assert len(set(graph.edges)) == len(graph.edges)
        assert all(a != b and {a, b} <= set(graph.nodes) for a, b in graph.edges)

    def test_the_most_followed_come_first(self) -> None:
        graph = Graph([1, 2, 3, 4], [(1, 3), (2, 3), (1, 2)])
        assert graph.by_followers() == [3, 2, 1, 4]


class TestTexts:
    def test_the_first_column_without_blanks(self, tmp_path: Path) -> None:
        path = tmp_path / "texts.tsv"
        path.write_text(f"hello\t1\tx\n \t2\n\nünï 🎉\n{'x' * 500}\n")
        assert texts.read(path) == ["hello", "ünï 🎉", "x" * texts.LONGEST]

    @pytest.mark.parametrize("content", [b"", b"\n\t\t\n"])
    def test_a_file_without_a_text(self, tmp_path: Path, content: bytes) -> None:
        path = tmp_path / "texts.tsv"
        path.write_bytes(content)
        with pytest.raises(TextError, match="holds no text"):
            texts.read(path)

    def test_a_writer_repeats_itself(self) -> None:
        writers = [Writer(texts.made_up(), lambda dice: f"u{dice.randrange(9)}", 3) for _ in range(2)]
        written = [[writer.write(number) for number in range(500)] for writer in writers]
        assert written[0] == written[1]
        assert 50 < sum(text.startswith("@u") for text in written[0]) < 150
        assert 40 < sum("#" in text for text in written[0]) < 120


class TestPlan:
    def test_the_most_followed_tweet_most(self) -> None:
        graph = graphs.generate(50, 1)
        plan = Plan(graph, 2000)
        tweets = Counter(plan.author(number) for number in range(plan.count))
        ranked = graph.by_followers()
        assert tweets.most_common(1)[0][0] == ranked[0]
        assert 2000 / 4.5 * 0.7 < tweets[ranked[0]] < 2000 / 4.5 * 1.3, "1 / H(50) = 1 / 4.5"

    def test_replies_answer_an_earlier_tweet_that_stands_for_itself(self) -> None:
        plan = Plan(graphs.generate(10, 1), 3000)
        answers = {number: plan.answers(number) for number in range(3000)}
        replies = {number: answered for number, answered in answers.items() if answered is not None}
        assert 200 < len(replies) < 400
        assert all(answered < number and answers[answered] is None for number, answered in replies.items())
        assert plan.answers(STRETCH) is None

    def test_it_is_the_same_each_time_and_another_for_another_seed(self) -> None:
        graph = graphs.generate(20, 1)
        numbers = random.Random(1).sample(range(1000), 50)
        first, same, other = Plan(graph, 1000), Plan(graph, 1000), Plan(graph, 1000, 2)
        assert [first.author(each) for each in numbers] == [same.author(each) for each in numbers]
        assert [first.author(each) for each in numbers] != [other.author(each) for each in numbers]
