"""A policy from a user's own file: what is taken, and what is said of a file that won't do."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from jedlik.core.config import GatewayConfig
from jedlik.core.errors import ConfigError
from jedlik.core.ids import RequestId, WorkerId
from jedlik.core.protocol import Capabilities, Card, Layout
from jedlik.routing.choose import decide
from jedlik.routing.policies.named import POLICIES
from jedlik.routing.policy import Ask, Offer
from jedlik.routing.view import Booking, WorkerView
from jedlik.serve.plugins import load, policies_of

CARD = Card(
    schema=1,
    worker=WorkerId("near@1"),
    name="near",
    model="m",
    revision="r",
    layout=Layout(dtype="float32", layers=1, kv_heads=1, head_dim=8, block_size=16),
    total_blocks=101,
    max_model_len=4000,
    max_sequences=8,
    max_step_tokens=100,
    vocab_size=1000,
    eos_token_ids=(2,),
    hash_check="",
    capabilities=Capabilities(),
)
WHOLE = """
from jedlik.routing.policy import Scored

class Emptiest(Scored):
    name = "emptiest"

    def score(self, offers, ask):
        return [{"context": offer.view.context_tokens} for offer in offers]
"""
BARE = """
class Bare:
    name, everyone = "bare", True
    def filter(self, offers, ask): return offers
    def score(self, offers, ask): return [{} for _ in offers]
    def pick(self, scored, ask): return scored[0]
    def unit(self, offers): return "nothing"

made = Bare()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mine.py"


def test_names_are_ours_and_fresh_each_time() -> None:
    assert load("lmetric").name == "lmetric"
    assert load("jedlik") is not load("jedlik")
    with pytest.raises(ConfigError, match="did you mean power_of_two"):
        load("power-of-two")


def test_a_file_with_one_policy_needs_no_name(file: Path) -> None:
    file.write_text(WHOLE)
    policy = load(str(file))
    assert (policy.name, policy.everyone, policy.unit([])) == ("emptiest", False, "s")
    assert load(f"{file}:Emptiest").name == "emptiest"


def test_any_object_with_the_members_will_do(file: Path) -> None:
    file.write_text(BARE)
    policy = load(f"{file}:made")
    assert (policy.name, policy.everyone, policy.unit([])) == ("bare", True, "nothing")
    with pytest.raises(ConfigError, match=r"mine\.py has Bare and made: say which, as in .*mine\.py:Bare"):
        load(str(file))


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("x = 1", "", r"mine\.py has no policy: it defines no class"),
        ("class Half:\n    name = 'half'\n    def score(self, offers, ask): return []", "",
         r"mine\.py has no policy: Half lacks everyone, filter, pick, unit"),
        ("class Half:\n    name = 'half'\n    def score(self, offers, ask): return []", ":Half",
         r"Half lacks everyone, filter, pick, unit; a subclass of jedlik\.routing\.policy\.Scored needs name and sc"),
        (WHOLE, ":Emptyest", r"mine\.py has no 'Emptyest': did you mean Emptiest\?"),
        (WHOLE.replace('"emptiest"', "7"), "", "the name of Emptiest must be a text"),
        (WHOLE + "    def __init__(self, size): pass", "", r"Emptiest\(\) failed: TypeError.*made without arguments"),
        ("\n\nclass Broken(:", "", r"mine\.py, line 3: SyntaxError"),
        ("\nimport nowhere_to_be_found", "", r"mine\.py, line 2: ModuleNotFoundError"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_with_its_place(file: Path, text: str, name: str, message: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load(f"{file}{name}")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"policy file .*no\.py is not there"):
        load(str(tmp_path / "no.py"))


def test_a_gateway_has_its_two_policies(file: Path) -> None:
    file.write_text(WHOLE)
    assert policies_of(GatewayConfig())[0].name == "jedlik"
    serving, shadow = policies_of(GatewayConfig(policy="dynamo", shadow_policy=str(file)))
    assert shadow is not None
    assert (serving.name, shadow.name) == ("dynamo", "emptiest")
    with pytest.raises(ConfigError, match="did you mean session"):
        policies_of(GatewayConfig(shadow_policy="sesion"))


def test_the_example_in_the_documentation_does_what_it_says(file: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "routing.md"
    file.write_text(page.read_text().partition("```python\n")[2].partition("```")[0])
    near, far = WorkerView(CARD), WorkerView(replace(CARD, worker=WorkerId("far@1")))
    far.book(Booking(150, 0))
    ask = Ask(request_id=RequestId("r"), choice=0, model="m", history_tokens=200, output_tokens=10)
    verdict = decide(load(str(file)), [Offer(view=near, cached_tokens=0), Offer(view=far, cached_tokens=60)], ask)
    assert {c.worker: c.parts for c in verdict.scored} == {
        "near@1": {"queued": 0.0, "prefill": 200.0},
        "far@1": {"queued": 150.0, "prefill": 140.0},
    }
    assert verdict.chosen is not None
    assert (verdict.chosen.worker, verdict.unit) == ("near@1", "tokens")


def test_the_documentation_has_every_policy() -> None:
    page = Path(__file__).parents[2] / "docs" / "routing.md"
    rows = [line.split("`")[1] for line in page.read_text().splitlines() if line.startswith("| `")]
    assert rows[: len(POLICIES)] == list(POLICIES)
