"""scripts/adapters: benchmarks' scores against scikit-learn's and SciPy's values, their files, both ways to score."""

import importlib
import json

import pytest
import torch
from test_adapter_pipelines import FAST, beside, llama, reported, roberta, run  # noqa: F401

transformers = pytest.importorskip("transformers", reason="transformers is absent; pip install 'sinefield[adapters]'")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


@pytest.fixture
def scores():
    return importlib.import_module("scores")


@pytest.fixture
def benchmarks():
    return importlib.import_module("benchmarks")


def test_scores_of_classes_are_scikit_learns(scores):
    """matthews_corrcoef and f1_score of scikit-learn 1.9."""
    truth, found = [0, 1, 1, 0, 1, 1, 0, 1, 0, 1], [0, 1, 0, 0, 1, 1, 1, 1, 0, 0]
    assert scores.accuracy(found, truth) == 0.7
    assert scores.matthews(found, truth) == pytest.approx(0.408248290463863)
    assert scores.f1(found, truth) == pytest.approx(8 / 11)
    truth, found = [0, 1, 2, 2, 1, 0, 2, 1, 0, 2], [0, 2, 2, 2, 1, 0, 1, 1, 1, 2]
    assert scores.matthews(found, truth) == pytest.approx(0.5539117094069973)
    assert scores.matthews([1, 1, 1], [1, 1, 0]) == 0 and scores.f1([0, 0], [0, 0]) == 0


def test_correlations_are_scipys(scores):
    stats = pytest.importorskip("scipy.stats")
    x, y = [1.5, 2.0, 2.0, 3.7, -1.0, 0.4, 2.0], [1.0, 3.0, 2.0, 5.0, 0.0, 0.0, 1.0]
    assert scores.pearson(x, y) == pytest.approx(float(stats.pearsonr(x, y)[0]), rel=1e-12)
    assert scores.spearman(x, y) == pytest.approx(float(stats.spearmanr(x, y)[0]), rel=1e-12)
    assert scores.pearson([1, 1], [1, 2]) == 0


def test_the_likeliest_for_its_length(scores):
    assert scores.likeliest([[-4.0, -5.0], [-4.0, -5.0]], [[1, 1], [2, 4]]) == [0, 1]


def test_files_of_glue(benchmarks, tmp_path):
    glue, rows = benchmarks.GLUE, benchmarks.glue_rows
    (tmp_path / "dev.tsv").write_text('gj04\t1\t\tThe "sailors rode.\ngj04\t0\t*\tHe laughed us.\n')
    assert rows(tmp_path / "dev.tsv", glue["cola"]) == [
        {"text": 'The "sailors rode.', "text_pair": None, "label": "1"},
        {"text": "He laughed us.", "text_pair": None, "label": "0"},
    ]
    (tmp_path / "dev.tsv").write_text("Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n1\t7\t8\tone\ttwo\r\n")
    assert rows(tmp_path / "dev.tsv", glue["mrpc"]) == [{"text": "one", "text_pair": "two", "label": "1"}]
    (tmp_path / "dev.jsonl").write_text(
        '{"premise": "a", "hypothesis": "b", "label": 2}\n{"premise": "a", "hypothesis": "c", "label": -1}\n'
    )
    assert rows(tmp_path / "dev.jsonl", glue["mnli"]) == [{"text": "a", "text_pair": "b", "label": "2"}]
    with pytest.raises(benchmarks.SinefieldError, match="row 1 has no sentence1"):
        rows(tmp_path / "dev.jsonl", glue["rte"])
    with pytest.raises(benchmarks.SinefieldError, match=r"holds no train, as \.tsv or \.jsonl"):
        benchmarks.file_of(tmp_path, ("train",))


ROWS = {
    "piqa": ({"goal": "g", "sol1": "a", "sol2": "b", "label": 1}, ("Question: g\nAnswer:", (" a", " b"), 1)),
    "hellaswag": ({"ctx": "c", "endings": ["x", "y"], "label": "1"}, ("c", (" x", " y"), 1)),
    "winogrande": (
        {"sentence": "The _ fell.", "option1": "cup", "option2": "pan", "answer": "2"},
        ("The", (" cup fell.", " pan fell."), 1),
    ),
    "arc_easy": (
        {"question": "q", "choices": {"text": ["a", "b"], "label": ["1", "2"]}, "answerKey": "2"},
        ("Question: q\nAnswer:", (" a", " b"), 1),
    ),
    "arc_challenge": (
        {
            "question": {"stem": "q", "choices": [{"text": "a", "label": "A"}, {"text": "b", "label": "B"}]},
            "answerKey": "A",
        },
        ("Question: q\nAnswer:", (" a", " b"), 0),
    ),
    "openbookqa": (
        {"question_stem": "q", "choices": {"text": ["a", "b"], "label": ["A", "B"]}, "answerKey": "B"},
        ("Question: q\nAnswer:", (" a", " b"), 1),
    ),
    "boolq": (
        {"passage": "p", "question": "is it", "answer": True},
        ("p\nQuestion: is it?\nAnswer:", (" no", " yes"), 1),
    ),
    "siqa": (
        {"context": "c", "question": "q", "answerA": "a", "answerB": "b", "answerC": "d", "label": "3"},
        ("c\nQuestion: q\nAnswer:", (" a", " b", " d"), 2),
    ),
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_multiple_choice(benchmarks, name, tmp_path):
    row, (prompt, answers, right) = ROWS[name]
    path = tmp_path / "dev.jsonl"
    path.write_text(json.dumps(row))
    read = benchmarks.CHOICES[name]
    assert benchmarks.questions(path, read) == [benchmarks.Question(prompt, answers, right)]
    path.write_text(json.dumps({"nothing": 1}))
    with pytest.raises(benchmarks.SinefieldError, match="row 1 cannot be read"):
        benchmarks.questions(path, read)


def test_labels_in_a_file_beside(benchmarks, tmp_path):
    (tmp_path / "train.jsonl").write_text("\n".join(json.dumps({"goal": g, "sol1": "a", "sol2": "b"}) for g in "xy"))
    (tmp_path / "train-labels.lst").write_text("1\n0\n")
    found = benchmarks.questions(tmp_path / "train.jsonl", benchmarks.CHOICES["piqa"])
    assert [q.right for q in found] == [1, 0]
    (tmp_path / "train-labels.lst").write_text("1\n")
    with pytest.raises(benchmarks.SinefieldError, match=r"has 1 labels, train\.jsonl 2 rows"):
        benchmarks.questions(tmp_path / "train.jsonl", benchmarks.CHOICES["piqa"])


@pytest.mark.parametrize("name", ["cola", "stsb"])
def test_glue(roberta, tmp_path, capsys, name):  # noqa: F811
    """Words of a's, or as alike as they share letters."""
    folder = tmp_path / "data"
    folder.mkdir()
    for stem, count in (("train", 60), ("dev", 12)):
        generator = torch.Generator().manual_seed(count)
        lines = ["index\tsentence1\tsentence2\tscore"] if name == "stsb" else []
        for i in range(count):
            share = int(torch.randint(0, 6, (1,), generator=generator))
            word = "a" * share + "z" * (5 - share)
            lines.append(f"{i}\t{word}\tzzzzz\t{share}" if name == "stsb" else f"s\t{int(share > 2)}\t\t{word}")
        (folder / f"{stem}.tsv").write_text("\n".join(lines) + "\n")
    arguments = ["glue", name, "--model", roberta, "--data", folder, "--out", tmp_path / "out", *FAST, "--bits", 6]
    report = reported("benchmarks", arguments, capsys)
    assert report["packed"] > 0.7 and report["train"] == 60 and report["test"] == 12
    assert set(report["scores"]) == ({"pearson", "spearman"} if name == "stsb" else {"matthews"})
    assert sum(report["scores"].values()) / len(report["scores"]) == pytest.approx(report["packed"])


def test_choices(llama, tmp_path, capsys, benchmarks):  # noqa: F811
    """The right answer is the one that repeats the question; likelihoods against one sentence at a time."""
    folder = tmp_path / "data"
    folder.mkdir()
    for stem, letters in (("train", "abcdefgh"), ("validation", "abcd")):
        rows = [{"goal": a, "sol1": "no " + b, "sol2": "yes", "label": 1} for a in letters for b in "xyz"]
        (folder / f"{stem}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["choices", "piqa", "--model", llama, "--data", folder, "--out", tmp_path / "out"]
    report = reported("benchmarks", [*arguments, *FAST, "--kind", "lora", "--bits", 6], capsys)
    assert report["packed"] == 1.0 and report["test"] == 12 and report["per"] == "character"
    options = importlib.import_module("argparse").Namespace(
        **{"data": folder, "name": "piqa", "model": str(llama), "dtype": "float32", "device": "cpu", "length": 64},
        **{"batch": 5, "seed": 0, "targets": ["q_proj"], "per": "token"},
    )
    task = benchmarks.choices(options)
    tokenizer = transformers.AutoTokenizer.from_pretrained(llama)
    right = 0
    with torch.no_grad():
        for question in benchmarks.questions(folder / "validation.jsonl", benchmarks.CHOICES["piqa"]):
            means = []
            for answer in question.answers:
                prompt = tokenizer(question.prompt)["input_ids"][:-1]  # without its end
                tokens = tokenizer(answer, add_special_tokens=False)["input_ids"]
                logits = task.model(torch.tensor([prompt + tokens])).logits[0].log_softmax(-1)
                means.append(sum(float(logits[len(prompt) - 1 + i, t]) for i, t in enumerate(tokens)) / len(tokens))
            right += means.index(max(means)) == question.right
        assert task.score() == right / 12
