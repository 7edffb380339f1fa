"""No loader of the packages can be made to run what a file says."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Unpickle reports between the processes of one run; and in a test for plug-ins, what it pickled itself.
PICKLES = {
    "pipelines/viewgen_pipelines/executors/ray.py",
    "viewgen/testing/entries.py",
    "viewgen/testing/storage.py",
}
UNPICKLING = {"pickle.load", "pickle.loads", "pickle.Unpickler", "Unpickler"}
# function → the argument, and its value, with which it is safe
SAFE_WITH = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}
# what a file has that is worth parsing
SUSPECT = re.compile(r"\.load|loads|pickle|eval\(|exec\(|extractall|unpack_archive|weights_only")
NEVER = {
    *("eval", "exec", "marshal.loads", "joblib.load", "torch.jit.load", "torch.hub.load"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "shutil.unpack_archive"),
}


def unsafe_calls(text: str, *, pickles: bool = False) -> list[str]:
    """Return the calls in a file that can run code of what they load, or write where an archive says."""
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and is_unsafe(node, pickles=pickles)
    ]


def is_unsafe(call: ast.Call, *, pickles: bool) -> bool:
    name = ast.unparse(call.func)
    given = {word.arg: word.value.value for word in call.keywords if isinstance(word.value, ast.Constant)}
    if given.get("weights_only") is False or given.get("allow_pickle") is True:
        return True
    if name in SAFE_WITH:
        argument, value = SAFE_WITH[name]
        return given.get(argument) is not value
    return name in NEVER or name.endswith(".extractall") or (name in UNPICKLING and not pickles)


def test_no_loader_runs_what_it_loads():
    roots = ("viewgen", "pipelines", "train", "pretrained")
    texts = {
        path.relative_to(ROOT).as_posix(): path.read_text("utf-8")
        for root in roots
        for path in (ROOT / root).rglob("*.py")
    }
    assert len(texts) > 100
    suspects = {name: text for name, text in texts.items() if SUSPECT.search(text)}
    assert len(suspects) > 10
    found = {name: unsafe_calls(text, pickles=name in PICKLES) for name, text in suspects.items()}
    assert {name: calls for name, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "pickle.loads(data)",
        "yaml.load(text)",
        "archive.extractall(folder)",
        "eval(text)",
    ],
)
def test_what_would_be_found(line):
    assert SUSPECT.search(line)
    assert unsafe_calls(line) == [line]
    assert unsafe_calls("torch.load(path, weights_only=True); np.load(path, allow_pickle=False)") == []
