"""Where a worker is started."""

from hypothesis import given
from hypothesis import strategies as st

from jedlik.core.config import Role
from jedlik.core.plans import ROLES, Place
from jedlik.fleet.placement import Board, choose


def at(*path: str, role: Role | None = None) -> Place:
    return Place(name="/".join(path), path=path, role=role)


NODE = [at("r0", host, device) for host in ("h0", "h1") for device in ("0", "1")]
WIDE = [*NODE, at("r1", "h2", "0")]


def fill(places: list[Place], roles: list[Role]) -> list[str]:
    """The names of the places chosen, one after the other."""
    taken: list[tuple[Place, Role]] = []
    for role in roles:
        place = choose([place for place in places if place not in [one for one, _ in taken]], role, taken)
        assert place is not None
        taken.append((place, role))
    return [place.name for place, _ in taken]


def test_workers_alike_are_as_far_apart_as_can_be() -> None:
    assert fill(WIDE, ["both"] * 5) == ["r0/h0/0", "r1/h2/0", "r0/h1/0", "r0/h0/1", "r0/h1/1"]


def test_hand_off_partners_are_near_each_other_and_pairs_apart() -> None:
    assert fill(NODE, ["prefill", "decode", "prefill", "decode"]) == ["r0/h0/0", "r0/h0/1", "r0/h1/0", "r0/h1/1"]


def test_what_is_meant_for_a_role_comes_first_and_what_is_meant_for_another_last() -> None:
    places = [at("h0", "0", role="decode"), at("h1", "0"), at("h2", "0", role="prefill")]
    assert fill(places, ["prefill"] * 3) == ["h2/0", "h1/0", "h0/0"]
    assert fill(places, ["both"] * 3) == ["h1/0", "h0/0", "h2/0"]


def test_equal_places_are_taken_in_the_order_given() -> None:
    places = [Place(name=name) for name in ("b", "a", "c")]
    assert fill(places, ["both", "decode", "prefill"]) == ["b", "a", "c"]
    assert choose([], "both", []) is None


@given(
    st.lists(st.tuples(st.sampled_from("rq"), st.sampled_from("gh"), st.sampled_from("01")), unique=True),
    st.lists(st.sampled_from(ROLES), max_size=8),
)
def test_one_board_for_many_chooses_as_one_for_each(paths: list[tuple[str, str, str]], roles: list[Role]) -> None:
    places = [at(*path) for path in paths]
    board = Board(places, [])
    chosen = []
    for role in roles[: len(places)]:
        place = board.choose(role)
        assert place is not None
        board.take(place, role)
        chosen.append(place.name)
    assert chosen == fill(places, roles[: len(places)])


@given(st.lists(st.sampled_from(ROLES), max_size=4), st.permutations(WIDE))
def test_any_order_of_starts_finds_room(roles: list[Role], places: list[Place]) -> None:
    assert len(set(fill(places, roles))) == len(roles)
