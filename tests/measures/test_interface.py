"""Which measures a study has."""

from deltageom.measures import interface


def test_a_measure_is_left_out_by_null_alone() -> None:
    everything = interface.load_all()
    assert list(interface.chosen({"geometry": {}, "cka": {}, "connectivity": {}})) == list(everything)
    assert list(interface.chosen({})) == list(everything)  # a measure of one's own has no key
    off = dict.fromkeys(("gradients", "behaviour"))
    assert list(interface.chosen(off)) == [name for name in everything if name not in off]
    assert "cka" not in interface.chosen({"cka": None})
