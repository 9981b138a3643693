"""Which measures a study has."""

from deltageom.measures import interface


def test_a_measure_is_left_out_by_null_alone() -> None:
    everything = interface.load_all()
    assert list(interface.chosen({"geometry": {}, "cka": {}, "connectivity": {}})) == list(everything)
    assert list(interface.chosen({})) == list(everything)  # a measure of one's own has no key
    off = dict.fromkeys(("gradients", "behaviour"))
    assert list(interface.chosen(off)) == [name for name in everything if name not in off]
    assert "cka" not in interface.chosen({"cka": None})


def test_an_option_of_another_measure_turns_one_on() -> None:
    paths = {"points": 3}
    assert "held_out_from_base" not in interface.chosen({"held_out_paths": None})
    assert "held_out_from_base" not in interface.chosen({"held_out_paths": paths})
    found = interface.chosen({"held_out_paths": paths | {"from_base": True}})
    assert {"held_out_paths", "held_out_from_base"} <= found.keys()
    assert "held_out_accuracy" not in found
