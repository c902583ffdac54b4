import torch

from limner.mllm.visual_tokens.places import grid_cells, quadtree_cells, squared_distances


def test_a_quadtrees_levels_cover_the_image_and_its_prefixes_spread_over_it():
    cells = quadtree_cells(85)
    for level, (start, end) in enumerate(((0, 1), (1, 5), (5, 21), (21, 85))):
        one = cells[start:end]
        assert (one[:, 2] == 1 / 2**level).all()
        assert {tuple(c) for c in one.tolist()} == {tuple(c) for c in grid_cells(2**level, 2**level).tolist()}
        for four in one[:, :2].split(4)[: len(one) // 4]:  # one in each quarter
            assert len((four > 0.5).unique(dim=0)) == min(4, len(one))
    assert torch.equal(quadtree_cells(7), cells[:7])


def test_distances_are_measured_in_the_larger_cell():
    cells = torch.tensor([[0.5, 0.5, 1.0], [0.25, 0.25, 0.5], [0.125, 0.875, 0.25]])
    expected = torch.tensor([[0, 0.125, 0.28125], [0.125, 0, 1.625], [0.28125, 1.625, 0]])
    torch.testing.assert_close(squared_distances(cells, cells), expected)
    assert grid_cells(1, 4).tolist() == [[0.5, 0.125, 1], [0.5, 0.375, 1], [0.5, 0.625, 1], [0.5, 0.875, 1]]
