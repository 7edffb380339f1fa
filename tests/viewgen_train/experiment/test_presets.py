"""What the shipped experiments ask after."""

from viewgen_train.experiment.document import load_document


def test_encoders_of_different_losses_are_compared_by_one():
    """A loss of IFM or of hard negatives is another function than InfoNCE's; I_NCE is ln K − that of all."""
    for name in ("ifm-difficulty", "ifm-digits"):
        assert "loss" not in {pair.x for pair in load_document(name).scatter}
        assert "i_nce" in {pair.x for pair in load_document(name).scatter}


def test_the_first_measure_of_the_table_is_asked_after():
    document = load_document("richer-augmentations", dataset="trifeature:32?renderings=6")
    assert {one.measure for one in document.questions} == {"top1[shape]"}
    assert {pair.y for pair in document.scatter} == {"top1[shape]"}
    assert {one.measure for one in load_document("losses").questions} == {"top1"}
