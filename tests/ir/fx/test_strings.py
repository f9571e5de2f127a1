from __future__ import annotations

import copy

import numpy as np
import onnx
import onnx.reference
import onnx_ir
import pytest
import torch
from tersor.ir.errors import ModelError, UnsupportedError
from tersor.ir.fx import Interpreter, to_fx
from tersor.ir.fx.ops.regex import compiled
from tersor.ir.fx.ops.strings import cast, string_normalizer, string_split, unique
from tersor.ir.fx.ops.tfidf import tf_idf_vectorizer

HEADER = '<ir_version: 10, opset_import: ["" : 21, "ai.onnx.ml" : 4, "own" : 1]>'


def interpreter(text: str) -> Interpreter:
    return Interpreter(to_fx(onnx_ir.from_onnx_text(f"{HEADER}\n{text}")))


def words(*values: object) -> np.ndarray:
    return np.array(values, dtype=object)


WORDS = words(["ab", "c", "ä"], ["", "c", "d e"])


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("Transpose (x)", [["ab", ""], ["c", "c"], ["ä", "d e"]]),
        ("Reshape (x, n)", [["ab", "c"], ["ä", ""], ["c", "d e"]]),
        ("Gather <axis = 1> (x, one)", ["c", "c"]),
        ("Concat <axis = 0> (x, x)", [*WORDS.tolist(), *WORDS.tolist()]),
        ("Expand (x, n3)", [WORDS.tolist()] * 2),
        ("Tile (x, n2)", [row * 2 for row in WORDS.tolist()]),
        ("Where (c, x, x)", WORDS.tolist()),
        ("Pad (x, pads)", [["", *row] for row in WORDS.tolist()]),
        ("Compress <axis = 1> (x, c)", [["ab", "c"], ["", "c"]]),
        ("Slice (x, one1, two1)", [WORDS.tolist()[1]]),
        ("Squeeze (x)", WORDS.tolist()),
        ("Identity (x)", WORDS.tolist()),
    ],
)
def test_elements_move(call: str, expected: object) -> None:
    run = interpreter(f"""
    g (string[2, 3] x) => (string y) {{
        n = Constant <value_ints = [3, -1]> ()
        n2 = Constant <value_ints = [1, 2]> ()
        n3 = Constant <value_ints = [2, 1, 1]> ()
        one = Constant <value_int = 1> ()
        one1 = Constant <value_ints = [1]> ()
        two1 = Constant <value_ints = [2]> ()
        pads = Constant <value_ints = [0, 1, 0, 0]> ()
        c = Constant <value = bool[3] {{1, 1, 0}}> ()
        y = {call}
    }}
    """).run
    if call.startswith("Where"):
        run = interpreter("g (string[2, 3] x, bool[1] c) => (string y) { y = Where (c, x, x) }").run
        assert run({"x": WORDS, "c": np.array([True])})["y"].tolist() == expected
        return
    assert run({"x": WORDS})["y"].tolist() == expected


def test_parts_and_shapes() -> None:
    run = interpreter("""
    g (string[2, 3] x) => (string a, string b, int64[2] s, int64 n, string back) {
        sizes = Constant <value_ints = [1, 2]> ()
        a, b = Split <axis = 1> (x, sizes)
        s = Shape (b)
        n = Size (x)
        parts = SplitToSequence (x)
        back = ConcatFromSequence <axis = 0> (parts)
    }
    """).run
    found = run({"x": WORDS})
    assert found["b"].tolist() == [["c", "ä"], ["c", "d e"]]
    assert found["s"].tolist() == [2, 2]
    assert found["n"] == 6
    assert found["back"].tolist() == WORDS.tolist()


def test_constants_branches_loops_and_functions_carry_strings() -> None:
    run = interpreter("""
    g (string[N] x, bool c, int64 n) => (string y, string all) {
        k = Constant <value_string = "-"> ()
        y = If (c) <
            then_branch = t () => (string a) { a = own.twice (x) },
            else_branch = e () => (string b) { b = StringConcat (x, k) }
        >
        yes = Constant <value = bool {1}> ()
        last, all = Loop (n, yes, y) <
            body = b (int64 i, bool d, string[N] old) => (e, new, row) {
                new = StringConcat (old, k)
                row = Identity (new)
                e = Identity (d)
            }
        >
    }
    <domain: "own", opset_import: ["" : 21]>
    twice (p) => (q) { h = Transpose (p)  j = Squeeze (h)  q = StringConcat (p, j) }
    """).run
    x = words("a", "b")
    assert run({"x": x, "c": np.array(True), "n": np.array(2)})["y"].tolist() == ["aa", "bb"]
    found = run({"x": x, "c": np.array(False), "n": np.array(2)})
    assert found["all"].tolist() == [["a--", "b--"], ["a---", "b---"]]


def test_bytes_and_unicode_arrays_are_fed_too() -> None:
    run = interpreter("g (string[N] x, string[N] y) => (bool[N] same) { same = Equal (x, y) }").run
    assert run({"x": np.array(["ä", "b"]), "y": words("ä".encode(), "c")})["same"].tolist() == [True, False]


def test_an_op_without_strings_is_refused_where_it_stands() -> None:
    model = onnx_ir.from_onnx_text(f"{HEADER} g (string[N] x) => (string[N] y) {{ y = Relu (x) }}")
    with pytest.raises(UnsupportedError, match=r"Relu\{strings\} \(opset 21\)  at y"):
        to_fx(model)


def test_an_op_that_is_found_to_get_strings_only_in_a_function_is_refused_too() -> None:
    text = """
    g (string[N] x) => (y) { y = own.f (x) }
    <domain: "own", opset_import: ["" : 21]>
    f (a) => (b) { c = Identity (a)  b = Relu (c) }
    """
    with pytest.raises(UnsupportedError, match="Relu has no lowering for strings, only for numbers"):
        interpreter(text)


def test_taps_pass_over_strings() -> None:
    seen: list[str] = []
    run = interpreter("g (string[N] x) => (bool[N] z) { y = Identity (x)  z = Equal (x, y) }").run
    run({"x": words("a")}, taps=lambda name, _: seen.append(name))
    assert seen == ["z"]


def test_a_module_with_strings_can_be_copied() -> None:
    module = interpreter("""
    g (string[2, 3] x) => (string[?, ?] y) { t = Transpose (x)  k = Constant <value_string = "!"> ()
        y = StringConcat (t, k) }
    """).module
    assert copy.deepcopy(module)(WORDS).tolist() == (WORDS.T + "!").tolist()


def test_casts() -> None:
    run = interpreter("""
    g (string[3] x) => (float[3] f, int32[3] i, string[3] s, double d, bool[3] b) {
        f = Cast <to = 1> (x)
        i = Cast <to = 6> (x)
        s = Cast <to = 8> (f)
        text = Constant <value_string = "-Infinity"> ()
        d = Cast <to = 11> (text)
        b = Cast <to = 9> (x)
    }
    """).run
    found = run({"x": words("1.5", "-0", "1e3")})
    assert found["f"].tolist() == [1.5, 0, 1000]
    assert found["i"].tolist() == [1, 0, 1000]
    assert found["i"].dtype == np.int32
    assert found["s"].tolist() == ["1.5", "-0.0", "1000.0"]
    assert found["d"] == -np.inf
    assert found["b"].tolist() == [True, False, True]
    with pytest.raises(ModelError, match="could not convert string to float: 'x'"):
        run({"x": words("1", "2", "x")})


def test_numbers_read_back_as_they_were_written() -> None:
    x = torch.randn(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(cast(cast(x, to=8), to=1), x)  # type: ignore[arg-type]
    assert cast(torch.tensor([True, False]), to=8).tolist() == ["1", "0"]
    assert cast(torch.tensor([1.5], dtype=torch.bfloat16), to=8).tolist() == ["1.5"]


@pytest.mark.parametrize("sorted_", [0, 1])
@pytest.mark.parametrize("axis", [None, 0, 1])
def test_unique(axis: int | None, sorted_: int) -> None:
    x = words(["b", "a", "b"], ["c", "a", "c"], ["b", "a", "b"])
    values, first, inverse, counts = unique(x, axis=axis, sorted=sorted_, outputs=4)
    numbers = {"a": 0, "b": 1, "c": 2}
    codes = np.vectorize(numbers.get)(x)
    plain = np.unique(codes, axis=axis, return_index=True, return_counts=True)
    order = np.argsort(plain[1]) if not sorted_ else np.arange(len(plain[1]))
    assert np.vectorize(numbers.get)(values).tolist() == np.take(plain[0], order, axis or 0).tolist()
    assert first.tolist() == plain[1][order].tolist()
    assert counts.tolist() == plain[2][order].tolist()
    rebuilt = np.take(values, inverse.numpy(), axis or 0)
    assert rebuilt.reshape(x.shape).tolist() == x.tolist()


def test_split_counts_parts() -> None:
    parts, counts = string_split(words(["a,b", ""], ["x,y,z", ",q"]), delimiter=",", maxsplit=1, outputs=2)
    assert parts.tolist() == [[["a", "b"], ["", ""]], [["x", "y,z"], ["", "q"]]]
    assert counts.tolist() == [[2, 1], [2, 2]]
    assert string_split(words("  a  b "), outputs=1).tolist() == [["a", "b"]]  # type: ignore[union-attr]


def test_normalizer_drops_stop_words_then_changes_case() -> None:
    x = words("The", "the", "Cat", "")
    assert string_normalizer(x, stopwords=("the",)).tolist() == ["Cat", ""]
    assert string_normalizer(x, stopwords=("the",), is_case_sensitive=1).tolist() == ["The", "Cat", ""]
    kept = string_normalizer(x.reshape(1, -1), stopwords=("the", ""), case_change_action="UPPER", locale="en_US")
    assert kept.tolist() == [["CAT"]]
    assert string_normalizer(x[:2], stopwords=("the",)).tolist() == [""]
    with pytest.raises(ValueError, match=r"the shape is \[2, 2\]; expected \[C\] or \[1, C\]"):
        string_normalizer(x.reshape(2, 2))
    with pytest.raises(ValueError, match="case_change_action is 'TITLE'; ONNX has NONE, LOWER, UPPER"):
        string_normalizer(x, case_change_action="TITLE")


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        (r"\d+", ["12"], ["٣", "1a"]),
        (r"[[:alpha:]\d]+", ["a1"], ["-", "ä"]),
        (r"[^\s]+", ["a\v"], ["a b"]),
        (r"\Qa.b\E+", ["a.bb"], ["axb"]),
        (r"(?i)straße|(?P<n>x)", ["STRAßE", "x"], ["y"]),
        (r"(?i:a)b", ["Ab"], ["AB"]),
        (r"a$", ["a"], ["a\n"]),
        (r"\x{41}\z", ["A"], ["B"]),
        (r"(?s).*", ["a\nb"], []),
        (r".*", ["ab"], ["a\nb"]),
        (r"(?U)a+", ["aaa"], ["b"]),
        (r"(?m)a$\n^b", ["a\nb"], ["ab"]),
        (r"[]a-c&&]+", ["]b&"], ["d"]),
        (r"\w{2,3}", ["ab", "abc"], ["a", "äb"]),
        (r"\ba\b", ["a"], ["b"]),
    ],
)
def test_patterns_mean_what_re2_means(pattern: str, yes: list[str], no: list[str]) -> None:
    matches = compiled(pattern).fullmatch
    assert [text for text in yes if not matches(text)] == []
    assert [text for text in no if matches(text)] == []


@pytest.mark.parametrize(
    "pattern", [r"(?=a)a", r"(a)\1", r"a++", r"(?>a)", r"(?x)a b", r"\pL", r"[\W]", r"(?P=n)", "("]
)
def test_patterns_that_are_not_re2_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="the pattern"):
        compiled(pattern)


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("skips", [0, 1, 3])
@pytest.mark.parametrize(("least", "most"), [(1, 1), (1, 3), (2, 2), (2, 3)])
@pytest.mark.parametrize("texts", [False, True])
def test_n_grams_are_counted_as_the_reference_counts(mode: str, skips: int, least: int, most: int, texts: bool) -> None:
    rng = np.random.default_rng(0)
    pairs = [(a, b) for a in range(4) for b in range(4)][:7]
    pool = [0, 3, 5, *[token for pair in pairs for token in pair], 1, 2, 1, 0, 0, 3]
    x = rng.integers(0, 6, (3, 12))
    columns = [9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11]
    attributes = {
        "mode": mode,
        "max_skip_count": skips,
        "min_gram_length": least,
        "max_gram_length": most,
        "ngram_counts": [0, 3, 17],
        "ngram_indexes": columns,
        "weights": [0.5 + i for i in range(12)],
        ("pool_strings" if texts else "pool_int64s"): [f"w{token}" for token in pool] if texts else pool,
    }
    given = np.vectorize(lambda token: f"w{token}")(x).astype(object) if texts else x
    node = onnx.helper.make_node("TfIdfVectorizer", ["x"], ["y"], **attributes)
    (wanted,) = onnx.reference.ReferenceEvaluator(node).run(None, {"x": given})
    tuples = {name: tuple(value) if isinstance(value, list) else value for name, value in attributes.items()}
    found = tf_idf_vectorizer(given if texts else torch.from_numpy(x), **tuples)  # type: ignore[arg-type]
    np.testing.assert_allclose(found.numpy(), wanted)
    row = tf_idf_vectorizer(given[0] if texts else torch.from_numpy(x[0]), **tuples)  # type: ignore[arg-type]
    np.testing.assert_allclose(row.numpy(), wanted[0])
