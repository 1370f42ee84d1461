import pytest
import torch

from geossl.models.layers.mae_decoder import DecoderShape, MAEDecoder
from geossl.models.layers.patches import sincos_positions


def test_the_decoder_puts_tokens_back_where_they_came_from():
    torch.manual_seed(0)
    decoder, days = MAEDecoder(8, 5, DecoderShape(32, 0, 1), time="doy"), torch.tensor([[10.0, 200.0]])
    ids = torch.tensor([[17, 3, 30, 4]])
    tokens = torch.randn(1, 4, 8)
    found = decoder(tokens, ids, (4, 4), days)
    where = (sincos_positions(4, 4, 32) + decoder.time(days)[0, :, None]).flatten(0, 1)
    for number in range(32):
        mine = (ids[0] == number).nonzero()
        token = decoder.project(tokens[0, mine[0, 0]]) if len(mine) else decoder.mask_token
        torch.testing.assert_close(found[0, number], decoder.to_pixels(decoder.norm(token + where[number])))


def test_days_of_a_decoder_without_time_change_nothing():
    torch.manual_seed(0)
    decoder = MAEDecoder(8, 5, DecoderShape(32, 1, 2))
    tokens, ids = torch.randn(2, 3, 8), torch.tensor([[1, 0, 3], [2, 3, 0]])
    assert torch.equal(decoder(tokens, ids, (2, 2)), decoder(tokens, ids, (2, 2), torch.tensor([[7.0], [9.0]])))


@pytest.mark.parametrize(("style", "biased", "eps"), [("mae", True, 1e-6), ("croma", False, 1e-5)])
def test_a_style_sets_projection_biases_and_norms(style, biased, eps):
    decoder = MAEDecoder(8, 5, DecoderShape(32, 1, 2), style=style)
    (block,) = decoder.blocks
    assert (block.attention.to_qkv.bias is not None) == biased
    assert {m.eps for m in decoder.modules() if isinstance(m, torch.nn.LayerNorm)} == {eps}
